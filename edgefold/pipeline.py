# SPDX-License-Identifier: Apache-2.0
"""The pipeline: for each step of a recipe clone, check preconditions, rewrite, verify and record.

A pass never sees a user's model, only a clone that shares its tensors; the last model that passed its checks is
always at hand, so that a failure loses nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.calibration import Calibration
from edgefold.calibration_batches import every_second
from edgefold.errors import ModelError, VerificationError
from edgefold.files.opset import raise_opset
from edgefold.heal.differentiation import Differentiator
from edgefold.measuring.devices import device
from edgefold.measuring.macs import macs_by_name
from edgefold.measuring.measure import model_macs, model_size
from edgefold.measuring.operator_times import operator_times
from edgefold.passes import Context, Effect, Notes, Pass, PreconditionError, Skip, SkipReason
from edgefold.passes._names import name_apart
from edgefold.passes.base import Heals, LearnGates, Scores
from edgefold.perturbing import Departure, perturb
from edgefold.probing import probe
from edgefold.session import compute, gives_outer_constants
from edgefold.synthetic import synthetic_feeds, wide_batch
from edgefold.verification import Difference, check_numerics, check_structure

log = logging.getLogger("edgefold")

Feeds = Mapping[str, np.ndarray]
MINIMUM_OPSET = 21  # bodies of ai.edgefold functions use forms that exist from here on


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What one step did and what it cost."""

    name: str
    options: Mapping[str, Any]
    notes: Notes
    seconds: float
    bytes: int
    macs: int | None
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        return {
            "pass": self.name,
            "options": dict(self.options),
            "edits": len(self.notes.edits),
            "edited": [dataclasses.asdict(edit) for edit in self.notes.edits],
            "skips": [dataclasses.asdict(skip) for skip in self.notes.skips],
            "stats": dict(self.notes.stats),
            "table": [dict(row) for row in self.notes.table],
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
            "macs": self.macs,
            "difference": self.difference.to_json() if self.difference else None,
        }


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the pipeline may run models on.

    Attributes:
        probe: one small batch for verification, or None when no input could be made.
        calibration: makes a fresh iterator over calibration batches, or None without a task.
        shapes: concrete input shapes for counting multiply-accumulates per sample.
        heal: what the pass ``heal`` trains a model by, or None without calibration data.
        gradients: of the task's loss on the calibration data, or None without them.
        learn_gates: learns which parts the task can do without, or None without calibration data.
        metric: of the task on the calibration data, or None where they lack what it needs.
        classes: names of the outputs that the task's metric takes as scores of classes.
    """

    probe: Feeds | None
    calibration: Callable[[], Iterator[Feeds]] | None
    shapes: Mapping[str, tuple[int, ...]]
    heal: Heals | None = None
    gradients: Differentiator | None = None
    learn_gates: LearnGates | None = None
    metric: Scores | None = None
    classes: frozenset[str] = frozenset()


class StepFailedError(VerificationError):
    """A step's result did not pass its checks; carries what a reproducer needs."""

    def __init__(self, message: str, step: Pass, before: ir.Model) -> None:
        super().__init__(message)
        self.step = step
        self.before = before


def run_step(model: ir.Model, step: Pass, inputs: Inputs, context: Context) -> tuple[ir.Model, StepRecord]:
    """Apply one pass to a clone of ``model`` and verify it by the pass's declared effect.

    Raises:
        StepFailedError: the checker, the interface, the pass's claim of edits or the numerics did not hold.
    """
    started = time.perf_counter()
    log.info("%s ...", step.name)
    candidate = model.clone()
    try:
        step.requires(candidate)
        notes = step.rewrite(candidate, context)
        name_apart(candidate)  # bodies that the step made
    except PreconditionError as error:
        notes = Notes(skips=(Skip("model", SkipReason.NOT_APPLICABLE, str(error)),))
    if not notes.edits:
        return model, _record(step, notes, started, model, inputs, None)
    try:
        check_structure(model, candidate, step.name, notes.options, notes.caches)
        difference = check_numerics(model, candidate, step, inputs.probe) if inputs.probe else None
    except VerificationError as error:
        raise StepFailedError(str(error), step, model) from error
    return candidate, _record(step, notes, started, candidate, inputs, difference)


