# SPDX-License-Identifier: Apache-2.0
"""Two runs of a model in ONNX Runtime that show the shape of every value, and what depends on dynamic sizes.

Shape inference cannot follow every exporter's arithmetic; a run can. Activations are seen through Shape nodes, so that
none outlives its readers; what happens inside If, Loop and Scan, through `probing_bodies`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgefold.errors import ModelError
from edgefold.interface import ModelInterface
from edgefold.passes._names import name_apart
from edgefold.passes._subgraphs import bodies, inside_out
from edgefold.passes.pruning.groups import AxisKey, Trace, runs_of
from edgefold.probing_bodies import TURNED, BodyObserver, Inside, flippable, turn
from edgefold.probing_feeds import Sizes, first_sizes, make_feeds, other_sizes
from edgefold.sequence_values import sequence_values
from edgefold.session import LITTLE_MEMORY, make_session, run

log = logging.getLogger("edgefold")

MAX_ELEMENTS = 4096
"""Values of larger tensors are not kept; no vector of sizes, axes or indices of channels is longer."""

Array = np.ndarray[Any, Any]
_SHAPE_OPS = ("Shape", "Size")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")
_DECISIONS = frozenset(("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor"))
_INDEX_TYPES = frozenset((ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL))


def probe(
    model: ir.Model,
    feeds: Mapping[str, Array] | None = None,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> Trace:
    """Run a model at two sets of sizes and data.

    Args:
        model: not changed.
        feeds: arrays that the model takes, of which the first run has the sizes and the first two samples.
        shapes: of inputs, for the first run, where there are no feeds.
        seed: of random data.

    Raises:
        ModelError: the model runs neither at the given sizes nor at any that were guessed.
    """
    observer = _Observer(model)
    sizes, seen = observer.first_run(first_sizes(observer.interface, feeds, shapes or {}), feeds, seed)
    other, all_changed = observer.second_run(sizes, feeds, seed + 1)
    shapes_seen = {name: shape for name, shape in seen.shapes.items() if name in other.shapes}  # in both runs
    found = {name: array for name, array in seen.values.items() if array.size <= MAX_ELEMENTS and name in shapes_seen}
    # What depends on a size that could not be changed is not known to be static.
    varying = {name for name in found if not all_changed or not np.array_equal(found[name], other.values.get(name, ()))}
    dynamic = {
        (name, axis)
        for name, shape in shapes_seen.items()
        for axis, (size, changed) in enumerate(zip(shape, other.shapes[name], strict=False))
        if size != changed
    }
    varying |= seen.varying | other.varying
    return Trace(
        shapes={**observer.stored_shapes, **shapes_seen},
        values={**observer.stored_values, **found},
        varying=frozenset(varying | _decided(model, varying)),
        dynamic=frozenset(dynamic | seen.dynamic | other.dynamic),
    )


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Shapes and values of one run, and in bodies what was not the same each time."""

    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Array]
    varying: set[str]
    dynamic: set[AxisKey]


