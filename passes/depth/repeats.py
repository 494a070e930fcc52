# SPDX-License-Identifier: Apache-2.0
"""Runs of equal parts in a chain of waists, which is a word whose letters are the steps from waist to waist.

A *tandem repeat* is a piece of a word that is some shorter word two or more times over: the blocks of a network. A
block begins with a step that opens a residual branch, and never holds a step that mixes the stream by weights without
a branch around it: such steps (patch merging, projections, plain layers) end a run. Of all repeats the one that covers
most residual branches is taken, of these the one with the shortest period; then the same on either side of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgefold.passes.depth.steps import Step


@dataclass(frozen=True)
class Repeat:
    """`count` times `period` steps from `start` on."""

    start: int
    period: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.period * self.count


def repeats(steps: Sequence[Step]) -> Iterator[Repeat]:
    """The repeats of a chain, without overlap, in order."""
    begin = 0
    for end in range(len(steps) + 1):
        if end == len(steps) or steps[end].breaks:
            yield from _within(steps, begin, end)
            begin = end + 1


def _within(steps: Sequence[Step], begin: int, end: int) -> Iterator[Repeat]:
    branches = [0, *itertools.accumulate(step.branches for step in steps)]

    def preference(one: Repeat) -> tuple[int, int, int, int]:
        return branches[one.end] - branches[one.start], -one.period, -steps[one.start].rank, -one.start

    best = max(_candidates(steps, begin, end), key=preference, default=None)
    if best is not None:
        yield from _within(steps, begin, best.start)
        yield best
        yield from _within(steps, best.end, end)


def _candidates(steps: Sequence[Step], begin: int, end: int) -> Iterator[Repeat]:
    """For every period and every longest piece that has it: the repeats that begin in its first period."""
    word = np.array([step.signature for step in steps[begin:end]])
    for period in range(1, len(word) // 2 + 1):
        same = np.concatenate([[False], word[:-period] == word[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            for start in range(int(first), int(first) + period):
                count = (int(last) + period - start) // period
                if count >= 2 and steps[begin + start].branches:
                    yield Repeat(begin + start, period, count)
