# SPDX-License-Identifier: Apache-2.0
"""What runs inside If, Loop and Scan, made visible: each body also gives a table of its shapes and small values.

A table is double [4, columns]: an element as it first was, its least, its greatest, and its sum over all times that the
body ran. Tables of inner bodies are columns in those of outer ones, so that the main graph has one for each node with
bodies. What never ran is -inf in the first row.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes.pruning.groups import AxisKey, runs_of

Array = np.ndarray[Any, Any]
Wanted = Callable[[ir.Value], bool]

MAX_RANK = 8
MAX_ELEMENTS = 64
"""Values of larger tensors are not kept: every one of a body takes so many columns."""

TURNED = "turned:edgefold"
_OWN = ":edgefold"  # the end of names of what is added
_NEUTRAL = np.array([-np.inf, np.inf, -np.inf, 0.0])
_OPSET = 11  # that brought GatherElements; the pipeline raises older models
_REDUCE_SUM_AXES, _REDUCE_AXES = 13, 18  # the opsets that made axes an input
_EXACT = 2.0**53  # integers up to here are doubles
_LONG = 1 << 20  # trip counts from here on stand for "until the condition says so"
_WIDTHS = {"runs": 1, "shape": 1 + MAX_RANK, "value": MAX_ELEMENTS}


@dataclasses.dataclass(frozen=True)
class _Column:
    """Some columns of a table: how often a body ran; rank and lengths of a value; or its elements."""

    kind: Literal["runs", "shape", "value"]
    name: str
    dtype: ir.DataType | None = None


@dataclasses.dataclass(frozen=True)
class _Table:
    value: ir.Value
    columns: tuple[_Column, ...]

    @property
    def width(self) -> int:
        return sum(_WIDTHS[column.kind] for column in self.columns)


@dataclasses.dataclass(frozen=True)
class Inside:
    """What was seen in bodies.

    Attributes:
        shapes: of values, where they first were; how often bodies ran, under `runs_of`.
        values: small ones, at the same time.
        varying: names of those of `values` that were not the same each time.
        dynamic: axes that had not the same length each time.
    """

    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    values: dict[str, Array] = dataclasses.field(default_factory=dict)
    varying: set[str] = dataclasses.field(default_factory=set)
    dynamic: set[AxisKey] = dataclasses.field(default_factory=set)

    def add(self, other: Inside) -> None:
        """Takes over what another run showed of bodies that have not been seen yet; they count as never run."""
        for name, shape in other.shapes.items():
            self.shapes.setdefault(name, (0,) if name.endswith(":runs") else shape)
        self.values.update({name: array for name, array in other.values.items() if name not in self.values})
        self.varying.update(other.varying)
        self.dynamic.update(other.dynamic)


class BodyObserver:
    """Adds tables to the bodies of a model.

    Args:
        model: a copy that is only run; changed in place.
        is_tensor: whether a value has a shape.
        is_wanted: whether a value's elements are kept.

    Attributes:
        outputs: the tables, which are to be outputs of the main graph.
    """

    def __init__(self, model: ir.Model, is_tensor: Wanted, is_wanted: Wanted) -> None:
        self._graph = model.graph
        self._opset = model.graph.opset_imports.get("", 1)
        self._is_tensor, self._is_wanted = is_tensor, is_wanted
        self._numbers = itertools.count()
        self._loops: list[tuple[ir.Graph, frozenset[str]]] = []
        self._tables = [] if self._opset < _OPSET else list(self._around(model.graph))
        self.outputs = [table.value for table in self._tables]

    def read(self, tables: Sequence[Array]) -> Inside:
        """What the tables of one run say."""
        found = Inside()
        for table, array in zip(self._tables, tables, strict=True):
            ends = np.cumsum([_WIDTHS[column.kind] for column in table.columns])
            for column, part in zip(table.columns, np.split(array, ends[:-1], axis=1), strict=True):
                _read(found, column, part)
        for body, names in self._loops:
            if not _steady(body, found):
                for name in names:
                    found.shapes.pop(name, None)
                    found.values.pop(name, None)
        return found

    def _around(self, graph: ir.Graph) -> Iterator[_Table]:
        """The tables of all nodes of a graph that have bodies, as values of that graph."""
        for node in list(graph):
            if node.domain in ("", "ai.onnx") and node.op_type == "If":
                yield self._branches(node)
            elif node.domain in ("", "ai.onnx") and node.op_type in ("Loop", "Scan"):
                yield self._iterations(graph, node)

    def _branches(self, node: ir.Node) -> _Table:
        """The table of either branch beside nothing for the other."""
        branches = [(name, node.attributes[name].as_graph()) for name in ("then_branch", "else_branch")]
        tables = [self._inside(runs_of(str(node.name), name), body) for name, body in branches]
        nothing = [self._constant(np.repeat(_NEUTRAL[:, None], table.width, axis=1)) for table in tables]
        for taken, (_, body) in enumerate(branches):
            both = [tables[i].value if i == taken else nothing[i] for i in range(2)]
            body.outputs.append(self._add(body, "Concat", both, axis=1))
        return _Table(self._new_output(node), tables[0].columns + tables[1].columns)

    def _iterations(self, graph: ir.Graph, node: ir.Node) -> _Table:
        """The tables of all iterations, summed up."""
        body = node.attributes["body"].as_graph()
        table = self._inside(runs_of(str(node.name), "body"), body)
        table.value.shape = ir.Shape([len(_NEUTRAL), table.width])  # ONNX Runtime asks it where nothing runs
        body.outputs.append(table.value)
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in node.attributes:
                node.attributes[name] = ir.AttrInt64s(name, [*node.attributes[name].as_ints(), 0])
        if node.op_type == "Loop":
            self._loops.append((body, frozenset(column.name for column in table.columns)))
        # A neutral iteration is the last one, so that there is something to reduce where there are none.
        nothing = self._constant(np.repeat(_NEUTRAL[None, :, None], table.width, axis=2))
        every = self._add(graph, "Concat", [self._new_output(node), nothing], axis=0)
        return _Table(self._summed(graph, every), table.columns)

    def _summed(self, graph: ir.Graph, every: ir.Value) -> ir.Value:
        """One table from those of all iterations, double [iterations, 4, columns]."""
        rows = [self._add(graph, "Gather", [every, self._constant(np.array(row))], axis=1) for row in range(4)]
        ran = self._add(graph, "Greater", [rows[0], self._constant(np.array(-np.inf))])
        number = self._add(graph, "Cast", [ran], to=ir.DataType.FLOAT.value)
        first = self._add(graph, "ArgMax", [number], axis=0, keepdims=1)
        reduced = [
            self._add(graph, "GatherElements", [rows[0], first], axis=0),
            self._reduced(graph, "ReduceMin", rows[1], _REDUCE_AXES),
            self._reduced(graph, "ReduceMax", rows[2], _REDUCE_AXES),
            self._reduced(graph, "ReduceSum", rows[3], _REDUCE_SUM_AXES),
        ]
        return self._add(graph, "Concat", reduced, axis=0)

    def _inside(self, runs: str, body: ir.Graph) -> _Table:
        """The table of one run of a body."""
        nested = list(self._around(body))
        produced = [value for node in list(body) for value in node.outputs if value.name and _OWN not in value.name]
        values = [value for value in (*body.inputs, *produced) if self._is_tensor(value)]
        columns, parts = [_Column("runs", runs)], [self._constant(np.ones(1))]
        for value in values:
            shape = self._add(body, "Shape", [value])
            rank = self._add(body, "Shape", [shape])
            columns.append(_Column("shape", str(value.name)))
            parts += [self._double(body, rank), self._padded(body, shape, MAX_RANK)]
        for value in filter(self._is_wanted, produced):
            flat = self._add(body, "Reshape", [value, self._constant(np.array([-1]))])
            columns.append(_Column("value", str(value.name), value.dtype))
            parts.append(self._padded(body, flat, MAX_ELEMENTS))
        row = self._add(body, "Reshape", [self._add(body, "Concat", parts, axis=0), self._constant(np.array([1, -1]))])
        table = self._add(body, "Concat", [row] * len(_NEUTRAL), axis=0)
        if nested:
            table = self._add(body, "Concat", [table, *(one.value for one in nested)], axis=1)
        return _Table(table, (*columns, *(column for one in nested for column in one.columns)))

    def _padded(self, graph: ir.Graph, vector: ir.Value, length: int) -> ir.Value:
        """The first elements of a vector as doubles, with -1 behind them where they are fewer."""
        parts = [self._double(graph, vector), self._constant(np.full(length, -1.0))]
        longer = self._add(graph, "Concat", parts, axis=0)
        return self._add(graph, "Gather", [longer, self._constant(np.arange(length))], axis=0)

    def _double(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        return self._add(graph, "Cast", [value], to=ir.DataType.DOUBLE.value)

    def _reduced(self, graph: ir.Graph, op_type: str, value: ir.Value, since: int) -> ir.Value:
        if self._opset < since:
            return self._add(graph, op_type, [value], axes=[0], keepdims=1)
        return self._add(graph, op_type, [value, self._constant(np.array([0]))], keepdims=1)

    def _add(self, graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A node at the end of a graph."""
        node = ir.node(op_type, inputs, attributes, name=self._name())
        node.outputs[0].name = node.name
        if op_type == "Concat":
            node.outputs[0].dtype = ir.DataType.DOUBLE
        graph.append(node)
        return node.outputs[0]

    def _constant(self, array: Array) -> ir.Value:
        name = self._name()
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self._graph.register_initializer(value)
        return value

    def _new_output(self, node: ir.Node) -> ir.Value:
        node.resize_outputs(len(node.outputs) + 1)
        node.outputs[-1].name, node.outputs[-1].dtype = self._name(), ir.DataType.DOUBLE
        return node.outputs[-1]

    def _name(self) -> str:
        return f"{next(self._numbers)}{_OWN}"


