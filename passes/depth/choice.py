# SPDX-License-Identifier: Apache-2.0
"""The search for the parts whose removal costs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgefold.passes.depth.budget import Budget
from edgefold.passes.depth.candidates import Candidate, Move
from edgefold.passes.depth.judges import Judge


def best(choices: Sequence[Move], judge: Judge) -> Move:
    """The choice with the least loss: exhaustive search."""
    return min(choices, key=judge)


def greedy(
    found: Sequence[Candidate],
    moves: Sequence[Move],
    budget: Budget,
    judge: Judge,
    accepts: Callable[[Move], bool] = lambda gone: True,
) -> Move:
    """One move after the other, each the one that adds the least loss for its size (SLEB, arXiv 2402.09025).

    With a judge that adds up scores, this removes the lowest scores. It ends where the budget is met, where it allows
    no further move, or where what is next is not accepted: a test too slow to be made of every option.
    """

    def size(gone: Move) -> float:
        return float(sum(found[i].size for i in gone))

    gone: Move = frozenset()
    while not budget.met(gone):
        options = [gone | move for move in moves if not move <= gone and budget.allows(gone | move)]
        if not options:
            break
        before, smaller = judge(gone), size(gone)
        following = min(options, key=lambda option: (judge(option) - before) / (size(option) - smaller))
        if not accepts(following):
            break
        gone = following
    return gone
