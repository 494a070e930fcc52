# SPDX-License-Identifier: Apache-2.0
"""One compression under way: the recipe's steps, the search for the goals, and what was measured of them."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from edgefold import end_to_end
from edgefold.checkpoints import Checkpoints
from edgefold.files.loading import LoadedModel
from edgefold.findings import findings_of
from edgefold.goals import Attempt, search
from edgefold.heal.differentiation import differentiator, gate_learner
from edgefold.heal.step import healer
from edgefold.measuring.figures import measured_figures
from edgefold.measuring.measure import model_size
from edgefold.nodewise import NodeError, custom_nodes, node_errors, prove_portable
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fuse_experts import FuseExperts
from edgefold.passes.quantization.mixed_precision import widths_for
from edgefold.passes.quantize import Override, Quantize
from edgefold.pipeline import Inputs, StepRecord, raise_to_minimum_opset, run_recipe
from edgefold.plan import Plan
from edgefold.provenance import versions
from edgefold.recipe import Recipe
from edgefold.report import Figures, Report
from edgefold.scoring.evaluate import Evaluation, evaluate, paired_difference
from edgefold.scoring.task import Split

log = logging.getLogger("edgefold")

Records = list[Mapping[str, Any]]


class Run:
    """What was loaded, what was done to it so far, and what was measured.

    Attributes:
        recipe: as planned; after a search for the goals, with the per-node widths found.
        last_good: the newest model that passed its checks.
        records: one JSON record a finished step.
    """

    def __init__(self, loaded: LoadedModel, plan: Plan, inputs: Inputs, checkpoints: Checkpoints) -> None:
        self.loaded = loaded
        self.plan = plan
        self.recipe = plan.recipe
        self.inputs = inputs
        if plan.task and plan.task.has_calibration:
            task, seed = plan.task, plan.recipe.seed
            heal = healer(loaded.model, task, seed, checkpoints.folder / "heal")
            gates = gate_learner(task, seed)
            self.inputs = dataclasses.replace(inputs, heal=heal, gradients=differentiator(task), learn_gates=gates)
        self.checkpoints = checkpoints
        self.records: Records = []
        self.last_good = loaded.model
        self.ranking: list[NodeError] = []
        self.portability: Mapping[str, Any] | None = None
        self.before: Evaluation | None = None
        self._before_step: dict[int, ir.Model] = {}  # kept for the search only
        self._layers = loaded.model  # the latest model whose layers are nodes of their own, as in the original

    def compress(self) -> ir.Model:
        """Run the recipe, then the search for the goals where they were stated, then prove the result portable."""
        if self.plan.task:
            log.info("scoring the original ...")
            self.before = evaluate(self.loaded.path, self.plan.task)
        start, model, self.records = self.checkpoints.resume(self.loaded.model)
        if start == 0:
            model, raised = raise_to_minimum_opset(model, self.inputs)
            if raised:
                self.records.append(raised.to_json())
        self.last_good = model
        self._keep(start, model)
        self._layers = model
        model = self._steps(model, self.recipe, start)
        self._rank(self._layers)
        if self.plan.has_goals:
            model = self._search_goals(model)
            self._rank(self._layers)  # of the widths that were found
        if self.inputs.probe and custom_nodes(model):
            log.info("comparing stock ONNX Runtime with the library, node by node ...")
            self.portability = prove_portable(model, self.inputs.probe).to_json()
        return model

    def report(self, written: Path, folder: Path) -> Report:
        """Measure the written file and say what came of it."""
        after: Evaluation | None = None
        change: dict[str, Any] | None = None
        proven: tuple[str, ...] = ()
        if self.plan.task and self.before:
            log.info("scoring the compressed model ...")
            after = evaluate(written, self.plan.task)
            value, interval = paired_difference(after, self.before)
            change = {"value": value, "ci95": list(interval)}
            if self.portability:  # else there is nothing but standard operators to agree on
                proven = self._prove_end_to_end(written)
        old, new, latency = measured_figures(self.loaded, written, self.before, after, self.inputs)
        goals = self._goals(new, after)
        ranking = tuple((error.node, error.noise_to_signal) for error in self.ranking)
        lower_is_worse = self.before is not None and self.before.worse == "lower"
        return Report(
            status="done" if all(goal["met"] for goal in goals.values()) else "goal missed",
            model=self.plan.model,
            output=str(folder),
            before=old,
            after=new,
            steps=self.records,
            change=change,
            portability=self.portability,
            goals=goals or None,
            ranking=ranking,
            findings=findings_of(old, new, self.records, change, lower_is_worse, goals, ranking)
            + proven
            + unrun(self.inputs),
            environment={**versions(), "latency": latency},
        )

    def _prove_end_to_end(self, written: Path) -> tuple[str, ...]:
        """Findings of the proof that the file scores the same with the library and without.

        Raises:
            VerificationError: it does not.
        """
        assert self.plan.task is not None
        log.info("scoring some samples in stock ONNX Runtime too ...")
        split: Split = "calibration" if self.plan.task.has_calibration else "eval"
        score = functools.partial(
            evaluate, written, self.plan.task, split=split, original=self.loaded.path, limit=end_to_end.SAMPLES
        )
        proof = end_to_end.prove_end_to_end(score, written.name)
        values = {"metric": proof.ours.value, "metric_stock": proof.stock.value, "steady": proof.steady}
        self.portability = {**(self.portability or {}), **values}
        return proof.findings()

    def _steps(self, model: ir.Model, recipe: Recipe, start: int) -> ir.Model:
        def finished(index: int, result: ir.Model, record: StepRecord) -> None:
            self.records.append(record.to_json())
            self.last_good = result
            if not isinstance(recipe.steps[index], FuseBlocks | FuseExperts):
                self._layers = result
            self._keep(index + 1, result)
            self.checkpoints.save(index + 1, result, self.records)

        return run_recipe(
            model,
            recipe.steps,
            self.inputs,
            exclude=recipe.exclude,
            seed=recipe.seed,
            finished=finished,
            resume_from=start,
        )

    def _keep(self, index: int, model: ir.Model) -> None:
        if self.plan.has_goals:
            self._before_step[index] = model

    def _rank(self, model: ir.Model) -> None:
        if self.inputs.probe and custom_nodes(model):
            log.info("ranking the nodes by the error that each adds ...")
            self.ranking = node_errors(self.loaded.model, model, self.inputs.probe)

    def _search_goals(self, first: ir.Model) -> ir.Model:
        """Spend more or fewer bits until the goals hold on the calibration split; see ``edgefold.goals``."""
        steps = enumerate(self.recipe.steps)
        # A file of several widths has the bits of all of them.
        index = max((i for i, step in steps if isinstance(step, Quantize) and not step.widths), default=-1)
        if index not in self._before_step:
            return first
        base, done = self._before_step[index], self.records[: len(self.records) - (len(self.recipe.steps) - index)]
        drop = self.plan.max_drop
        original = self._calibration_score(self.loaded.model) if drop else None
        step: Any = self.recipe.steps[index]
        table: Sequence[Mapping[str, Any]] = self.records[len(done)]["table"]

        def judged(bits: float, model: ir.Model, recipe: Recipe) -> Attempt:
            loss = drop.loss_of(original, self._calibration_score(model)) if drop and original else None
            return Attempt(bits, model_size(model), loss, (model, recipe, self.records, self._layers))

        def build(bits: float) -> Attempt:
            nonlocal table
            recipe = with_bits(self.recipe, index, bits, table)
            self.records = list(done)
            model = self._steps(base, recipe, index)
            table = table or self.records[len(done)]["table"]
            return judged(bits, model, recipe)

        best, attempts = search(
            judged(step.bits or step.weights, first, self.recipe),
            build,
            max_loss=drop.amount if drop else None,
            max_bytes=self.plan.max_bytes,
        )
        log.info("goals: %d compressions tried", len(attempts))
        model, self.recipe, self.records, self._layers = best.payload
        assert isinstance(model, ir.Model)
        return model

    def _calibration_score(self, model: ir.Model) -> Evaluation:
        assert self.plan.task is not None
        return evaluate(model, self.plan.task, split="calibration", original=self.loaded.path)

    def _goals(self, after: Figures, score: Evaluation | None) -> dict[str, dict[str, Any]]:
        goals: dict[str, dict[str, Any]] = {}
        drop, limit = self.plan.max_drop, self.plan.max_bytes
        if drop and self.before and score:
            loss = drop.loss_of(self.before, score)
            goals["max_drop"] = {"goal": str(drop), "measured": loss, "met": loss <= drop.amount}
        if limit:
            goals["max_size"] = {"goal": limit, "measured": after.bytes, "met": after.bytes <= limit}
        return goals


def unrun(inputs: Inputs) -> tuple[str, ...]:
    """The finding that a model could not be run, where it could not."""
    if inputs.probe is not None:
        return ()
    return ("The model was never run, since no made-up inputs fit: nothing was verified or timed. Give a task (-d).",)


def with_bits(recipe: Recipe, index: int, bits: float, table: Sequence[Mapping[str, Any]]) -> Recipe:
    """The recipe with so many bits a weight in its step ``index``, which measures where they go, or knows it.

    Args:
        recipe: its overrides go before those that a table gives, and their widths are in it.
        index: of a step ``quantize``.
        bits: on average.
        table: what the step measured before, whose widths are then given node by node; empty if it has not.
    """
    step = recipe.steps[index]
    assert isinstance(step, Quantize)
    if table:
        found = widths_for(table, bits, step.bits_weighting)
        given = tuple(Override(match=name, weights=width) for name, width in sorted(found.items()))
        changed = msgspec.structs.replace(step, bits=None, overrides=(*given, *step.overrides))
    else:
        changed = msgspec.structs.replace(step, bits=bits)
    return msgspec.structs.replace(recipe, steps=(*recipe.steps[:index], changed, *recipe.steps[index + 1 :]))
