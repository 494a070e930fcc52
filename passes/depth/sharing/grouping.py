# SPDX-License-Identifier: Apache-2.0
"""Which consecutive blocks share their weights: the partition of least error within a budget of bytes.

The errors of the groups are measured one by one and added up; dynamic programming over the blocks then finds the best
partition (the grouping that FoldGPT, 2407.00928, leaves open). Only partitions that no other beats in both bytes and
error are carried on, so the budget need not be cut into steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive blocks that use one set of weights.

    Attributes:
        blocks: their numbers, ascending.
        source: the block whose weights they are; None for the mean of all.
        nbytes: what is stored for the group.
        error: of the outputs, where all other blocks keep their weights.
    """

    blocks: tuple[int, ...]
    source: int | None
    nbytes: int
    error: float = 0.0

    @property
    def shares(self) -> bool:
        """Whether there is anything to share: a block alone keeps its own weights."""
        return len(self.blocks) > 1


@dataclasses.dataclass(frozen=True)
class Partition:
    """Groups that together hold every block once, in order."""

    groups: tuple[Group, ...] = ()
    nbytes: int = 0
    error: float = 0.0

    def plus(self, group: Group) -> Partition:
        """The partition with one more group behind."""
        return Partition((*self.groups, group), self.nbytes + group.nbytes, self.error + group.error)


def best_partition(blocks: Sequence[int], candidates: Iterable[Group], budget: int) -> Partition:
    """The partition of least error within the budget; where none is within it, the smallest one.

    Args:
        blocks: all block numbers, ascending.
        candidates: groups to choose from; every block is in one alone.
        budget: bytes.
    """
    ending: dict[int, list[Group]] = {}
    for group in candidates:
        ending.setdefault(group.blocks[-1], []).append(group)
    fronts: dict[int, list[Partition]] = {-1: [Partition()]}
    for index, block in enumerate(blocks):
        grown = (partition.plus(group) for group in ending[block] for partition in fronts[index - len(group.blocks)])
        fronts[index] = _unbeaten(grown)
    front = fronts[len(blocks) - 1]
    affordable = [partition for partition in front if partition.nbytes <= budget]
    return min(affordable, key=lambda one: one.error) if affordable else front[0]


def _unbeaten(partitions: Iterable[Partition]) -> list[Partition]:
    """Those that no other beats in both bytes and error, the smallest first."""
    front: list[Partition] = []
    for partition in sorted(partitions, key=lambda one: (one.nbytes, one.error)):
        if not front or partition.error < front[-1].error:
            front.append(partition)
    return front


def runs(numbers: Iterable[int], private: Iterable[int]) -> list[tuple[int, ...]]:
    """The longest runs of consecutive blocks none of which is private."""
    found: list[list[int]] = []
    alone = set(private)
    previous = None
    for number in numbers:
        if number not in alone:
            if previous is None or previous in alone:
                found.append([])
            found[-1].append(number)
        previous = number
    return [tuple(run) for run in found]


def windows(runs: Iterable[tuple[int, ...]], longest: int) -> list[tuple[int, ...]]:
    """All groups of two to ``longest`` consecutive blocks."""
    return [
        run[start : start + length]
        for run in runs
        for length in range(2, min(longest, len(run)) + 1)
        for start in range(len(run) - length + 1)
    ]


def cheapest_sources(groups: Iterable[Group]) -> list[Group]:
    """Of the groups of the same blocks the one whose source does the least harm."""
    best: dict[tuple[int, ...], Group] = {}
    for group in groups:
        if group.blocks not in best or group.error < best[group.blocks].error:
            best[group.blocks] = group
    return list(best.values())