def flippable(model: ir.Model) -> list[ir.Node]:
    """The If nodes of a model; none where a Loop might then never end."""
    nodes = list(model.graph.all_nodes())
    loops = [node.inputs[0] for node in nodes if node.op_type == "Loop"]
    stored = [trip.const_value for trip in loops if trip is not None and trip.const_value is not None]
    endless = None in loops or any(count.numpy().max() >= _LONG for count in stored)
    if endless or model.graph.opset_imports.get("", 1) < _OPSET:
        return []
    return [node for node in nodes if node.op_type == "If"]


def turn(graph: ir.Graph, branches: Sequence[str]) -> None:
    """Puts an input in front of the conditions of If nodes that says which of them to turn round."""
    if not branches:
        return
    turned = ir.Value(name=TURNED, shape=ir.Shape([len(branches)]), type=ir.TensorType(ir.DataType.BOOL))
    graph.inputs.append(turned)
    for node in [node for node in graph.all_nodes() if str(node.name) in branches]:
        position = ir.tensor(np.array(branches.index(str(node.name))), name=f"{node.name}:edgefold-position")
        index = ir.Value(name=position.name, const_value=position)
        graph.register_initializer(index)
        turn = ir.node("Gather", [turned, index], {"axis": 0}, name=f"{node.name}:edgefold-turn")
        condition = ir.node("Xor", [node.inputs[0], turn.outputs[0]], name=f"{node.name}:edgefold-condition")
        for one in (turn, condition):
            one.outputs[0].name = one.name
        assert node.graph is not None
        node.graph.insert_before(node, [turn, condition])
        node.replace_input_with(0, condition.outputs[0])


