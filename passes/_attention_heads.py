# SPDX-License-Identifier: Apache-2.0
"""Heads of attention side by side in a row, as projections write and read them."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgefold.passes._attention import Attention
from edgefold.passes.fusion.shapes import Shapes, known_shape

_APART = (0, 2, 1, 3)  # heads before rows, or back
_BY_COLUMNS = (0, 2, 3, 1)  # heads before columns before rows, as a product reads its right operand
_JOINED_AXES = 3


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """Attention around which heads are split and joined: its values before and behind that.

    Attributes:
        queries: [B, rows, H * depth].
        keys: [B, keys, G * depth].
        values: [B, keys, G * values].
        result: [B, rows, H * values].
        join: the nodes that make `result` of the last product.
        heads: H.
        kv_heads: G.
    """

    queries: ir.Value
    keys: ir.Value
    values: ir.Value
    result: ir.Value
    join: tuple[ir.Node, ir.Node]
    heads: int
    kv_heads: int


def heads_side_by_side(attention: Attention, shapes: Shapes) -> SideBySide | None:
    """The rows that are split into the heads of an attention, and joined behind it; None unless all of them are."""
    queries = _before_split(attention.queries, shapes, _APART)
    keys = _before_split(attention.keys, shapes, _BY_COLUMNS if attention.keys_swapped else _APART)
    values = _before_split(attention.values, shapes, _APART)
    join = _join(attention.nodes[-1])
    if queries is None or keys is None or values is None or join is None or keys[1] != values[1]:
        return None
    result = join[1].outputs[0]
    if _heads(result, join[0].outputs[0], shapes) != queries[1]:
        return None
    return SideBySide(queries[0], keys[0], values[0], result, join, queries[1], keys[1])


def _before_split(split: ir.Value, shapes: Shapes, order: tuple[int, ...]) -> tuple[ir.Value, int] | None:
    """The rows whose heads a Reshape and a Transpose split, and how many they are."""
    transpose = _standard(split.producer(), "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != order:
        return None
    apart = transpose.inputs[0]
    reshape = None if apart is None else _standard(apart.producer(), "Reshape")
    joined = None if reshape is None else reshape.inputs[0]
    heads = None if apart is None or joined is None else _heads(joined, apart, shapes)
    return None if heads is None or joined is None else (joined, heads)


def _join(product: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The Transpose and the Reshape behind a product, in its graph, where nothing else reads it."""
    transpose = _standard(_sole_reader(product.outputs[0]), "Transpose")
    if transpose is None or tuple(transpose.attributes.get_ints("perm", ())) != _APART:
        return None
    reshape = _standard(_sole_reader(transpose.outputs[0]), "Reshape")
    if reshape is None or reshape.inputs[0] is not transpose.outputs[0]:
        return None
    return (transpose, reshape) if transpose.graph is reshape.graph is product.graph else None


def _heads(joined: ir.Value, apart: ir.Value, shapes: Shapes) -> int | None:
    """Heads of [B, rows, heads * columns] and [B, rows, heads, columns]; None where these are not the shapes."""
    one, other = known_shape(joined, shapes), known_shape(apart, shapes)
    if one is None or other is None or len(one) != _JOINED_AXES or len(other) != _JOINED_AXES + 1:
        return None
    heads, columns = other[2:]
    if not isinstance(heads, int) or not isinstance(columns, int) or heads * columns == 0:
        return None
    return heads if (*other[:2], heads * columns) == one else None


def _standard(node: ir.Node | None, operator: str) -> ir.Node | None:
    return node if node is not None and node.domain in ("", "ai.onnx") and node.op_type == operator else None


def _sole_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
