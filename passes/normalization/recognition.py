# SPDX-License-Identifier: Apache-2.0
"""Normalizations over the last axis, as one operator or as exporters write them out."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant, trace_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Skip, SkipReason

Float = npt.NDArray[np.float32]
_FUSED = {"LayerNormalization": True, "RMSNormalization": False, "SimplifiedLayerNormalization": False}
_OTHERS = ("InstanceNormalization", "GroupNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Nodes that compute ``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta`` over the last axis.

    Attributes:
        nodes: in the order of the graph; the last one gives the output.
        x: what is normalized.
        centred: whether the mean is taken off; not in RMS normalization.
        epsilon: inside the square root.
        gamma, beta: float32 [D].
    """

    nodes: tuple[ir.Node, ...]
    x: ir.Value
    centred: bool
    epsilon: float
    gamma: Float
    beta: Float

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def label(self) -> str:
        """The name of the first node."""
        return node_label(self.nodes[0])


def normalization(node: ir.Node) -> Normalization | Skip | None:
    """The normalization that a node is, or whose square root it takes; a Skip for one that has no such form."""
    if node.domain in ("", "ai.onnx") and node.op_type in _FUSED:
        return _fused(node, _FUSED[node.op_type])
    if node.op_type == "BatchNormalization":
        return Skip(
            node_label(node), SkipReason.NOTHING_TO_GAIN, "its statistics are constants, which fold into a layer"
        )
    if node.op_type in _OTHERS:
        return Skip(node_label(node), SkipReason.TARGET_LACKS_OP, f"no L1 form of {node.op_type}")
    return _written_out(node) if node.op_type == "Sqrt" else None


