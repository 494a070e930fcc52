# SPDX-License-Identifier: Apache-2.0
"""Attention as exporters write it out: queries by keys, factor and masks, softmax, weights by values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.fusion.shapes import Shapes, known_shape

AXES = 4
_LEAST_HIDING = -1e4  # exporters hide a key by this, by the least number of a type or by minus infinity
_SWAP = (0, 1, 3, 2)


@dataclasses.dataclass(frozen=True)
class Mask:
    """What is added to the scores, or a condition on them.

    Attributes:
        value: numbers to add; booleans where ``hiding`` is given.
        rank: its number of axes.
        hiding: the number that stands where the condition hides a key; None of a sum.
        when: the condition that hides a key.
    """

    value: ir.Value
    rank: int
    hiding: float | None = None
    when: bool = False


@dataclasses.dataclass(frozen=True)
class Attention:
    """Nodes that compute ``softmax(queries keys' * scale + masks) values``, in the order of the graph.

    Attributes:
        nodes: from the product of queries and keys to that of weights and values.
        queries: [B, H, rows, depth].
        keys: [B, H, keys, depth], or [B, H, depth, keys] where `keys_swapped`.
        keys_swapped: no value of the graph holds the keys row by row.
        values: [B, H, keys, values].
    """

    nodes: tuple[ir.Node, ...]
    queries: ir.Value
    keys: ir.Value
    keys_swapped: bool
    values: ir.Value
    masks: tuple[Mask, ...]
    scale: float


@dataclasses.dataclass(frozen=True)
class _Scores:
    """What lies between the product of queries and keys and the softmax."""

    nodes: tuple[ir.Node, ...]
    masks: tuple[tuple[ir.Value, float | None, bool], ...]
    scale: float


def find_attention(softmax: ir.Node, shapes: Shapes) -> Attention | Skip | None:
    """The attention around a Softmax, why it is not taken, or None where its output multiplies no values."""
    weights = _weights(softmax)
    last = next(
        (use.node for use in weights[-1].outputs[0].uses() if use.node.op_type == "MatMul" and use.idx == 0), None
    )
    if last is None:
        return None
    label = node_label(softmax)
    scores = _scores(softmax.inputs[0])
    if scores is None:
        return Skip(label, SkipReason.UNKNOWN_FORM, "scores are no product with a constant factor and masks after it")
    found = _joined(scores, weights, last, shapes)
    if isinstance(found, str):
        return Skip(label, SkipReason.DYNAMIC_SHAPE, f"number of axes of {found}")
    return _refused(softmax, found, shapes) or found


def _joined(scores: _Scores, weights: list[ir.Node], last: ir.Node, shapes: Shapes) -> Attention | str:
    """All parts together, or the value whose number of axes is not known."""
    masks = []
    for value, hiding, when in scores.masks:
        shape = known_shape(value, shapes)
        if shape is None:
            return str(value.name)
        masks.append(Mask(value, len(shape), hiding, when))
    product = scores.nodes[0]
    queries, of_queries = _without_factor(product.inputs[0])
    swapped, of_keys = _without_factor(product.inputs[1])
    keys = _rows_of(swapped, shapes)
    values = last.inputs[1]
    assert values is not None
    scale = scores.scale * of_queries * of_keys
    return Attention(
        (*scores.nodes, *weights, last), queries, keys or swapped, keys is None, values, tuple(masks), scale
    )


def _refused(softmax: ir.Node, found: Attention, shapes: Shapes) -> Skip | None:
    """Why an attention cannot be taken as one node."""
    label = node_label(softmax)
    shape, product = known_shape(softmax.outputs[0], shapes), known_shape(found.nodes[0].outputs[0], shapes)
    if shape is None or product is None:
        return Skip(label, SkipReason.DYNAMIC_SHAPE, "number of axes")
    if len(shape) != AXES or softmax.attributes.get_int("axis", -1) not in (-1, AXES - 1):
        return Skip(label, SkipReason.RANK, f"scores of {len(shape)} axes; expected a softmax over the last of {AXES}")
    if len(product) != AXES or any(mask.rank > AXES for mask in found.masks) or _differ(product, shape):
        return Skip(label, SkipReason.RANK, "a mask is larger than the scores")
    leading = [known_shape(one, shapes) for one in (found.queries, found.keys, found.values)]
    if any(one is not None and (len(one) != AXES or _differ(one[:2], shape[:2])) for one in leading):
        return Skip(label, SkipReason.UNKNOWN_FORM, "heads of queries share keys or values by broadcasting")
    if softmax.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return Skip(label, SkipReason.DTYPE, str(softmax.outputs[0].dtype))
    inside = set(found.nodes)
    for node in found.nodes[:-1]:
        value = node.outputs[0]
        if value.is_graph_output():
            return Skip(label, SkipReason.GRAPH_OUTPUT, str(value.name))
        if node.graph is not softmax.graph or any(use.node not in inside for use in value.uses()):
            return Skip(label, SkipReason.INSEPARABLE, f"{value.name} has several readers")
    return None


def _differ(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether two shapes are known not to be the same."""
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(one, other, strict=True))


