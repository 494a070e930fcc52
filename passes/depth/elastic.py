# SPDX-License-Identifier: Apache-2.0
"""A graph that runs with fewer blocks where its caller asks for them: an ``If`` around each block that may be left out.

Asking ONNX Runtime for an early output of a graph saves nothing, since it runs every node all the same; the branch of
an ``If`` that is not taken does not run. Weights stay in the main graph, where the branches read them, so that no depth
stores again what another has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._subgraphs import reads_of_own_graph
from edgefold.passes.base import OPTION


@dataclasses.dataclass(frozen=True)
class Form:
    """What computes the end of a region at one depth.

    Attributes:
        source: a model that has it.
        start: the value of ``source`` with which the region begins there.
        end: the value of ``source`` that has what the region gives; its name may be another.
    """

    source: ir.Model
    start: ir.Value | None
    end: ir.Value


@dataclasses.dataclass(frozen=True)
class Region:
    """Nodes of the full model that give one value, and what stands in for them at smaller depths.

    Attributes:
        nodes: in graph order; nothing outside of them reads what they make but ``end``.
        start: the value with which they begin, and which ``end`` is where the region is left out.
        end: what they give.
        forms: one a depth, in ascending order; None where the region is left out. The last is the full model's.
    """

    nodes: tuple[ir.Node, ...]
    start: ir.Value | None
    end: ir.Value
    forms: tuple[Form | None, ...]


@dataclasses.dataclass(frozen=True)
class _Body:
    """A form as it would stand in a branch.

    Attributes:
        form: None where the region is left out.
        bounds: values of the form's model with which it begins -> values of the elastic graph.
        key: equal for bodies that compute the same: the same operators on the same tensors.
    """

    form: Form | None
    bounds: dict[ir.Value, ir.Value]
    key: frozenset[tuple[object, ...]]


class ElasticGraph:
    """Adds the input and exchanges regions for branches.

    Args:
        model: changed in place.
        depths: in ascending order; the last is the full one, and the default of the input.
        name: of the input, an int64 scalar. A depth in between runs as the next smaller one, a depth below the
            smallest as the smallest.

    Attributes:
        exchanged: names of the values that branches give.
    """

    def __init__(self, model: ir.Model, depths: Sequence[int], name: str) -> None:
        self._graph = model.graph
        self._depths = tuple(depths)
        self._values = _values(model.graph)
        self._store = InitializerStore(model.graph)
        self._private: dict[int, ir.Value] = {}  # by the identity of the tensor: branches share what is equal
        self._depth = self._optional_input(name)
        self._conditions: dict[int, ir.Value] = {}
        self.exchanged: list[str] = []

    def exchange(self, region: Region) -> bool:
        """Puts an ``If`` in the place of a region; False where it runs alike at every depth."""
        bodies = [self._body(form, region) for form in region.forms]
        if len({body.key for body in bodies}) == 1:
            return False
        choice, producer = self._choice(region, bodies, 0), region.end.producer()
        assert producer is not None, "a node of the region makes its end"
        self._graph.insert_after(producer, choice)
        region.end.replace_all_uses_with(choice.outputs[0], replace_graph_outputs=True)
        self._graph.remove(region.nodes, safe=True)
        for value in (value for node in region.nodes for value in node.outputs):
            self._values.pop(str(value.name), None)
        choice.outputs[0].name = region.end.name
        self.exchanged.append(str(region.end.name))
        self._values[str(region.end.name)] = choice.outputs[0]
        return True

    @property
    def private(self) -> tuple[ir.Value, ...]:
        """The weights that smaller depths have of their own."""
        return tuple(self._private.values())

    def _body(self, form: Form | None, region: Region) -> _Body:
        """Walks back from the end of a form to where it begins."""
        bounds: dict[ir.Value, ir.Value] = {}
        parts: set[tuple[object, ...]] = set()
        inside = {value.name for node in region.nodes for value in node.outputs}
        pending = [] if form is None else [form.end]
        seen: set[ir.Value] = set()
        while form is not None and pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            node = value.producer()
            if value is form.start:
                bounds[value] = self._start(region)
            elif value is not form.end and value.name not in inside and value.name in self._values:
                bounds[value] = self._values[value.name]
            elif node is not None:
                tensors = [None if one is None else id(one.const_value) for one in node.inputs]
                parts.add((*node.op_identifier(), *(one.name for one in node.outputs if one is not form.end), *tensors))
                pending.extend(reads_of_own_graph(node))
        return _Body(form, bounds, frozenset(parts))

    def _start(self, region: Region) -> ir.Value:
        """The value with which a region begins; the region before it may be a branch by now."""
        assert region.start is not None, "only what begins somewhere can be left out"
        return self._values[str(region.start.name)]

    def _choice(self, region: Region, bodies: Sequence[_Body], first: int) -> ir.Node:
        """An ``If`` between the bodies of consecutive depths, split where the body changes, from above.

        Args:
            region: what it stands for.
            bodies: of the depths from index ``first`` on.
            first: index of the smallest depth.
        """
        split = next(index for index in range(len(bodies) - 1, 0, -1) if bodies[index - 1].key != bodies[-1].key)
        branches = [
            ir.Attr("then_branch", ir.AttributeType.GRAPH, self._branch(region, bodies[split:], first + split)),
            ir.Attr("else_branch", ir.AttributeType.GRAPH, self._branch(region, bodies[:split], first)),
        ]
        bound = self._depths[first + split]
        name = f"{region.end.name}/{self._depth.name}>={bound}"
        choice = ir.Node("", "If", [self._at_least(bound)], attributes=branches, name=name)
        _describe(choice.outputs[0], region.end, name)
        return choice

    def _branch(self, region: Region, bodies: Sequence[_Body], first: int) -> ir.Graph:
        suffix = f"@{self._depth.name}{self._depths[first]}"
        name = f"{region.end.name}{suffix}"
        if len({body.key for body in bodies}) > 1:
            node = self._choice(region, bodies, first)
        elif bodies[0].form is None:
            node = ir.Node("", "Identity", [self._start(region)], name=name)
            _describe(node.outputs[0], region.end, name)
        else:
            return self._copied(bodies[0].form, bodies[0].bounds, name, suffix)
        return ir.Graph([], node.outputs, nodes=[node], name=name)

    def _copied(self, form: Form, bounds: dict[ir.Value, ir.Value], name: str, suffix: str) -> ir.Graph:
        """The nodes of a form, reading the values of the elastic graph."""
        body = ir.convenience.extract(form.source.graph, list(bounds), [form.end])
        for inner, outer in zip(list(body.inputs), bounds.values(), strict=True):
            inner.replace_all_uses_with(outer)
        body.inputs.clear()
        for inner in list(body.initializers.values()):
            inner.replace_all_uses_with(self._weight(inner, suffix))
        body.initializers.clear()
        body.name = name
        for node in body.all_nodes():
            node.name = f"{node.name}{suffix}" if node.name else None
            for value in node.outputs:
                value.name = f"{value.name}{suffix}" if value.name else value.name
        return body

    def _weight(self, value: ir.Value, suffix: str) -> ir.Value:
        """The initializer of the elastic graph with a tensor; a new one for a tensor that the full depth lacks."""
        known, tensor = self._graph.initializers.get(str(value.name)), value.const_value
        assert tensor is not None, "it is an initializer"
        if known is not None and known.const_value is tensor:
            return known
        if id(tensor) not in self._private:
            self._private[id(tensor)] = self._store.add_own(f"{value.name}{suffix}", tensor.numpy())
        return self._private[id(tensor)]

    def _at_least(self, depth: int) -> ir.Value:
        """Whether so many blocks or more were asked for."""
        if depth not in self._conditions:
            bound = self._store.add_own(f"{self._depth.name}_{depth}", np.array(depth, np.int64))
            node = ir.node("GreaterOrEqual", [self._depth, bound], name=f"{self._depth.name}>={depth}")
            node.outputs[0].name = node.name
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
            self._graph.insert_before(self._graph[0], node)
            self._conditions[depth] = node.outputs[0]
        return self._conditions[depth]

    def _optional_input(self, name: str) -> ir.Value:
        """An input with a default, which in ONNX is an input and an initializer of one name."""
        default = ir.tensor(np.array(self._depths[-1], np.int64), name=name)
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]), const_value=default)
        value.metadata_props[OPTION] = ",".join(map(str, self._depths))
        self._graph.inputs.append(value)
        self._graph.register_initializer(value)
        return value


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of a graph that are no weights, by name."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {value.name: value for value in values if value.name and not value.is_initializer()}


def _describe(value: ir.Value, like: ir.Value, name: str) -> None:
    value.name, value.type = name, like.type
    value.shape = None if like.shape is None else like.shape.copy()
