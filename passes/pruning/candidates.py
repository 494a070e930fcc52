# SPDX-License-Identifier: Apache-2.0
"""Which groups of a model may lose units under the options of the user, and why the others may not."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.groups import AxisKey, Exactness, Group, Slice

Attention = Literal["heads", "dims", "both"]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The groups to choose from.

    Attributes:
        groups: that may lose units, in the order of the graph.
        skips: one for each other group, and one for each barrier.
    """

    groups: tuple[Group, ...]
    skips: tuple[Skip, ...]


def candidates(
    known: Analysis,
    *,
    attention: Attention,
    statistics: bool,
    excludes: Callable[[str], bool],
) -> Candidates:
    """Sorts the groups of a model.

    Args:
        known: the model's analysis.
        attention: which units go where an axis is a product of heads and dimensions: whole heads, the same dimension
            of every head, or either.
        statistics: whether units that a normalization averages over may go.
        excludes: tells by its name whether a node must stay as it is.
    """
    dependencies = known.dependencies
    other_factor = _other_factors(dependencies.groups, known.op_types, attention)
    groups: list[Group] = []
    skips = [
        Skip(one.node, SkipReason.BARRIER, f"{one.op_type}: {one.why}; {one.channels} channels")
        for one in dependencies.barriers
    ]
    for group in dependencies.groups:
        node = group.slices[0].node
        excluded = next((one.node for one in group.slices if excludes(one.node)), None)
        if excluded is not None:
            skips.append(Skip(node, SkipReason.EXCLUDED, f"{group.size} units with {excluded}"))
        elif group.exactness == Exactness.STATISTICS and not statistics:
            skips.append(Skip(node, SkipReason.STATISTICS, f"{group.size} units, by {group.cause}"))
        elif group.name in other_factor:
            skips.append(Skip(node, SkipReason.OTHER_FACTOR, f"{group.size} units; attention is {attention}"))
        else:
            groups.append(group)
    return Candidates(tuple(groups), tuple(skips))


def _other_factors(groups: Sequence[Group], op_types: Mapping[str, str], attention: Attention) -> set[str]:
    """Names of groups that share an axis as one factor of a product, where the other factor is wanted.

    The two kinds of units of a grouped convolution are also such factors; there either may go.
    """
    if attention == "both":
        return set()
    unwanted = set()
    for sharing in _sharing(groups):
        if any(op_types.get(one.node) == "Conv" for _, one in sharing):
            continue
        runs = [_run(one) for _, one in sharing]
        wanted = max(runs) if attention == "heads" else min(runs)
        unwanted |= {name for (name, _), run in zip(sharing, runs, strict=True) if run != wanted}
    return unwanted


def _sharing(groups: Sequence[Group]) -> Iterator[list[tuple[str, Slice]]]:
    """For each index range of a parameter's axis that several groups lie on, those groups with their slices there."""
    by_axis: defaultdict[AxisKey, list[tuple[str, Slice]]] = defaultdict(list)
    for group in groups:
        for one in group.slices:
            by_axis[one.parameter, one.axis].append((group.name, one))
    for listed in by_axis.values():
        for position, (name, one) in enumerate(listed):
            others = [other for other in listed[position + 1 :] if np.any((one.units >= 0) & (other[1].units >= 0))]
            if others:
                yield [(name, one), *others]


def _run(one: Slice) -> int:
    """How many indices in a row belong to the same unit: 1 for the inner factor of a product."""
    first = int(np.argmax(one.units >= 0))
    changes = np.flatnonzero(np.diff(one.units[first:]))
    return int(changes[0]) + 1 if len(changes) else len(one.units) - first
