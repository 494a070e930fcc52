# SPDX-License-Identifier: Apache-2.0
"""Sparse tensors become dense ones, which is what ONNX Runtime makes of them too; onnx_ir has only dense ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, numpy_helper

from edgefold.errors import ModelError
from edgefold.files.quoting import quoted
from edgefold.files.wellformed import node_name, subgraphs


def make_dense(model: ModelProto, folder: Path) -> int:
    """Replace the sparse initializers and Constant values of a model, in place.

    Args:
        model: a model that :mod:`edgefold.files.safety` accepted.
        folder: the folder of the model file, for external data.

    Returns:
        How many tensors were sparse.

    Raises:
        ModelError: indices that are malformed or out of range, or a sparse attribute other than of a Constant.
    """
    count = 0
    for graph in _graphs(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, folder))
            count += 1
        del graph.sparse_initializer[:]
        count += sum(_constant_made_dense(node, folder) for node in graph.node)
    for function in model.functions:
        for node in function.node:
            count += _constant_made_dense(node, folder)
            for branch in subgraphs(node):
                count += sum(_constant_made_dense(inner, folder) for graph in _graphs(branch) for inner in graph.node)
    return count


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for branch in subgraphs(node):
            yield from _graphs(branch)


def _constant_made_dense(node: NodeProto, folder: Path) -> bool:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") and (node.op_type, attribute.name) == ("Constant", "sparse_value"):
            tensor = _dense(attribute.sparse_tensor, folder)
            attribute.Clear()
            attribute.name, attribute.type = "value", attribute.TENSOR
            attribute.t.CopyFrom(tensor)
            return True
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ModelError(f"{node_name(node)}: the sparse attribute {quoted(attribute.name)} is not supported")
    return False


def _dense(sparse: SparseTensorProto, folder: Path) -> TensorProto:
    name = sparse.values.name
    values = numpy_helper.to_array(sparse.values, str(folder))
    indices = numpy_helper.to_array(sparse.indices, str(folder))
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    # Either positions in the flattened tensor, or one row of coordinates for each value.
    if indices.ndim == 1:
        places, bounds = indices[:, None], np.array([dense.size])
    else:
        places, bounds = indices, np.array(shape)
    if places.shape != (values.size, bounds.size):
        raise ModelError(f"sparse tensor {quoted(name)}: {values.shape} values do not fit indices of {indices.shape}")
    if np.any((places < 0) | (places >= bounds)):
        raise ModelError(f"sparse tensor {quoted(name)}: an index lies outside of {list(shape)}")
    target = dense.reshape(-1) if indices.ndim == 1 else dense
    target[tuple(places.T)] = values.reshape(-1)
    return numpy_helper.from_array(dense, name)