def _weights(softmax: ir.Node) -> list[ir.Node]:
    """The softmax and, as scaled_dot_product_attention is exported, the nodes that make zeros of rows without a key."""
    weights = softmax.outputs[0]
    for use in weights.uses():
        if use.node.op_type != "IsNaN":
            continue
        for other in use.node.outputs[0].uses():
            where = other.node
            zero = small_constant(where.inputs[1]) if where.op_type == "Where" and other.idx == 0 else None
            if zero is not None and not zero.any() and where.inputs[2] is weights:
                return [softmax, use.node, where]
    return [softmax]


def _scores(value: ir.Value | None) -> _Scores | None:
    """The way from a product to a value by additions, hiding conditions and, before those, constant factors."""
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "MatMul":
        return _Scores((node,), (), 1.0)
    if node.op_type in ("Mul", "Div"):
        inner, factor = _without_factor(node.outputs[0])
        before = None if inner is node.outputs[0] else _scores(inner)
        if before is None or before.masks:
            return None
        return _Scores((*before.nodes, node), (), before.scale * factor)
    for position, mask in _masks(node):
        before = _scores(node.inputs[position])
        if before is not None:
            return _Scores((*before.nodes, node), (*before.masks, mask), before.scale)
    return None


def _masks(node: ir.Node) -> Iterator[tuple[int, tuple[ir.Value, float | None, bool]]]:
    """Positions at which a node may have scores, each with the mask that it then applies to them."""
    if node.op_type == "Add":
        for position in (0, 1):
            other = node.inputs[1 - position]
            if other is not None:
                yield position, (other, None, False)
    elif node.op_type == "Where" and node.inputs[0] is not None:
        for position in (1, 2):
            hiding = small_constant(node.inputs[3 - position])
            if hiding is not None and hiding.size == 1 and float(hiding.reshape(())) <= _LEAST_HIDING:
                yield position, (node.inputs[0], float(hiding.reshape(())), position == 2)


def _without_factor(value: ir.Value | None) -> tuple[ir.Value, float]:
    """The value before constant factors, and their product."""
    assert value is not None
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in ("Mul", "Div"):
        return value, 1.0
    for position in (0, 1) if node.op_type == "Mul" else (0,):
        factor, inner = small_constant(node.inputs[1 - position]), node.inputs[position]
        if factor is not None and factor.size == 1 and inner is not None and factor.dtype.kind == "f":
            number = float(factor.reshape(()))
            before, other = _without_factor(inner)
            return before, other * (number if node.op_type == "Mul" else 1 / number)
    return value, 1.0


def _rows_of(swapped: ir.Value, shapes: Shapes) -> ir.Value | None:
    """The value whose last two axes were swapped to give another; None where none is found."""
    node = swapped.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == _SWAP:
        return node.inputs[0]
    inner = None if node.op_type != "Reshape" or node.inputs[0] is None else node.inputs[0].producer()
    if inner is None or inner.op_type != "Transpose" or tuple(inner.attributes.get_ints("perm", ())) != (0, 2, 1):
        return None
    flat = inner.inputs[0]
    first = None if flat is None else flat.producer()
    if first is None or first.op_type != "Reshape" or first.inputs[0] is None:
        return None
    # The last two axes of a row-major reshape that keeps them are theirs, whatever it makes of those before.
    source, middle, result = (known_shape(one, shapes) for one in (first.inputs[0], first.outputs[0], swapped))
    if source is None or middle is None or result is None or len(source) != AXES:
        return None
    kept = source[2:] == middle[1:] and result == tuple(source[axis] for axis in _SWAP)
    return first.inputs[0] if kept else None