def _fused(node: ir.Node, centred: bool) -> Normalization | Skip:
    label = node_label(node)
    x, scale = node.inputs[0], trace_constant(node.inputs[1])
    assert x is not None
    if scale is None:
        return Skip(label, SkipReason.NOT_CONSTANT, "scale")
    if scale.dtype != ir.DataType.FLOAT:
        return Skip(label, SkipReason.DTYPE, str(scale.dtype))
    rank = None if x.shape is None else x.shape.rank()
    axis = node.attributes.get_int("axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return Skip(label, SkipReason.RANK, f"axis {axis}; only the last one can be normalized alone")
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return Skip(label, SkipReason.ATTRIBUTE, "its mean or deviation is read")
    gamma = _row(scale.array(), None)
    beta: Float | None = None if gamma is None else np.zeros_like(gamma)
    if gamma is not None and len(node.inputs) > 2 and node.inputs[2] is not None:
        beta = _row(small_constant(node.inputs[2]), len(gamma))
    if gamma is None or beta is None:
        return Skip(label, SkipReason.NOT_CONSTANT, "bias is no constant row")
    return Normalization((node,), x, centred, node.attributes.get_float("epsilon", 1e-5), gamma, beta)


def _written_out(root: ir.Node) -> Normalization | Skip | None:
    """The form of exporters without the operator, found from its square root."""
    squares = _mean_of_squares(root)
    if squares is None:
        return None
    deviations, epsilon, inner = squares
    x, subtraction = _centred(deviations)
    found = _quotient(root, deviations)
    if found is None:
        return None
    nodes = [*inner, root, *found]
    if subtraction is not None:
        nodes += subtraction
    affine, gamma, beta = _affine(found[-1])
    nodes += affine
    label = node_label(root)
    if x.dtype not in (None, ir.DataType.FLOAT):
        return Skip(label, SkipReason.DTYPE, str(x.dtype))
    columns = _columns(x) if gamma is None else len(gamma)
    if columns is None:
        return Skip(label, SkipReason.DYNAMIC_SHAPE, "length of the normalized axis")
    gamma = np.ones(columns, np.float32) if gamma is None else gamma
    beta = np.zeros(columns, np.float32) if beta is None else beta
    order = {node: number for number, node in enumerate(root.graph or ())}
    ordered = tuple(sorted(set(nodes), key=order.__getitem__))
    return Normalization(ordered, x, subtraction is not None, epsilon, gamma, beta)


def _mean_of_squares(root: ir.Node) -> tuple[ir.Value, float, list[ir.Node]] | None:
    """d, epsilon and the nodes of sqrt(mean(d^2) + epsilon)."""
    total = _producer(root.inputs[0], "Add")
    mean, epsilon = _with_constant(total) if total is not None else (root.inputs[0], 0.0)
    average = _producer(mean, "ReduceMean")
    if average is None or epsilon is None or epsilon < 0 or not _over_last(average):
        return None
    square = average.inputs[0].producer() if average.inputs[0] is not None else None
    if square is None or square.inputs[0] is None:
        return None
    if square.op_type == "Pow":
        is_square = _scalar(square.inputs[1]) == 2.0
    else:
        is_square = square.op_type == "Mul" and square.inputs[0] is square.inputs[1]
    nodes = [square, average] if total is None else [square, average, total]
    return (square.inputs[0], epsilon, nodes) if is_square else None


def _centred(deviations: ir.Value) -> tuple[ir.Value, list[ir.Node] | None]:
    """x, and the nodes that take its mean off; None where nothing does."""
    subtraction = _producer(deviations, "Sub")
    if subtraction is None:
        return deviations, None
    average = _producer(subtraction.inputs[1], "ReduceMean")
    x = subtraction.inputs[0]
    if x is None or average is None or average.inputs[0] is not x or not _over_last(average):
        return deviations, None
    return x, [average, subtraction]


def _quotient(root: ir.Node, deviations: ir.Value) -> list[ir.Node] | None:
    """The nodes of d / sqrt(...), or of d * (1 / sqrt(...)), of which the last gives the quotient."""
    reader = _only_reader(root.outputs[0])
    if reader is None:
        return None
    if reader.op_type == "Div" and reader.inputs[1] is root.outputs[0] and _same(reader.inputs[0], deviations):
        return [*_twin(reader.inputs[0], deviations), reader]
    inverse = reader.op_type == "Reciprocal" or (reader.op_type == "Div" and _scalar(reader.inputs[0]) == 1.0)
    product = _only_reader(reader.outputs[0]) if inverse else None
    if product is None or product.op_type != "Mul":
        return None
    other = product.inputs[1] if product.inputs[0] is reader.outputs[0] else product.inputs[0]
    return [reader, *_twin(other, deviations), product] if _same(other, deviations) else None


def _affine(quotient: ir.Node) -> tuple[list[ir.Node], Float | None, Float | None]:
    """The Mul by a constant row after the quotient, and the Add of one after that."""
    scaling = _only_reader(quotient.outputs[0])
    gamma = None
    if scaling is not None and scaling.op_type == "Mul":
        gamma = _row(_constant_operand(scaling), None)
    if scaling is None or gamma is None:
        return [], None, None
    shifting = _only_reader(scaling.outputs[0])
    beta = None
    if shifting is not None and shifting.op_type == "Add":
        beta = _row(_constant_operand(shifting), len(gamma))
    return ([scaling], gamma, None) if beta is None or shifting is None else ([scaling, shifting], gamma, beta)


def _same(value: ir.Value | None, deviations: ir.Value) -> bool:
    """Whether a value is d, or computed by a Sub of the same operands."""
    if value is deviations:
        return True
    mine, other = _producer(value, "Sub"), _producer(deviations, "Sub")
    return mine is not None and other is not None and list(mine.inputs) == list(other.inputs)


def _twin(value: ir.Value | None, deviations: ir.Value) -> list[ir.Node]:
    producer = None if value is None or value is deviations else value.producer()
    return [] if producer is None else [producer]


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _over_last(node: ir.Node) -> bool:
    """Whether a reduction is over the last axis and keeps it."""
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1:
        stored = small_constant(node.inputs[1])
        axes = None if stored is None else [int(axis) for axis in stored.reshape(-1)]
    x = node.inputs[0]
    rank = None if x is None or x.shape is None else x.shape.rank()
    last = axes is not None and (list(axes) == [-1] or (rank is not None and list(axes) == [rank - 1]))
    return last and node.attributes.get_int("keepdims", 1) == 1


def _with_constant(node: ir.Node) -> tuple[ir.Value | None, float | None]:
    """The operand of an Add that is no constant, and the scalar that is."""
    left, right = node.inputs
    scalar = _scalar(right)
    return (left, scalar) if scalar is not None else (right, _scalar(left))


def _scalar(value: ir.Value | None) -> float | None:
    stored = small_constant(value)
    return float(stored.reshape(-1)[0]) if stored is not None and stored.size == 1 else None


def _constant_operand(node: ir.Node) -> npt.NDArray[np.floating] | None:
    left, right = (small_constant(value) for value in node.inputs)
    return right if right is not None else left


def _row(array: npt.NDArray[np.floating] | None, columns: int | None) -> Float | None:
    """A constant that runs along the last axis only, as float32 [D]; None for any other."""
    if array is None or array.ndim == 0 or array.shape[-1] != array.size or array.dtype != np.float32:
        return None
    if array.size == 1 or (columns is not None and array.size != columns) or not np.isfinite(array).all():
        return None
    return np.array(array, np.float32).reshape(-1)


def _columns(x: ir.Value) -> int | None:
    size = x.shape[-1] if x.shape is not None and x.shape.rank() > 0 else None
    return size if isinstance(size, int) else None
