# SPDX-License-Identifier: Apache-2.0
"""What a node makes of a factor on the channels of one of its tensors.

A tensor x whose channel c is divided by a positive factor s[c] changes the nodes around it in one of three ways. A
layer, a norm or a multiplication by constants *ends* the factor: it goes into their constants. A positively homogeneous
operator *carries* it to the tensors on its other side. Anything else stops the migration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from edgefold.passes._constants import small_constant, trace_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import SkipReason
from edgefold.passes.equalization.constants import BarrierError, Place

Shapes = Callable[[ir.Value], tuple[int, ...]]
"""Extents of a tensor in one run.

Raises:
    BarrierError: not known.
"""


@dataclasses.dataclass(frozen=True)
class Located:
    """A tensor and the axes that together run over its channels, slowest first."""

    value: ir.Value
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """What one node makes of a factor.

    Attributes:
        places: constants that take it in.
        carried: other tensors that have it too.
        reads: whether the node is a layer that sums over the channels.
    """

    places: tuple[Place, ...] = ()
    carried: tuple[Located, ...] = ()
    reads: bool = False


# Positively homogeneous in their first operand, with as many channels behind them as before.
_UNARY = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Abs", "Neg", "MaxPool", "AveragePool",
          "GlobalAveragePool", "GlobalMaxPool", "Pad", "Slice", "ReduceMean", "ReduceMax", "Expand")  # fmt: skip
_NORMS = ("LayerNormalization", "RMSNormalization")
_SUMS = ("Add", "Sub", "Sum", "Max", "Min")  # homogeneous in all operands together
_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def written(node: ir.Node, at: Located, shape_of: Shapes) -> Step:
    """What the node that computes a tensor makes of a factor on it.

    Raises:
        BarrierError: it can neither take it in nor carry it.
    """
    if node.domain in ("", "ai.onnx") and at.value is node.outputs[0]:
        places = _written_constants(node, at, shape_of)
        if places:
            return Step(places)
    return _carry(node, None, at, shape_of)


def _written_constants(node: ir.Node, at: Located, shape_of: Shapes) -> tuple[Place, ...]:
    """The constants that a factor on the channels of the node's output goes into; none where it has no such."""
    last = (len(shape_of(at.value)) - 1,)
    if node.op_type in ("Conv", "BatchNormalization") and at.axes == (1,):
        return (Place(node, 1, (0,), -1), *_bias(node, (0,)))
    if node.op_type == "Gemm" and at.axes == (1,):
        return (Place(node, 1, (0 if node.attributes.get_int("transB", 0) else 1,), -1), *_bias(node, (1,)))
    if node.op_type == "Mul":
        return tuple(_beside(node, found, at, shape_of, power=-1) for found in _constant_operands(node))
    if at.axes != last:
        return ()
    if node.op_type == "MatMul" and (weight := trace_constant(node.inputs[1])) is not None:
        return (Place(node, 1, (len(weight.shape) - 1,), -1),)
    if node.op_type in _NORMS and node.attributes.get_int("axis", -1) in (-1, *last):
        return (Place(node, 1, (0,), -1), *_bias(node, (0,)))
    table = trace_constant(node.inputs[0]) if node.op_type == "Gather" else None
    if table is not None and len(table.shape) == 2 and node.attributes.get_int("axis", 0) == 0:
        return (Place(node, 0, (1,), -1),)
    return ()


def read(node: ir.Node, operand: int, at: Located, shape_of: Shapes) -> Step:
    """What a node that reads a tensor as one of its operands makes of a factor on it.

    Raises:
        BarrierError: it can neither take in the inverse nor carry the factor.
    """
    if node.domain in ("", "ai.onnx"):
        place = _inputs_of_layer(node, at, shape_of) if operand == 0 else None
        if place is not None:
            return Step((place,), reads=True)
        if node.op_type == "BatchNormalization" and operand == 0 and at.axes == (1,):
            return Step((Place(node, 1, (0,), 1), Place(node, 3, (0,), -1)))
        if node.op_type == "Mul" and (found := _constant_operands(node)):
            return Step(tuple(_beside(node, one, at, shape_of, power=1) for one in found))
    return _carry(node, operand, at, shape_of)


