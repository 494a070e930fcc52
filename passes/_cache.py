# SPDX-License-Identifier: Apache-2.0
"""Key/value caches of a decoder: a past that comes in, new positions behind it, a present that goes out."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection

import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes.base import CACHES
from edgefold.passes.fusion.shapes import Shapes, known_shape

_AXES, _POSITIONS = 4, 2
_REPEATING = (
    "Unsqueeze",
    "Expand",
    "Reshape",
)  # from the present back, and forth: heads once for those that share them
_MOVING = ("Transpose", "Mul", "Div", *_REPEATING)
_SIZES = ("Shape", "Size")


@dataclasses.dataclass(frozen=True)
class Cache:
    """``present = Concat(past, new)`` along positions, [batch, heads, positions, depth].

    Attributes:
        join: the Concat.
        past: a graph input.
        new: what a step adds.
        present: a graph output, which is read by attention alone.
        shared: heads of queries for each head of the cache.
    """

    join: ir.Node
    past: ir.Value
    new: ir.Value
    present: ir.Value
    shared: int


def find_cache(operand: ir.Value, attention: Collection[ir.Node], shapes: Shapes) -> Cache | str:
    """The cache behind the keys or values that an attention reads, or why there is none that could hold codes.

    Args:
        operand: keys or values, [batch, heads of queries, positions, depth].
        attention: the nodes that are to be replaced, which may read the present.
        shapes: of values, as a run shows them.
    """
    present = _before_repetition(operand, shapes)
    join = present.producer()
    if join is None or join.op_type != "Concat" or join.domain not in ("", "ai.onnx"):
        return f"{operand.name} are no past with new positions behind it"
    if len(join.inputs) != 2:
        return f"{join.name} joins {len(join.inputs)} values"
    past, new = join.inputs
    assert past is not None
    assert new is not None
    sizes = [known_shape(one, shapes) for one in (operand, present, past, new)]
    if any(one is None or len(one) != _AXES for one in sizes):
        return f"number of axes of {present.name}"
    axis = join.attributes.get_int("axis")
    if axis not in (_POSITIONS, _POSITIONS - _AXES):
        return f"{present.name} grows along axis {axis}; expected [batch, heads, positions, depth]"
    if not past.is_graph_input() or past.is_initializer():
        return f"{past.name} is no input of the graph"
    if past.dtype != ir.DataType.FLOAT:
        return f"{past.name} holds {past.dtype}"
    if not present.is_graph_output():
        return f"{present.name} is no output of the graph"
    for value, allowed in ((past, {join}), (present, attention)):
        readers = _other_readers(value, allowed)
        if readers:
            return f"{value.name} is read by {', '.join(readers)} too"
    if past.is_graph_output():
        return f"{past.name} is an output too"
    shared = _shared(*(one or () for one in sizes[:2]))
    return shared if isinstance(shared, str) else Cache(join, past, new, present, shared)


def _before_repetition(value: ir.Value, shapes: Shapes) -> ir.Value:
    """The value whose heads were repeated, each beside itself, to give another; else that one itself."""
    inner, nodes = value, []
    for operator in _REPEATING[::-1]:
        node = inner.producer()
        if node is None or node.op_type != operator or node.domain not in ("", "ai.onnx") or node.inputs[0] is None:
            return value
        nodes.append(node)
        inner = node.inputs[0]
    axes = small_constant(nodes[-1].inputs[1])
    wide, kept = known_shape(nodes[1].outputs[0], shapes), known_shape(inner, shapes)
    if axes is None or axes.tolist() != [_POSITIONS] or wide is None or kept is None:
        return value
    return inner if (*wide[:2], *wide[3:]) == kept else value


def _shared(operand: tuple[object, ...], present: tuple[object, ...]) -> int | str:
    """How many heads of queries read a head of the cache: neighbours, as every exporter repeats them."""
    heads, kept = operand[1], present[1]
    if (
        not isinstance(heads, int)
        or not isinstance(kept, int)
        or kept < 1
        or heads % kept
        or operand[2:] != present[2:]
    ):
        return f"shapes {list(operand)} and {list(present)} of keys and of their cache"
    return heads // kept


def _other_readers(value: ir.Value, allowed: Collection[ir.Node]) -> list[str]:
    """Nodes that read the numbers of a value, also moved or repeated, and are not among those allowed."""
    found: list[str] = []
    for use in value.uses():
        node = use.node
        if node in allowed or (node.op_type in _SIZES and node.graph is value.graph):
            continue
        moves = node.op_type in _MOVING and use.idx == 0 and node.graph is value.graph
        if not moves or node.outputs[0].is_graph_output():
            found.append(str(node.name or node.op_type))
        else:
            found += _kept_alive(node.outputs[0], allowed)
    return found


def _kept_alive(value: ir.Value, allowed: Collection[ir.Node]) -> list[str]:
    """As above for a value that goes with the attention: not even its size may be read elsewhere."""
    sizes = [use.node for use in value.uses() if use.node.op_type in _SIZES and use.node not in allowed]
    return [str(node.name or node.op_type) for node in sizes] or _other_readers(value, allowed)


@dataclasses.dataclass(frozen=True)
class Coded:
    """The present of a cache: int8 [batch, heads, positions, depth], and scales [batch, heads, positions, 1]."""

    codes: ir.Value
    scales: ir.Value


def keep_as_codes(model: ir.Model, cache: Cache) -> Coded:
    """Makes past and present of a cache int8, adds an input and an output for their scales, and lists all four.

    Names stay; the names of scales are those with ``_scales`` behind. What reads the present is left to the caller.
    """
    graph = model.graph
    past, present, name = cache.past, cache.present, str(cache.present.name)
    past_scales = _like(past, f"{past.name}_scales", ir.DataType.FLOAT, graph)
    past.type = ir.TensorType(ir.DataType.INT8)
    graph.inputs.append(past_scales)
    codes = _like(cache.new, f"{name}.new", ir.DataType.INT8, graph)
    scales = _like(cache.new, f"{name}.new_scales", ir.DataType.FLOAT, graph)
    quantize = ir.Node("ai.edgefold", "QuantizeRows", [cache.new], outputs=[codes, scales], name=f"{name}/codes")
    quantize.metadata_props.update({"edgefold.pass": "quantize-attention", "edgefold.from": str(cache.join.name)})
    coded = Coded(
        _like(present, f"{name}.codes", ir.DataType.INT8, graph),
        _like(present, f"{name}_scales", ir.DataType.FLOAT, graph),
    )
    joins = [
        ir.node("Concat", [old, new], {"axis": _POSITIONS}, outputs=[whole], name=f"{whole.name}/join")
        for old, new, whole in ((past, codes, coded.codes), (past_scales, scales, coded.scales))
    ]
    graph.insert_before(cache.join, [quantize, *joins])
    graph.outputs[list(graph.outputs).index(present)] = coded.codes
    graph.outputs.append(coded.scales)
    present.name, coded.codes.name = f"{name}.float", name
    for use in list(present.uses()):
        if use.node.op_type in _SIZES:
            use.node.replace_input_with(use.idx, coded.codes)
    ports = {"past": past, "past_scales": past_scales, "present": coded.codes, "present_scales": coded.scales}
    listed = [*json.loads(model.metadata_props.get(CACHES, "[]")), {key: str(one.name) for key, one in ports.items()}]
    model.metadata_props[CACHES] = json.dumps(listed)
    return coded


def _like(value: ir.Value, name: str, kind: ir.DataType, graph: ir.Graph) -> ir.Value:
    """A value of another type under a name that is free; scales, which are floats, have one for each row."""
    taken = {str(one.name) for node in graph for one in node.outputs} | {str(one.name) for one in graph.inputs}
    taken |= set(graph.initializers)
    free = next(one for one in itertools.chain([name], (f"{name}_{i}" for i in itertools.count())) if one not in taken)
    shape = value.shape
    if shape is not None and kind == ir.DataType.FLOAT:
        shape = ir.Shape([*shape[:-1], 1])
    return ir.Value(name=free, type=ir.TensorType(kind), shape=shape)