class _Observer:
    """A session whose outputs are the shapes of all activations, and values that no data enter.

    Attributes:
        interface: of the model.
        data: names of values that depend on the data of the inputs and not only on their sizes.
        stored_shapes, stored_values: of the initializers.
    """

    def __init__(self, model: ir.Model) -> None:
        copy = model.clone()
        name_apart(copy)  # what was seen of a body is told by the name of its node
        common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(copy)
        sequences = sequence_values(copy.graph)
        for value in sequences - set(copy.graph.inputs):
            value.type, value.shape = None, None  # onnx_ir takes what inference says of them for that of a tensor
        self.data, from_shapes = _origins(copy.graph)

        def is_tensor(value: ir.Value) -> bool:
            return value not in sequences

        def is_wanted(value: ir.Value) -> bool:
            known = value.dtype in _INDEX_TYPES or (value.name in from_shapes and _is_float(value))
            return known and value.name not in self.data

        inputs = {id(value) for value in copy.graph.inputs if not value.is_initializer()}
        produced = [value for node in copy.graph for value in node.outputs if value.name and is_tensor(value)]
        values = [value for value in copy.graph.inputs if id(value) in inputs and is_tensor(value)] + produced
        self._names = [str(value.name) for value in values]
        self._exposed = [value for value in produced if is_wanted(value)]
        stored = {name: value.const_value for name, value in copy.graph.initializers.items() if value.const_value}
        self.stored_shapes = {name: tuple(tensor.shape.numpy()) for name, tensor in stored.items()}
        self.stored_values = {
            name: tensor.numpy()
            for name, tensor in stored.items()
            if tensor.size <= MAX_ELEMENTS and tensor.dtype != ir.DataType.STRING
        }
        self._branches = [str(node.name) for node in flippable(copy)]
        turn(copy.graph, self._branches)
        self._bodies = BodyObserver(copy, is_tensor, is_wanted)
        _expose(copy.graph, values, [*self._exposed, *self._bodies.outputs])
        self._session = make_session(copy, threads=1, optimize=False, config=LITTLE_MEMORY)
        whole = ModelInterface.of(self._session)
        self.interface = dataclasses.replace(whole, inputs=tuple(one for one in whole.inputs if one.name != TURNED))

    def run(self, feeds: Mapping[str, Array]) -> _Seen:
        outputs, inside = self._once(feeds, frozenset())
        shapes = dict(zip(self._names, (tuple(map(int, shape)) for shape in outputs), strict=False))
        values = {
            str(value.name): array for value, array in zip(self._exposed, outputs[len(self._names) :], strict=False)
        }
        self._see_other_branches(feeds, inside)
        return _Seen({**shapes, **inside.shapes}, {**values, **inside.values}, inside.varying, inside.dynamic)

    def _once(self, feeds: Mapping[str, Array], turned: frozenset[str]) -> tuple[list[Array], Inside]:
        """Outputs of one run, with some conditions turned round, and what the tables among them say."""
        turns = {TURNED: np.array([name in turned for name in self._branches])} if self._branches else {}
        outputs = run(self._session, None, {**feeds, **turns})
        return outputs, self._bodies.read(outputs[len(self._names) + len(self._exposed) :])

    def _see_other_branches(self, feeds: Mapping[str, Array], inside: Inside) -> None:
        """Runs again where one branch of an If has not run, with the conditions turned round, of all or one by one."""
        turned: frozenset[str] = frozenset()
        while more := frozenset(name for name in self._branches if _is_half_seen(name, inside)) - turned:
            for trial in (more, *(frozenset([name]) for name in sorted(more) if len(more) > 1)):
                try:
                    inside.add(self._once(feeds, turned | trial)[1])
                except ModelError as error:
                    log.debug("probe: not with turned conditions of %s: %s", ", ".join(trial), error)
                    continue
                if trial == more:
                    break
            turned |= more

    def first_run(self, trials: Iterator[Sizes], feeds: Mapping[str, Array] | None, seed: int) -> tuple[Sizes, _Seen]:
        """The first sizes at which the model runs.

        Raises:
            ModelError: there are none.
        """
        refused: ModelError | None = None
        for sizes in trials:
            try:
                return sizes, self.run(make_feeds(self.interface, sizes, feeds, seed))
            except ModelError as error:
                refused = refused or error
        raise ModelError(
            f"{refused}; give it data or sizes that it runs on (-d TASK, or --shape where there is no task)"
        )

    def second_run(self, sizes: Sizes, feeds: Mapping[str, Array] | None, seed: int) -> tuple[_Seen, bool]:
        """A run at other sizes, and whether all were others; where the model runs at one size only, at that size."""
        for trial in other_sizes(sizes):
            try:
                seen = self.run(make_feeds(self.interface, trial, feeds, seed, shift=1))
            except ModelError as error:
                log.debug("probe: not at sizes %s: %s", trial, error)
                continue
            return seen, all(trial.of[symbol] != size for symbol, size in sizes.of.items())
        return self.run(make_feeds(self.interface, sizes, feeds, seed, shift=1)), not sizes.of


def _is_half_seen(node: str, inside: Inside) -> bool:
    return sum(runs_of(node, branch) in inside.shapes for branch in ("then_branch", "else_branch")) == 1


def _decided(model: ir.Model, varying: set[str]) -> set[str]:
    """What was decided by something that varies: equal in both runs or not, it is another elsewhere."""
    decided: set[str] = set()
    for node in inside_out(model.graph):
        if (node.op_type in _DECISIONS or bodies(node)) and not _sources(node).isdisjoint(varying | decided):
            decided.update(str(value.name) for value in node.outputs)
    return decided


def _origins(graph: ir.Graph) -> tuple[set[str], set[str]]:
    """Names of the values that depend on data, and of those that depend on shapes alone."""
    data = {str(value.name) for value in graph.inputs if not value.is_initializer()}
    shapes: set[str] = set()
    # A state may be another in the next iteration, so that it counts as data.
    data.update(str(value.name) for body in graph.subgraphs() for value in body.inputs)
    for node in inside_out(graph):
        read = _sources(node)
        outputs = {str(value.name) for value in node.outputs}
        if node.op_type in _SHAPE_OPS and node.domain == "":
            shapes |= outputs
        elif read & data or node.op_type in _RANDOM:
            data |= outputs
        elif read & shapes:
            shapes |= outputs
    return data, shapes


def _sources(node: ir.Node) -> set[str]:
    """Names of what a node's outputs are made of: its inputs and what its bodies give."""
    # Of the second input of CastLike only the type matters.
    given = (value for body in bodies(node) for value in body.outputs)
    read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
    return {str(value.name) for value in (*read, *given) if value is not None}


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _expose(graph: ir.Graph, shapes: list[ir.Value], values: list[ir.Value]) -> None:
    """Make the shapes of some values, and other values themselves, the outputs of the graph."""
    graph.outputs.clear()
    for value in shapes:
        node = ir.node("Shape", [value], name=f"{value.name}:edgefold-shape")
        node.outputs[0].name = f"{value.name}:edgefold-shape"
        node.outputs[0].dtype = ir.DataType.INT64
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    graph.outputs.extend(values)