def _inputs_of_layer(node: ir.Node, at: Located, shape_of: Shapes) -> Place | None:
    """The rows of a layer's weights that meet the channels; None where it does not sum over them, or has no weights."""
    weight = trace_constant(node.inputs[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
    if weight is None:
        return None
    if node.op_type == "Conv" and at.axes == (1,):
        return Place(node, 1, (1,), 1, groups=node.attributes.get_int("group", 1))
    if node.op_type == "Gemm" and at.axes == (1,) and not node.attributes.get_int("transA", 0):
        return Place(node, 1, (1 if node.attributes.get_int("transB", 0) else 0,), 1)
    last = (len(shape_of(at.value)) - 1,)
    if node.op_type == "MatMul" and at.axes == last and len(weight.shape) >= 2:
        return Place(node, 1, (len(weight.shape) - 2,), 1)
    return None


def _carry(node: ir.Node, operand: int | None, at: Located, shape_of: Shapes) -> Step:
    """The step over a homogeneous operator, from its output (operand None) or from one of its operands.

    Raises:
        BarrierError: it is not homogeneous, or mixes the channels with other elements.
    """
    kind = node.op_type if node.domain in ("", "ai.onnx") and at.value in (node.outputs[0], *node.inputs) else ""
    if kind in _SUMS:
        return _sum(node, at, shape_of)
    if kind == "Concat":
        return _concat(node, at, shape_of)
    if kind == "Mul" and (gated := _gated_operand(node)) is not None and operand in (None, gated):
        return Step(carried=(_same_axes(node, _other_side(node, operand, gated), at, shape_of),))
    if kind == "MatMul" and operand in (None, 1) and _has_columns(at, len(shape_of(at.value))):
        return Step(carried=(_same_axes(node, _other_side(node, operand, 1), at, shape_of),))
    if operand in (None, 0):
        other = _other_side(node, operand, 0)
        if kind in _UNARY and _zero_padding(node):
            return Step(carried=(_same_axes(node, other, at, shape_of),))
        if kind == "Transpose":
            return Step(carried=(_transposed(node, operand, at, other),))
        if kind in _VIEWS:
            return Step(carried=(Located(other, _viewed(node, at, shape_of(at.value), shape_of(other))),))
    raise BarrierError(SkipReason.BARRIER, f"{_named(node)} meets {at.value.name}")


def _gated_operand(node: ir.Node) -> int | None:
    """Of a product of two activations, the operand that always takes the factor, since its producer can take it in."""
    for operand, value in enumerate(node.inputs):
        producer = value.producer() if value is not None else None
        if producer is None or producer.domain not in ("", "ai.onnx"):
            continue
        is_layer = producer.op_type in ("Conv", "Gemm", "MatMul") and trace_constant(producer.inputs[1]) is not None
        if is_layer or (producer.op_type == "Mul" and _constant_operands(producer)):
            return operand
    return None


def _has_columns(at: Located, rank: int) -> bool:
    """Whether the channels are columns x[..., c] of a right operand, each of which makes one column of the product."""
    return rank - 1 in at.axes and rank - 2 not in at.axes


def _other_side(node: ir.Node, operand: int | None, data: int) -> ir.Value:
    """The output where the factor came from operand `data`, else that operand."""
    value = node.inputs[data] if operand is None else node.outputs[0]
    assert value is not None
    return value


def _zero_padding(node: ir.Node) -> bool:
    """Whether a Pad adds zeros or copies; true of other operators."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return True
    filler = node.inputs[2] if len(node.inputs) > 2 else None
    stored = small_constant(filler)
    return filler is None or (stored is not None and not stored.any())


def _same_axes(node: ir.Node, other: ir.Value, at: Located, shape_of: Shapes) -> Located:
    """The other tensor, of the same rank and with as many channels on the same axes."""
    here, there = shape_of(at.value), shape_of(other)
    if len(here) != len(there) or any(here[axis] != there[axis] for axis in at.axes):
        raise BarrierError(SkipReason.BARRIER, f"{_named(node)} changes the channels of {at.value.name}")
    return Located(other, at.axes)


def _sum(node: ir.Node, at: Located, shape_of: Shapes) -> Step:
    """All terms of a sum have one factor, and so has the sum."""
    output = node.outputs[0]
    raised = len(shape_of(output)) - len(shape_of(at.value))
    whole = Located(output, tuple(axis + raised for axis in at.axes))
    places, carried = [], [whole] if at.value is not output else []
    extents = [shape_of(at.value)[axis] for axis in at.axes]
    if extents != [shape_of(output)[axis] for axis in whole.axes]:
        raise BarrierError(SkipReason.BARRIER, f"{_named(node)} broadcasts {at.value.name}")
    for operand, value in enumerate(node.inputs):
        assert value is not None
        if trace_constant(value) is not None:
            places.append(_beside(node, operand, whole, shape_of, power=-1))
        elif value is not at.value:
            lowered = len(shape_of(output)) - len(shape_of(value))
            axes = tuple(axis - lowered for axis in whole.axes)
            if min(axes) < 0 or [shape_of(value)[axis] for axis in axes] != extents:
                raise BarrierError(SkipReason.BARRIER, f"{_named(node)} broadcasts {value.name}")
            carried.append(Located(value, axes))
    return Step(tuple(places), tuple(carried))


def _concat(node: ir.Node, at: Located, shape_of: Shapes) -> Step:
    axis = node.attributes["axis"].as_int() % len(shape_of(at.value))
    if axis in at.axes:
        raise BarrierError(SkipReason.BARRIER, f"{_named(node)} joins the channels of {at.value.name} to others")
    others = [value for value in (*node.inputs, node.outputs[0]) if value is not None and value is not at.value]
    return Step(carried=tuple(_same_axes(node, value, at, shape_of) for value in others))


def _transposed(node: ir.Node, operand: int | None, at: Located, other: ir.Value) -> Located:
    order = node.attributes.get("perm")
    if order is None:
        raise BarrierError(SkipReason.BARRIER, f"{_named(node)} without perm")
    perm = tuple(order.as_ints())
    return Located(other, tuple(perm[axis] if operand is None else perm.index(axis) for axis in at.axes))


def _viewed(node: ir.Node, at: Located, here: Sequence[int], there: Sequence[int]) -> tuple[int, ...]:
    """Where the channels lie in another view of the same elements: behind as many elements, and as many of them."""
    first, last = at.axes[0], at.axes[-1]
    if at.axes == tuple(range(first, last + 1)):
        before, channels = math.prod(here[:first]), math.prod(here[first : last + 1])
        for start in range(len(there)):
            for end in range(start + 1, len(there) + 1):
                tight = there[start] != 1 and there[end - 1] != 1
                if tight and math.prod(there[:start]) == before and math.prod(there[start:end]) == channels:
                    return tuple(range(start, end))
    raise BarrierError(SkipReason.BARRIER, f"{_named(node)} splits the channels of {at.value.name}")


def _constant_operands(node: ir.Node) -> tuple[int, ...]:
    """The one constant operand of a product, or none."""
    found = tuple(operand for operand, value in enumerate(node.inputs) if trace_constant(value) is not None)
    return found if len(found) == 1 else ()


def _beside(node: ir.Node, operand: int, at: Located, shape_of: Shapes, power: int) -> Place:
    """The place of the channels in a constant that is broadcast to a tensor.

    Raises:
        BarrierError: the constant has more dimensions than the tensor.
    """
    constant = trace_constant(node.inputs[operand])
    assert constant is not None
    lowered = len(shape_of(at.value)) - len(constant.shape)
    if lowered < 0:
        raise BarrierError(SkipReason.RANK, f"{_named(node)} broadcasts {at.value.name}")
    return Place(node, operand, tuple(axis - lowered for axis in at.axes), power)


def _bias(node: ir.Node, axes: tuple[int, ...]) -> tuple[Place, ...]:
    """The place of the channels in an optional third operand that is added to the outputs, broadcast by a Gemm."""
    if len(node.inputs) <= 2 or node.inputs[2] is None:
        return ()
    constant = trace_constant(node.inputs[2])
    missing = 2 - len(constant.shape) if node.op_type == "Gemm" and constant is not None else 0
    return (Place(node, 2, tuple(axis - missing for axis in axes), -1),)


def _named(node: ir.Node) -> str:
    return f"{node_label(node)} ({node.op_type})"
