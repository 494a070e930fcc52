# SPDX-License-Identifier: Apache-2.0
"""Criteria that look at what the readers of a group multiply: second-order scores, and mean squared activations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._halves import Halves
from edgefold.passes._layer_inputs import Inputs
from edgefold.passes._least_squares import DAMPING
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs, weighted_node
from edgefold.passes.base import Calibrates
from edgefold.passes.pruning.dilution import Sum, dilution, sums_after
from edgefold.passes.pruning.groups import Group, IntArray, Role, Slice
from edgefold.passes.pruning.importance import Vector, gather_units, group_scores
from edgefold.passes.pruning.second_order import Matrix, Surgeon, White, removal_scores, surgeons
from edgefold.passes.pruning.weight_scores import Weights, energy

_MOMENT_BYTES = 256 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""
_MOST_MOMENT_BYTES = 512 << 20
"""A reader of so many inputs that its second moments would be larger is judged as if they were white; the sums after
one of so many outputs are not looked at."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer that sums over the units of a group.

    Attributes:
        one: where the units lie on its weights.
        inputs: what it multiplies them with; None where calibration cannot say.
        weight: float64 [P, K, N].
        sums: that its output enters; see `dilution`.
    """

    one: Slice
    inputs: Inputs | None
    weight: Matrix
    sums: tuple[Sum, ...] = ()

    @property
    def units(self) -> IntArray:
        """The unit of each of the K inputs: K runs over kernel positions, then channels."""
        return np.tile(self.one.units, self.weight.shape[1] // len(self.one.units))

    @property
    def requests(self) -> tuple[Inputs, ...]:
        """What calibration is asked about it."""
        inputs = () if self.inputs is None else (self.inputs,)
        return (*inputs, *itertools.chain.from_iterable(self.sums))

    @property
    def moment_bytes(self) -> int:
        """Size of what calibration answers."""
        runs, k, n = self.weight.shape
        inputs = 0 if self.inputs is None else runs * k**2
        return int(8 * (inputs + 2 * len(self.sums) * (runs * n) ** 2))


def second_order_scores(
    groups: Sequence[Group],
    model: ir.Model,
    calibration: Calibrates,
    weights: Weights,
    most: Mapping[str, int],
) -> dict[str, Vector]:
    """Relative output error that each unit's removal adds to the group's readers; see `second_order`.

    The error counts relative to the tensor that later layers see, see `dilution`. Readers of which calibration sees no
    inputs (recurrent layers), or too many, are judged as if these were white; a group that no parameter reads, by the
    energy of its writers.

    Args:
        groups: to be scored.
        model: the prepared model.
        calibration: of that model.
        weights: its parameters.
        most: units that may go from each group.
    """
    scores = group_scores(groups, energy(weights))
    for portion in _portions(groups, _sites(model), weights):
        asked = [request for readers in portion.values() for one in readers for request in one.requests]
        moments = calibration.halves(asked)
        for group in groups:
            if readers := portion.get(group.name):
                states = [state for reader in readers for state in _states(reader, moments, group.size)]
                scores[group.name] = removal_scores(states, group.size, most[group.name])
    return scores


def activation_scores(
    groups: Sequence[Group], model: ir.Model, calibration: Calibrates, weights: Weights
) -> dict[str, list[Vector]]:
    """Mean square of each unit's channels as each reader sees them, a list over readers; none without readers."""
    scores: dict[str, list[Vector]] = {}
    for portion in _portions(groups, _sites(model), weights):
        asked = [one.inputs for readers in portion.values() for one in readers if one.inputs is not None]
        moments = calibration.moments(asked)
        for group in groups:
            for reader in portion.get(group.name, ()):
                if reader.inputs is not None:
                    seen = moments[reader.inputs]
                    squares = np.einsum("pkk->k", seen.xtx) / max(seen.count, 1)
                    scores.setdefault(group.name, []).append(gather_units(squares, reader.units, group.size))
    return scores


def _sites(model: ir.Model) -> dict[tuple[str, str], WeightedNode]:
    """Layers by their own name and that of their weights."""
    found = (weighted_node(node) for node in model.graph)
    sites = [site for site in found if isinstance(site, WeightedNode) and site.kind != "gather"]
    return {(str(site.node.name), str(site.weight.root.name)): site for site in sites}


def _portions(
    groups: Sequence[Group], sites: Mapping[tuple[str, str], WeightedNode], weights: Weights
) -> Iterator[dict[str, list[Reader]]]:
    """The readers of each group, in portions whose moments fit into memory."""
    portion: dict[str, list[Reader]] = {}
    held = 0
    for group in groups:
        readers = [_reader(one, sites, weights) for one in group.on(Role.READER)]
        size = sum(one.moment_bytes for one in readers)
        if portion and held + size > _MOMENT_BYTES:
            yield portion
            portion, held = {}, 0
        portion[group.name] = readers
        held += size
    if portion:
        yield portion


def _reader(one: Slice, sites: Mapping[tuple[str, str], WeightedNode], weights: Weights) -> Reader:
    site = sites.get((one.node, one.parameter))
    sums = () if site is None or 8 * site.n**2 > _MOST_MOMENT_BYTES else sums_after(site)
    if site is None or 8 * site.k**2 > _MOST_MOMENT_BYTES:
        weight = np.moveaxis(weights[one.parameter], one.axis, 0).astype(np.float64)
        return Reader(one, None, weight.reshape(1, len(weight), -1), sums)
    runs = site.geometry.group if site.geometry else 1
    matrix = site.matrix().astype(np.float64).reshape(site.k, runs, -1)
    return Reader(one, layer_inputs(site), np.moveaxis(matrix, 1, 0), sums)


def _states(reader: Reader, moments: Mapping[Inputs, Halves], size: int) -> Sequence[Surgeon | White]:
    gain = dilution(reader.sums, {one: moments[one].whole for pair in reader.sums for one in pair})
    if reader.inputs is not None:
        seen = moments[reader.inputs]
        return surgeons(reader.weight, seen.whole, reader.units, gain, max(DAMPING, seen.shrinkage_ridge()))
    squares = np.square(reader.weight).sum(axis=(0, 2))
    shares = gather_units(squares, reader.units, size) / max(float(squares.sum()), 1e-30)
    return [White(gain * shares)]
