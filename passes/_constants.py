# SPDX-License-Identifier: Apache-2.0
"""Constants as exporters write them: an initializer or Constant node, often behind Identity, Cast or Transpose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_VIEWS = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze")


@dataclasses.dataclass(frozen=True)
class Constant:
    """A value that is a stored tensor seen through nodes that do not compute.

    Attributes:
        root: the initializer, or the output of the Constant node.
        views: the nodes from the root to the value, in order.
        tensor: the stored tensor.
    """

    root: ir.Value
    views: tuple[ir.Node, ...]
    tensor: ir.TensorProtocol

    @property
    def dtype(self) -> ir.DataType:
        """Element type after the views."""
        for node in reversed(self.views):
            if node.op_type == "Cast":
                return ir.DataType(node.attributes["to"].as_int())
        return ir.DataType(self.tensor.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after the views."""
        shape = tuple(int(size) for size in self.tensor.shape.numpy())
        if all(node.op_type in ("Identity", "Cast") for node in self.views):
            return shape
        # A broadcast zero has the shape and strides of the real thing and costs nothing.
        return _apply(np.broadcast_to(np.zeros((), np.float32), shape), self.views).shape

    @property
    def nbytes(self) -> int:
        """Bytes of the stored tensor."""
        return int(self.tensor.nbytes)

    def array(self) -> npt.NDArray[Any]:
        """The values after the views; may be a view of the stored tensor, never to be written to."""
        return _apply(self.tensor.numpy(), self.views)


def trace_constant(value: ir.Value | None) -> Constant | None:
    """The constant behind a value, or None where it depends on an input or on arithmetic."""
    views: list[ir.Node] = []
    while value is not None:
        tensor = ir.convenience.get_const_tensor(value) if _is_stored(value) else None
        if tensor is not None:
            return Constant(value, tuple(reversed(views)), tensor)
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in _VIEWS:
            return None
        if not all(_is_stored(extra) for extra in node.inputs[1:] if extra is not None):
            return None
        views.append(node)
        value = node.inputs[0]
    return None


def small_constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """The values of a constant operand such as a bias, axes or a shape; None where it is not constant."""
    constant = trace_constant(value)
    return None if constant is None else constant.array()


def readers(root: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Every (node, input position) that reads the constant, directly or through views."""
    for use in root.uses():
        node = use.node
        if (
            use.idx == 0
            and node.domain in ("", "ai.onnx")
            and node.op_type in _VIEWS
            and trace_constant(node.outputs[0])
        ):
            yield from readers(node.outputs[0])
        else:
            yield node, use.idx


def feeds_graph_output(root: ir.Value) -> bool:
    """Whether the constant, or a view of it, is itself an output of the graph."""
    if root.is_graph_output():
        return True
    return any(
        feeds_graph_output(use.node.outputs[0]) for use in root.uses() if use.idx == 0 and use.node.op_type in _VIEWS
    )


def remove_if_unread(constant: Constant) -> None:
    """Drops the views and the stored tensor of a constant that nothing reads any more, in whichever graphs they are."""
    for node in reversed(constant.views):
        if node.outputs[0].uses() or node.outputs[0].is_graph_output():
            return
        _remove(node)
    root = constant.root
    if root.uses() or root.is_graph_output():
        return
    producer = root.producer()
    if producer is not None:
        _remove(producer)
        return
    graph = root.graph
    if graph is None:
        return  # gone already
    graph.initializers.pop(str(root.name), None)
    if root in graph.inputs:  # IR 3 lists initializers among the inputs
        graph.inputs.remove(root)


def _remove(node: ir.Node) -> None:
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def _is_stored(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")


def _apply(array: npt.NDArray[Any], views: tuple[ir.Node, ...]) -> npt.NDArray[Any]:
    for node in views:
        if node.op_type == "Cast":
            array = array.astype(ir.DataType(node.attributes["to"].as_int()).numpy())
        elif node.op_type == "Transpose":
            permutation = node.attributes.get("perm")
            array = np.transpose(array, None if permutation is None else tuple(permutation.as_ints()))
        elif node.op_type == "Reshape":
            array = _reshape(array, node)
        elif node.op_type == "Squeeze":
            array = np.squeeze(array, _axes(node))
        elif node.op_type == "Unsqueeze":
            array = np.expand_dims(array, _axes(node) or ())
    return array


def _reshape(array: npt.NDArray[Any], node: ir.Node) -> npt.NDArray[Any]:
    wanted = [int(size) for size in _operand(node, 1)]
    if not (node.attributes["allowzero"].as_int() if "allowzero" in node.attributes else 0):
        wanted = [array.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = array.size // max(rest, 1)
    return array.reshape(wanted)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    if "axes" in node.attributes:
        return tuple(node.attributes["axes"].as_ints())
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return tuple(int(axis) for axis in _operand(node, 1))
    return None


def _operand(node: ir.Node, index: int) -> npt.NDArray[Any]:
    value = node.inputs[index]
    assert value is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None, "trace_constant accepts only views with constant operands"
    return tensor.numpy().reshape(-1)
