# SPDX-License-Identifier: Apache-2.0
"""From a criterion and a budget to the parts that go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.depth.budget import Budget, all_choices, all_runs
from edgefold.passes.depth.candidates import Candidate, Move
from edgefold.passes.depth.choice import best, greedy
from edgefold.passes.depth.gates import gated
from edgefold.passes.depth.judges import Additive, Judge, MacroInfluence, OutputError, block_influence

Criterion = Literal[
    "auto", "repaired", "exhaustive", "greedy", "block-influence", "macro-influence", "gates", "last", "random"
]
SHORTLIST = 6
"""Choices that are repaired before they are judged."""
RUNS = 2
"""Of them that are at least runs of consecutive candidates."""


@dataclass(frozen=True)
class Selection:
    """What goes and why.

    Attributes:
        gone: positions of candidates.
        criterion: that was applied.
        losses: of each candidate alone, by the criterion.
        error: of the outputs without what goes, before any repair; None without calibration data.
        repaired: of choices that were repaired, the error of the outputs on data that the repair has not seen.
        skips: where a simpler criterion had to do.
    """

    gone: Move
    criterion: Criterion
    losses: tuple[float, ...]
    error: float | None
    repaired: Mapping[Move, float]
    skips: tuple[Skip, ...]


@dataclass(frozen=True)
class Selector:
    """What a search for parts starts from.

    Attributes:
        model: holds the candidates.
        found: what may go.
        moves: steps of the greedy search.
        context: of the pass.
        output_error: of the model without some candidates; None without calibration data.
        repaired_error: the same once the rest is repaired, on data that the repair has not seen; None where nothing is.
    """

    model: ir.Model
    found: Sequence[Candidate]
    moves: Sequence[Move]
    context: Context
    output_error: Judge | None
    repaired_error: Judge | None = None

    @classmethod
    def of(
        cls,
        model: ir.Model,
        found: Sequence[Candidate],
        moves: Sequence[Move],
        context: Context,
        repaired_error: Judge | None = None,
    ) -> Selector:
        measure = context.divergence or context.perturb
        error = OutputError(model, [one.part for one in found], measure) if measure else None
        return cls(model, found, moves, context, error, repaired_error if error else None)

    def select(
        self, criterion: Criterion, budget: Budget, accepts: Callable[[Move], bool] = lambda gone: True
    ) -> Selection:
        """What to remove.

        Args:
            criterion: by which; `auto` is `repaired` where the rest is repaired and the budget says how much goes, else
                `exhaustive` where that leaves few enough choices, else `greedy`.
            budget: how much.
            accepts: asked of each step of a search that goes step by step.
        """
        criterion, skips = self._possible(criterion)
        listed = criterion in ("repaired", "auto", "exhaustive")
        choices = all_choices(budget, len(self.found)) if listed else None
        if criterion == "exhaustive" and choices is None:
            skips += (Skip("model", SkipReason.FALLBACK, "too many choices to measure all of them: greedy instead"),)
        if criterion in ("auto", "exhaustive"):
            criterion = "greedy" if choices is None else "exhaustive"
        judge = self._judge(criterion, budget)
        repaired: dict[Move, float] = {}
        if criterion == "repaired":
            repaired = self._repaired(budget, choices, judge)
            gone = min(repaired, key=repaired.__getitem__)
        else:
            gone = best(choices, judge) if choices else greedy(self.found, self.moves, budget, judge, accepts)
        losses = tuple(judge(frozenset((position,))) for position in range(len(self.found)))
        error = self.output_error(gone) if self.output_error else None
        return Selection(gone, criterion, losses, error, repaired, skips)

    def _repaired(self, budget: Budget, choices: Sequence[Move] | None, judge: Judge) -> dict[Move, float]:
        """The errors after a repair of the few choices that promise most.

        Blocks that follow each other are among them, for a repair makes up for a run best: the block before it aims at
        the stream behind it.
        """
        assert self.repaired_error is not None
        if choices is None:
            judges = [self._judge(one, budget) for one in ("greedy", "block-influence", "macro-influence", "last")]
            promising = [greedy(self.found, self.moves, budget, one) for one in judges]
        else:
            promising = sorted(choices, key=judge)[: SHORTLIST - RUNS]
        runs = [one for one in all_runs(budget, len(self.found)) if one not in promising]
        shortlist = dict.fromkeys((*promising, *sorted(runs, key=judge)[:RUNS]))
        if frozenset() in shortlist:
            return {frozenset(): 0.0}  # nothing is to go
        return {gone: self.repaired_error(gone) for gone in shortlist}

    def _possible(self, criterion: Criterion) -> tuple[Criterion, tuple[Skip, ...]]:
        """The criterion, or what can take its place here, with a Skip that says so."""
        if criterion == "auto" and self.repaired_error is not None:
            return "repaired", ()
        if criterion == "repaired" and self.repaired_error is None and self.output_error is not None:
            return "auto", (Skip("model", SkipReason.FALLBACK, "nothing is repaired: judged without a repair"),)
        if criterion == "gates" and self.context.learn_gates is None and self.output_error is not None:
            why = "gates are learnt by torch, which is not there (edgefold[heal]): the outputs' error decides"
            stands_in: Criterion = "auto" if self.repaired_error is None else "repaired"
            return stands_in, (Skip("model", SkipReason.FALLBACK, why),)
        if criterion not in ("last", "random") and self.output_error is None:
            return "last", (Skip("model", SkipReason.NO_CALIBRATION, "the last ones go"),)
        return criterion, ()

    def _judge(self, criterion: Criterion, budget: Budget) -> Judge:
        parts = [one.part for one in self.found]
        if criterion == "last":
            return Additive([-float(position) for position in range(len(parts))])
        if criterion == "random":
            return Additive(np.random.default_rng(self.context.seed).random(len(parts)).tolist())
        if criterion == "gates":
            return Additive(self._gates(budget.kept))
        calibration = self.context.calibration
        if criterion == "block-influence" and calibration is not None:
            return Additive(block_influence(self.model, parts, calibration))
        if criterion == "macro-influence" and calibration is not None:
            return MacroInfluence(self.model, parts, parts[-1], calibration)
        assert self.output_error is not None, "without calibration data the last ones go"
        return self.output_error

    def _gates(self, kept: float) -> list[float]:
        """The gates' values, learnt together; weights stand for multiply-accumulates where these are not known."""
        assert self.context.learn_gates is not None
        copy, names = gated(self.model, [one.part for one in self.found])
        known = all(one.macs for one in self.found)
        costs = [float(one.macs if known else one.weights) for one in self.found]
        learnt = self.context.learn_gates(copy, dict(zip(names, costs, strict=True)), kept)
        return [float(learnt[name]) for name in names]
