# SPDX-License-Identifier: Apache-2.0
"""Puts two thin layers in the place of one: the second keeps the node, its bias and the names of its outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._constants import remove_if_unread
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import WeightedNode

Matrix = NDArray[np.float64]


def factor(site: WeightedNode, first: Matrix, second: Matrix, store: InitializerStore) -> None:
    """Lets the node multiply by `first` and then by `second`.

    Args:
        site: a MatMul with its weights on the right, a Gemm, or a Conv of one group.
        first: float64 [K, rank].
        second: float64 [rank, N].
        store: of the graph.
    """
    node, weight = site.node, site.weight
    name, dtype, stored = str(weight.root.name), weight.dtype.numpy(), ir.DataType(weight.tensor.dtype)
    thin = store.add_cast(f"{name}_first", _stored(site, first / site.alpha).astype(dtype), stored, node)
    wide = store.add_cast(f"{name}_second", _stored(site, second, pointwise=True).astype(dtype), stored, node)
    operator = "Conv" if site.stored == "conv" else "Gemm" if site.stored == "nk" else "MatMul"
    added = ir.node(operator, [site.data, thin], name=f"{site.label}_first")
    output = added.outputs[0]
    output.name, output.type = f"{node.outputs[0].name}_first", ir.TensorType(weight.dtype)
    if site.stored == "nk":
        added.attributes.add(ir.AttrInt64("transB", 1))
    if site.geometry is not None:
        _move_geometry(node, added)
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, added)
    node.replace_input_with(0, output)
    node.replace_input_with(1, wide)
    remove_if_unread(weight)


def _stored(site: WeightedNode, matrix: Matrix, pointwise: bool = False) -> NDArray[np.float64]:
    """A matrix in the form of the node's weights."""
    if site.stored != "conv":
        return np.ascontiguousarray(matrix if site.stored == "kn" else matrix.T)
    kernel = (1,) * len(site.weight.shape[2:]) if pointwise else site.weight.shape[2:]
    spread = matrix.reshape((*kernel, -1, matrix.shape[1]))
    return np.ascontiguousarray(np.moveaxis(spread, (-1, -2), (0, 1)))


def _move_geometry(node: ir.Node, added: ir.Node) -> None:
    """The first convolution takes over kernel, strides, pads and dilations; the second sees one position."""
    rank = len(node.attributes["kernel_shape"].as_ints()) if "kernel_shape" in node.attributes else None
    for name in ("auto_pad", "dilations", "kernel_shape", "pads", "strides"):
        if name in node.attributes:
            added.attributes.add(node.attributes.pop(name))
    if rank is not None:
        node.attributes.add(ir.AttrInt64s("kernel_shape", [1] * rank))
