# SPDX-License-Identifier: Apache-2.0
"""Values of tensors over many batches, asked for from the inputs of a graph to its outputs, computing each node once.

A layer-by-layer repair asks for the inputs of layer after layer, and changes weights in between. Running the model from
its inputs each time costs the square of its depth. Here the values that later nodes will read are held, and the next
request starts from those of them whose ancestors are as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._subgraphs import reads_of_own_graph
from edgefold.session import make_session, run

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

MAX_HELD = 512 << 20
"""Bytes of activations held from one request to the next; above it, the next one starts further up."""

MAX_REMEMBERED = 256 << 20
"""Bytes of activations among these that are held for good because the same may be asked for again."""


class Segments:
    """A model that is run piece by piece, always on the same batches.

    Args:
        model: read at each request; between requests, weights may be exchanged, inputs of nodes added, and nodes
            replaced by others.
        stream: makes a fresh iterator over the batches.
        threads: of ONNX Runtime; 0 leaves the choice to it.
        max_held: bytes of activations held from one request to the next.
        remembers: how many of these are held for good once they were asked for, the first ones first; they are computed
            once however often the graph is gone down.
    """

    def __init__(
        self,
        model: ir.Model,
        stream: Callable[[], Iterable[Feeds]],
        *,
        threads: int = 0,
        max_held: int = MAX_HELD,
        remembers: int = 0,
    ) -> None:
        self._model = model
        self._stream = stream
        self._threads = threads
        self._max_held = max_held
        self._remembers = remembers
        self._asked: set[str] = set()
        self._held: dict[str, list[Array]] = {}
        self._states: dict[ir.Value, int] = {}  # of the values when they were computed
        self._seen: dict[int, object] = {}  # tensors in the states, referenced so that no other takes their identity

    def values(self, names: Sequence[str]) -> Iterator[dict[str, Array]]:
        """The values of tensors of the main graph, one mapping a batch; to be read to the end.

        Raises:
            ModelError: the graph has no such tensor, or ONNX Runtime refuses the model or cannot run it.
        """
        values = ir.convenience.create_value_mapping(self._model.graph, include_subgraphs=False)
        for name in names:
            if name not in values:
                raise ModelError(f"calibration: the model has no tensor '{name}'")
        self._asked.update(names)
        states = self._current_states()
        self._held = {
            name: held
            for name, held in self._held.items()
            if name in values and values[name] in self._states and states[values[name]] == self._states[values[name]]
        }
        again = (values[name] for name in names if name not in self._held)
        if any(self._states.get(value) == states[value] for value in again):  # the graph is gone down anew
            self._states = {values[name]: states[values[name]] for name in self._held}
        piece = _piece([values[name] for name in names], self._held)
        compute = self._session(piece)
        held: dict[str, list[Array]] | None = {name: [] for name in piece.outputs}
        size = sum(value.nbytes for batches in self._held.values() for value in batches)
        for number, feeds in enumerate(self._stream()):
            available = {**feeds, **{name: batches[number] for name, batches in self._held.items()}}
            found = compute(available)
            size += sum(value.nbytes for value in found.values() if isinstance(value, np.ndarray))
            if held is not None and size <= self._max_held:
                for name, value in found.items():
                    held[name].append(value)
            else:
                held = None
            yield {name: found[name] if name in found else available[name] for name in names}
        if held is not None:
            self._hold(self._held | held, values, states, piece.nodes)

    def _hold(
        self,
        candidates: dict[str, list[Array]],
        values: Mapping[str, ir.Value],
        states: dict[ir.Value, int],
        nodes: set[ir.Node],
    ) -> None:
        """Keeps what a node that has not run yet will read, and of the rest what may be asked for again."""
        ran = {value for value, state in self._states.items() if states.get(value) == state}
        ran.update(output for node in nodes for output in node.outputs)
        self._states = {value: states[value] for value in ran}
        before, self._held, room = self._held, {}, self._remembers
        for name, batches in candidates.items():
            if not all(isinstance(one, np.ndarray) for one in batches):
                continue  # sequences of tensors are computed again
            size = sum(one.nbytes for one in batches)
            if name in self._asked and size <= room:
                # An array of ONNX Runtime keeps the whole arena of its session: a copy outlives it alone.
                self._held[name] = batches if name in before else [one.copy() for one in batches]
                room -= size
            elif any(use.node.outputs[0] not in ran for use in values[name].uses()):
                self._held[name] = batches
        self._states |= {values[name]: states[values[name]] for name in self._held}

    def _session(self, piece: _Piece) -> Callable[[Feeds], dict[str, Array]]:
        """A function from the values that a piece reads to those it computes."""
        if not piece.outputs:
            return lambda feeds: {}
        graph = ir.convenience.extract(self._model.graph, piece.inputs, piece.outputs)
        for value in graph.inputs:
            if value.name in self._held:
                held = self._held[str(value.name)][0]
                value.dtype, value.shape = ir.DataType.from_numpy(held.dtype), ir.Shape([None] * held.ndim)
        model = ir.Model(graph, ir_version=self._model.ir_version, functions=list(self._model.functions.values()))
        session = make_session(model, threads=self._threads)
        inputs = [one.name for one in session.get_inputs()]

        def compute(feeds: Feeds) -> dict[str, Array]:
            values = run(session, piece.outputs, {name: feeds[name] for name in inputs})
            return dict(zip(piece.outputs, values, strict=True))

        return compute

    def _current_states(self) -> dict[ir.Value, int]:
        """For each value a number that changes when one of its ancestors does."""
        states: dict[ir.Value, int] = {}
        for value in (*self._model.graph.inputs, *self._model.graph.initializers.values()):
            if value.const_value is not None:
                self._seen[id(value.const_value)] = value.const_value
            states[value] = hash((value.name, id(value.const_value)))
        for node in self._model.graph:
            read = hash(tuple(states.get(value, 0) for value in reads_of_own_graph(node) if value is not None))
            states.update((output, hash((output.name, read))) for output in node.outputs)
        return states


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Part of a graph: the values it reads, the nodes, and the values wanted of it."""

    inputs: list[str]
    nodes: set[ir.Node]
    outputs: list[str]


def _piece(wanted: Sequence[ir.Value], held: Mapping[str, Any]) -> _Piece:
    """What has to run for the wanted values; its outputs include all that nodes outside of it will read."""
    nodes: set[ir.Node] = set()
    inputs: dict[ir.Value, None] = {}
    pending = [value for value in wanted if value.name not in held]
    while pending:
        value = pending.pop()
        node = value.producer()
        if value.name in held or (node is None and not value.is_initializer()):
            inputs[value] = None
        elif node is not None and node not in nodes:
            nodes.add(node)
            pending.extend(one for one in reads_of_own_graph(node) if one is not None)
    produced = [value for node in nodes for value in node.outputs if value.name]
    read_later = [value for value in produced if any(use.node not in nodes for use in value.uses())]
    outputs = dict.fromkeys(str(value.name) for value in (*wanted, *read_later) if value.producer() in nodes)
    return _Piece([str(value.name) for value in inputs if value.producer() not in nodes], nodes, list(outputs))