def _read(found: Inside, column: _Column, part: Array) -> None:
    first, least, greatest, total = part
    if first[0] == -np.inf:
        return
    name, steady = column.name, least == greatest
    if column.kind == "runs":
        found.shapes[name] = (int(total[0]),)
    elif column.kind == "shape":
        rank = int(first[0])
        if rank <= MAX_RANK and steady[0]:
            found.shapes[name] = tuple(int(length) for length in first[1 : 1 + rank])
            found.dynamic.update((name, axis) for axis in range(rank) if not steady[1 + axis])
    elif name in found.shapes:
        size = int(np.prod(found.shapes[name]))
        numbers = first[:size]
        assert column.dtype is not None
        exact = column.dtype.is_floating_point() or bool((np.abs(numbers) <= _EXACT).all())
        if size <= MAX_ELEMENTS and exact:
            found.values[name] = numbers.astype(column.dtype.numpy()).reshape(found.shapes[name])
            if not steady[:size].all() or any(key[0] == name for key in found.dynamic):
                found.varying.add(name)


def _steady(body: ir.Graph, found: Inside) -> bool:
    """Whether all was seen that a Loop does to the lengths of its states: if it changes some, in several iterations."""
    for before, after in zip(body.inputs[2:], body.outputs[1:], strict=False):
        one, other = (found.shapes.get(str(value.name)) for value in (before, after))
        if one is None or other is None:
            continue
        if len(one) != len(other):
            return False
        changed = [axis for axis, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        if any((str(before.name), axis) not in found.dynamic for axis in changed):
            return False
    return True
