# SPDX-License-Identifier: Apache-2.0
"""Shapes of every tensor of a model for given input shapes, inferred without reading a single weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import inliner, shape_inference

from edgefold.errors import ModelError
from edgefold.measuring.packed_weights import EDGEFOLD, packed_weights
from edgefold.measuring.shape_arithmetic import infer_with_arithmetic
from edgefold.measuring.unfused import unfused

# Smaller tensors may be shapes, axes or sizes, whose values inference needs.
_SMALL_ELEMENTS = 1024
_PACKED = ("ShiftMatMul", "MatMulNBits", "ShiftGather", "ShiftConv", "FloatConv")


def inferred_skeleton(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model as a protobuf without weights, in standard operators, functions inlined, shapes inferred.

    Packed operators stand as the MatMul, Gather or Conv that they compute, with the weight of its full shape.

    Args:
        model: not changed, and none of its tensors is read but small ones.
        shapes: shape of each input; those left out keep what the model declares.

    Raises:
        ModelError: the graph contradicts the shapes.
    """
    copy = unfused(model).clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _hollow(value.const_value, value.name or "")
    for owner in (copy.graph, *(function.graph for function in copy.functions.values())):
        for node in list(owner.all_nodes()):
            _hollow_attributes(node)
            _stand_in(node)
    for name in [name for name in copy.functions if name[0] == EDGEFOLD]:
        del copy.functions[name]
    proto = ir.to_proto(copy)
    _bind(proto, shapes)
    try:
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        return infer_with_arithmetic(proto)
    except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ModelError(f"shapes cannot be inferred: {' '.join(str(error).split())[:300]}") from error


def graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph and all graphs inside its nodes, outermost first."""
    return [graph, *(one for node in graph.node for body in node_graphs(node) for one in graphs(body))]


def node_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes: branches, or the body of a loop."""
    single = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
    return [*single, *(graph for attribute in node.attribute for graph in attribute.graphs)]


def known_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the graph's values whose dimensions are all known."""
    known = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(one.HasField("dim_value") for one in tensor.shape.dim):
            known[value.name] = tuple(one.dim_value for one in tensor.shape.dim)
    known.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    known[node.output[0]] = tuple(attribute.t.dims)
    return known


def _hollow(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """A tensor of the same shape and type that points nowhere; small ones stay."""
    if math.prod(tensor.shape.numpy()) <= _SMALL_ELEMENTS:
        if isinstance(tensor, ir.ExternalTensor):
            return ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
        return tensor
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)


def _hollow_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, _hollow(attribute.as_tensor(), name))


def _stand_in(node: ir.Node) -> None:
    """Replaces a packed operator, or an activation function, by the standard one of the same shapes."""
    if node.domain == EDGEFOLD and node.op_type == "Activation":
        _exchange(node, ir.node("Identity", node.inputs[:1], name=node.name))
        return
    if node.op_type not in _PACKED or not packed_weights(node):
        return
    [matrix] = packed_weights(node)
    k, n = matrix.k, matrix.n
    data = node.inputs[0]
    attributes: dict[str, Any] = {}
    if node.op_type in ("ShiftMatMul", "MatMulNBits"):
        operator, inputs = "MatMul", [data, _weight(node, (k, n))]
    elif node.op_type == "ShiftGather":
        operator, inputs = "Gather", [_weight(node, (n, k)), data]
    else:
        kernel = tuple(node.attributes.get_ints("kernel_shape", ()))
        operator, inputs = "Conv", [data, _weight(node, (n, k // math.prod(kernel), *kernel))]
        attributes = {one: node.attributes.get_ints(one, ()) for one in ("strides", "pads", "dilations")}
        attributes |= {"kernel_shape": kernel, "group": node.attributes.get_int("group", 1)}
    _exchange(node, ir.node(operator, inputs, attributes, name=node.name))


def _exchange(node: ir.Node, by: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    ir.convenience.replace_nodes_and_values(graph, node, [node], [by], node.outputs, by.outputs)


def _weight(node: ir.Node, shape: tuple[int, ...]) -> ir.Value:
    """The weight that a packed operator stands for: a shape without content."""
    name = f"{node.outputs[0].name}.weight"
    size = ir.Shape(shape)
    tensor = ir.ExternalTensor("weights", 0, 4 * math.prod(shape), ir.DataType.FLOAT, shape=size, name=name)
    value = ir.Value(name=name, shape=size, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    owner = node.graph
    # A function holds no initializers; its packed matrices get their shape from the declared type alone.
    if isinstance(owner, ir.Graph):
        owner.register_initializer(value)
    return value


def _bind(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Sets the inputs' shapes and drops every other declared one, which might be of other input sizes."""
    for value in proto.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape.dim
            del dims[:]
            dims.extend(onnx.TensorShapeProto.Dimension(dim_value=size) for size in shapes[value.name])
    for graph in graphs(proto.graph):
        del graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
