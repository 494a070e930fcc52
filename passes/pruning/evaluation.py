# SPDX-License-Identifier: Apache-2.0
"""What is known of a node's outputs before it runs: element types, and what constants give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

Array = npt.NDArray[Any]


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Runs a deterministic node of the standard domain.

    Args:
        node: not changed.
        inputs: one array an input of the node; None where the node leaves an optional input out.
        opset: version of the standard domain, 1 to the newest that onnx knows.
    """
    feeds = {str(value.name): array for value, array in zip(node.inputs, inputs, strict=True) if value is not None}
    graph = onnx.GraphProto(
        name=node.name or node.op_type,
        node=[ir.to_proto(node)],
        input=[onnx.ValueInfoProto(name=name) for name in feeds],
        output=[onnx.ValueInfoProto(name=value.name) for value in node.outputs],
    )
    return list(ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds))


def element_types(model: ir.Model) -> dict[str, ir.DataType]:
    """The element types of the outputs of all nodes, as far as they can be inferred; the model is not changed."""
    copy = model.clone()
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(copy)
    for node in copy.graph.all_nodes():
        _types_by_schema(node, copy.graph.opset_imports.get(node.domain, 1))
    values = (value for node in copy.graph.all_nodes() for value in node.outputs)
    return {str(value.name): value.dtype for value in values if value.dtype is not None}


def _types_by_schema(node: ir.Node, opset: int) -> None:
    """Gives outputs the type of the input that the operator ties them to: onnx infers nothing after some operators."""
    if all(value.dtype is not None for value in node.outputs) or not onnx.defs.has(node.op_type, node.domain):
        return
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    known = {
        formal.type_str: value.dtype
        for formal, value in zip(schema.inputs, node.inputs, strict=False)
        if value is not None and value.dtype is not None
    }
    for formal, value in zip(schema.outputs, node.outputs, strict=False):
        if value.dtype is None and formal.type_str in known:
            value.dtype = known[formal.type_str]


def store_output(graph: ir.Graph, output: ir.Value, array: Array) -> None:
    """Put an initializer of the same name in the place of a node's output, whose node has no readers any more."""
    tensor = ir.tensor(array, name=output.name)
    value = ir.Value(
        name=output.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    output.name = f"{output.name}:stored"  # two values of one name must not meet, even for a moment
    output.replace_all_uses_with(value)
    graph.register_initializer(value)
