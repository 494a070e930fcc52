# SPDX-License-Identifier: Apache-2.0
"""The oracle: removing units gives what the whole model gives with those units set to zero wherever they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.errors import ModelError
from edgefold.interface import ModelInterface
from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Dependencies, Exactness, Pruned, Trace
from edgefold.passes.pruning.masking import masked
from edgefold.passes.pruning.prepare import prepare, share
from edgefold.probing import probe
from edgefold.probing_feeds import first_sizes, make_feeds, other_sizes
from edgefold.session import make_session, run

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Examined:
    """A model as the passes see it: prepared, traced, analysed."""

    model: ir.Model
    trace: Trace
    dependencies: Dependencies

    def places(self) -> list[tuple[str, int]]:
        """The exact groups: ``parameter.axis`` of all of their slices in the order of names, and the number of units.

        Two groups may have the same place: heads and their dimensions.
        """
        exact = [group for group in self.dependencies.groups if group.exactness == Exactness.EXACT]
        return sorted(
            (" ".join(sorted({f"{one.parameter}.{one.axis}" for one in group.slices})), group.size) for group in exact
        )


def examine(model: ir.Model) -> Examined:
    """Prepares, probes and analyses a model."""
    prepared = ir.from_proto(ir.to_proto(model))  # as a file would give it
    ties = prepare(prepared)
    trace = probe(prepared)
    return Examined(prepared, trace, analyse(prepared, trace, ties))


def some_units(dependencies: Dependencies, share_removed: float, seed: int = 0) -> Pruned:
    """A random share of the units of every exact group, but never all, nor all of an axis (as of a part of a Split)."""
    random = np.random.default_rng(seed)
    chosen = {}
    for group in dependencies.groups:
        if group.exactness == Exactness.EXACT and group.size > 1:
            count = min(group.size - 1, round(group.size * share_removed))
            chosen[group.name] = np.sort(random.permutation(group.size)[:count])
    while any(len(stays) == 0 for stays in dependencies.kept(chosen).values()):
        chosen = {name: units[: len(units) // 2] for name, units in chosen.items()}
    return chosen


def assert_oracle(examined: Examined, pruned: Pruned, tolerance: float = 1e-5) -> ir.Model:
    """Cuts, checks the result as a file, and compares it with the masked model at two sizes of its dynamic axes."""
    small = examined.model.clone()
    cut(small, examined.dependencies, examined.trace, pruned)
    share(small)
    onnx.checker.check_model(ir.to_proto(small), full_check=True)
    reference = masked(examined.model, examined.dependencies, examined.trace, pruned)
    assert declared(small) == declared(examined.model)
    for feeds in sized_feeds(examined.model):
        for name, wanted in outputs(reference, feeds).items():
            got = outputs(small, feeds)[name]
            assert got.shape == wanted.shape
            assert np.isfinite(wanted).all()
            difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max(initial=0)
            assert difference <= tolerance * max(float(np.abs(wanted).max(initial=0)), 1e-3), (name, difference)
    return small


def sized_feeds(model: ir.Model) -> list[Mapping[str, Array]]:
    """Random feeds of two sizes, where the model takes two."""
    port = interface(model)
    found: list[Mapping[str, Array]] = []
    sizes = next(first_sizes(port, None, {}))
    for seed, one in enumerate([sizes, *other_sizes(sizes)]):
        feeds = make_feeds(port, one, None, seed)
        try:
            outputs(model, feeds)
        except ModelError:
            continue  # a size that this model does not take
        found.append(feeds)
        if len(found) == 2:
            break
    assert found
    return found


def outputs(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    session = make_session(model, threads=1)
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, run(session, names, feeds), strict=True))


def declared(model: ir.Model) -> list[str]:
    """Names, types and shapes of inputs and outputs, as the file states them."""
    return [f"{one.name} {one.type} {one.shape}" for one in (*model.graph.inputs, *model.graph.outputs)]


def interface(model: ir.Model) -> ModelInterface:
    return ModelInterface.of(make_session(model, threads=1))
