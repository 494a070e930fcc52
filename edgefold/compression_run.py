# SPDX-License-Identifier: Apache-2.0
"""One compression under way: the recipe's steps, the search for the goals, and what was measured of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from edgefold.checkpoints import Checkpoints
from edgefold.evaluate import Evaluation, evaluate, paired_difference
from edgefold.findings import findings_of
from edgefold.goals import Attempt, Drop, search
from edgefold.loading import LoadedModel
from edgefold.nodewise import NodeError, custom_nodes, node_errors, prove_portable
from edgefold.pipeline import Inputs, StepRecord, raise_to_minimum_opset, run_recipe
from edgefold.plan import Plan
from edgefold.provenance import versions
from edgefold.recipe import Recipe
from edgefold.report import Figures, Report

log = logging.getLogger("edgefold")


class Run:
    """One compression under way: what was loaded, what was done, what was measured."""

    def __init__(self, loaded: LoadedModel, plan: Plan, inputs: Inputs, checkpoints: Checkpoints) -> None:
        self.loaded = loaded
        self.plan = plan
        self.recipe = plan.recipe
        self.inputs = inputs
        self.checkpoints = checkpoints
        self.records: list[Mapping[str, Any]] = []
        self.last_good = loaded.model
        self.ranking: list[NodeError] = []
        self.portability: Mapping[str, Any] | None = None
        self.before: Evaluation | None = None
        self.before_step: dict[int, ir.Model] = {}

    def compress(self) -> ir.Model:
        """Run the recipe, then the search for the goals where they were stated, then prove the result portable."""
        if self.plan.task:
            log.info("scoring the original ...")
            self.before = evaluate(self.loaded.path, self.plan.task, library=False)
        start, model, self.records = self.checkpoints.resume(self.loaded.model)
        if start == 0:
            model, raised = raise_to_minimum_opset(model, self.inputs)
            if raised:
                self.records.append(raised.to_json())
        self.last_good = model
        self.before_step[start] = model
        model = self._steps(model, self.recipe, start)
        if self.inputs.probe and custom_nodes(model):
            self.ranking = node_errors(self.loaded.model, model, self.inputs.probe)
        if self.plan.max_drop or self.plan.max_bytes:
            model = self._search_goals(model)
        if self.inputs.probe and custom_nodes(model):
            log.info("comparing stock ONNX Runtime with the library, node by node ...")
            self.portability = prove_portable(model, self.inputs.probe).to_json()
        return model

    def _steps(self, model: ir.Model, recipe: Recipe, start: int) -> ir.Model:
        def finished(index: int, result: ir.Model, record: StepRecord) -> None:
            self.records.append(record.to_json())
            self.last_good = self.before_step[index + 1] = result
            self.checkpoints.save(index + 1, result, self.records)

        result, _ = run_recipe(model, recipe.steps, self.inputs, exclude=recipe.exclude, seed=recipe.seed,
                               finished=finished, resume_from=start)
        return result

    def _search_goals(self, first: ir.Model) -> ir.Model:
        """Change per-node widths until the goals hold on the calibration split; see ``edgefold.goals``."""
        index = max((i for i, s in enumerate(self.recipe.steps) if "overrides" in s.__struct_fields__), default=None)
        if index is None or index not in self.before_step:
            return first
        base, done = self.before_step[index], self.records
        calibration = self._calibration_score(self.loaded.model) if self.plan.max_drop else None
        widths = {str(n.name): int(n.attributes["bits"].as_int()) for n in custom_nodes(first)}

        def attempt(model: ir.Model, recipe: Recipe, records: list[Mapping[str, Any]]) -> Attempt:
            loss = self._loss(calibration, self._calibration_score(model)) if calibration else None
            return Attempt({}, self.plan.written_bytes(model), loss, (model, recipe, records))

        def build(changed: Mapping[str, int]) -> Attempt:
            recipe = _with_widths(self.recipe, index, changed)
            self.records = list(done[: len(done) - (len(recipe.steps) - index)])
            model = self._steps(base, recipe, index)
            return dataclasses.replace(attempt(model, recipe, self.records), widths=changed)

        drop = self.plan.max_drop
        best, _ = search(attempt(first, self.recipe, done), widths, [e.node for e in self.ranking], build,
                         max_loss=drop.amount if drop else None, max_bytes=self.plan.max_bytes)
        model, self.recipe, self.records = best.payload
        assert isinstance(model, ir.Model)
        return model

    def _calibration_score(self, model: ir.Model) -> Evaluation:
        assert self.plan.task is not None
        return evaluate(model, self.plan.task, split="calibration", original=self.loaded.model)

    def _loss(self, original: Evaluation, now: Evaluation) -> float:
        assert self.plan.max_drop is not None
        return _loss(self.plan.max_drop, original, now)

    def report(self, written: Path, folder: Path) -> Report:
        """Measure the written file and say what came of it."""
        plan, after = self.plan, None
        if plan.task:
            log.info("scoring the compressed model ...")
            after = evaluate(written, plan.task)
        figures, environment = plan.figures(self.loaded, written, self.before, after)
        change = None
        if self.before and after:
            value, interval = paired_difference(after, self.before)
            change = {"value": value, "ci95": list(interval)}
        goals = self._goals(figures[1], after)
        missed = [g for g in goals.values() if not g["met"]]
        ranking = tuple((e.node, e.noise_to_signal) for e in self.ranking)
        worse = self.before is not None and self.before.worse == "lower"
        found = findings_of(*figures, self.records, change, worse, goals, ranking)
        return Report(
            status="goal missed" if missed else "done",
            model=str(self.loaded.path), output=str(folder), before=figures[0], after=figures[1],
            steps=self.records, change=change, portability=self.portability, goals=goals or None,
            ranking=ranking, findings=found, environment={**versions(), **environment},
        )

    def _goals(self, after: Figures, score: Evaluation | None) -> dict[str, dict[str, Any]]:
        goals: dict[str, dict[str, Any]] = {}
        if self.plan.max_drop and self.before and score:
            loss = _loss(self.plan.max_drop, self.before, score)
            goals["max_drop"] = {"goal": str(self.plan.max_drop), "measured": loss,
                                 "met": loss <= self.plan.max_drop.amount}
        if self.plan.max_bytes:
            goals["max_size"] = {"goal": self.plan.max_bytes, "measured": after.bytes,
                                 "met": after.bytes <= self.plan.max_bytes}
        return goals


def _loss(self, original: Evaluation, now: Evaluation) -> float:
        assert self.plan.max_drop is not None
        return _loss(self.plan.max_drop, original, now)

    def report(self, written: Path, folder: Path) -> Report:
        """Measure the written file and say what came of it."""
        plan, after = self.plan, None
        if plan.task:
            log.info("scoring the compressed model ...")
            after = evaluate(written, plan.task)
        figures, environment = plan.figures(self.loaded, written, self.before, after)
        change = None
        if self.before and after:
            value, interval = paired_difference(after, self.before)
            change = {"value": value, "ci95": list(interval)}
        goals = self._goals(figures[1], after)
        missed = [g for g in goals.values() if not g["met"]]
        ranking = tuple((e.node, e.noise_to_signal) for e in self.ranking)
        worse = self.before is not None and self.before.worse == "lower"
        found = findings_of(*figures, self.records, change, worse, goals, ranking)
        return Report(
            status="goal missed" if missed else "done",
            model=str(self.loaded.path), output=str(folder), before=figures[0], after=figures[1],
            steps=self.records, change=change, portability=self.portability, goals=goals or None,
            ranking=ranking, findings=found, environment={**versions(), **environment},
        )

    def _goals(self, after: Figures, score: Evaluation | None) -> dict[str, dict[str, Any]]:
        goals: dict[str, dict[str, Any]] = {}
        if self.plan.max_drop and self.before and score:
            loss = _loss(self.plan.max_drop, self.before, score)
            goals["max_drop"] = {"goal": str(self.plan.max_drop), "measured": loss,
                                 "met": loss <= self.plan.max_drop.amount}
        if self.plan.max_bytes:
            goals["max_size"] = {"goal": self.plan.max_bytes, "measured": after.bytes,
                                 "met": after.bytes <= self.plan.max_bytes}
        return goals

    def keep_last_good(self, partial: Path, emitter: Any, external: bool | None, failure: StepFailed) -> None:
        """Turn the partial folder into one that loses nothing: the last good model and a reproducer."""
        kept = partial.with_name(partial.name + ".failed")
        kept.mkdir()
        emitter.emit(self.last_good, kept, external)
        write_reproducer(kept / "repro", failure, self.inputs)
        final = Path(str(partial.parent / self.plan.failed_name(partial)))
        with contextlib.suppress(FileNotFoundError):
            os.replace(partial / "run.log", kept / "run.log")
        os.replace(kept, final)
        failure.args = (f"{failure}; the last good model and a reproducer are in {final}",)


def _loss(drop: Drop, original: Evaluation, now: Evaluation) -> float:
    return drop.loss(original.metric, original.value, now.value, lower_is_worse=original.worse == "lower")


def _with_widths(recipe: Recipe, index: int, widths: Mapping[str, int]) -> Recipe:
    """The recipe with the widths as overrides of its step ``index``, before those the user gave (last wins)."""
    step = recipe.steps[index]
    added = [{"match": name, "weights": bits} for name, bits in sorted(widths.items())]
    plain = msgspec.to_builtins(step)
    plain["overrides"] = [*added, *plain.get("overrides", [])]
    changed = msgspec.convert(plain, type(step))
    return msgspec.structs.replace(recipe, steps=(*recipe.steps[:index], changed, *recipe.steps[index + 1 :]))