def run_recipe(
    model: ir.Model,
    steps: Sequence[Pass],
    inputs: Inputs,
    *,
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    finished: Callable[[int, ir.Model, StepRecord], None] = lambda _index, _model, _record: None,
    resume_from: int = 0,
) -> ir.Model:
    """Run the steps from ``resume_from`` on, calling ``finished`` after each with its index, model and record."""
    for index, step in enumerate(steps):
        if index < resume_from:
            continue
        calibration = Calibration(model, inputs.calibration) if inputs.calibration else None
        probing = functools.partial(probe, feeds=inputs.probe, seed=seed)
        perturbed = functools.partial(perturb, feeds=inputs.calibration) if inputs.calibration else None
        context = Context(
            calibration=calibration,
            exclude=exclude,
            seed=seed,
            probe=probing,
            gradients=inputs.gradients,
            learn_gates=inputs.learn_gates,
            metric=inputs.metric,
            heal=inputs.heal,
            synthetic=functools.partial(_made_up, model, inputs, seed) if inputs.probe else None,
            operator_times=operator_times,
            perturb=perturbed,
            divergence=functools.partial(perturbed, classes=inputs.classes) if perturbed else None,
            departure=functools.partial(_departure, inputs) if inputs.calibration else None,
            macs=functools.partial(macs_by_name, shapes=inputs.shapes),
            device=device,
            compute=compute,
            outer_constants=gives_outer_constants(),
        )
        model, record = run_step(model, step, inputs, context)
        log.info(
            "%s: %d edits, %d skips, %.1f s",
            step.name,
            len(record.notes.edits),
            len(record.notes.skips),
            record.seconds,
        )
        finished(index, model, record)
    return model


def _departure(inputs: Inputs, model: ir.Model, half: int | None) -> Departure:
    """Measures how far the outputs of changed models are from those of the model, on calibration data."""
    assert inputs.calibration is not None
    feeds = inputs.calibration if half is None else functools.partial(every_second, inputs.calibration, half)
    return Departure(model, feeds, classes=inputs.classes)


def _made_up(model: ir.Model, inputs: Inputs, seed: int, kind: Literal["noise", "none"]) -> Calibration:
    """Statistics on noise: with the moments of the calibration data, or of the shapes of the probe only."""
    like = inputs.calibration() if kind == "noise" and inputs.calibration else [wide_batch(inputs.probe or {}, model)]
    return Calibration(model, synthetic_feeds(like, moments=kind == "noise", seed=seed), seed=seed)


def raise_to_minimum_opset(model: ir.Model, inputs: Inputs) -> tuple[ir.Model, StepRecord | None]:
    """Convert a model below opset 21, as a recorded and verified step; None when there was nothing to do."""
    if model.graph.opset_imports.get("", MINIMUM_OPSET) >= MINIMUM_OPSET:
        return model, None
    started = time.perf_counter()
    step = RaiseOpset()
    before = model.graph.opset_imports[""]
    log.info("raise-opset %d -> %d ...", before, MINIMUM_OPSET)
    converted, changed = raise_opset(model, MINIMUM_OPSET)
    if not changed:
        raise ModelError(f"the model's opset {before} could not be raised to {MINIMUM_OPSET}; export it again at 21")
    from edgefold.passes import Edit

    notes = Notes(edits=(Edit("model", f"opset {before} -> {MINIMUM_OPSET}"),))
    check_structure(model, converted, step.name)
    difference = check_numerics(model, converted, step, inputs.probe) if inputs.probe else None
    return converted, _record(step, notes, started, converted, inputs, difference)


class RaiseOpset(Pass, frozen=True, kw_only=True):
    """The conversion that the pipeline itself puts before the first step; no recipe names it."""

    effect = Effect.REASSOCIATED


def _record(
    step: Pass, notes: Notes, started: float, model: ir.Model, inputs: Inputs, difference: Difference | None
) -> StepRecord:
    options = {key: value for key, value in msgspec.to_builtins(step).items() if key != "pass"}
    return StepRecord(
        name=step.name,
        options=options,
        notes=notes,
        seconds=time.perf_counter() - started,
        bytes=model_size(model),
        macs=model_macs(model, inputs.shapes),
        difference=difference,
    )
