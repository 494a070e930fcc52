# SPDX-License-Identifier: Apache-2.0
"""What a healing did, as JSON for programs and as a text for people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefold.files.loading import LoadedModel
from edgefold.measuring.measure import model_weights
from edgefold.provenance import versions
from edgefold.report import Figures
from edgefold.scoring.evaluate import Evaluation, paired_difference

if TYPE_CHECKING:
    from edgefold.heal.engine import Healing

STILL_FALLING = 0.95  # of the loss one epoch earlier


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference of the metric: ``value`` with its 95 % interval."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, a: Evaluation, b: Evaluation) -> Difference:
        """``a`` minus ``b``, on the same samples."""
        value, interval = paired_difference(a, b)
        return cls(value, interval)

    def __str__(self) -> str:
        return f"{self.value:+.4g} (95 % interval {self.ci95[0]:+.4g} to {self.ci95[1]:+.4g})"


@dataclasses.dataclass(frozen=True)
class HealReport:
    """All that is known of one run of ``edgefold heal``.

    Attributes:
        status: "done".
        model: path of the student.
        teacher: path of the original.
        output: the folder written.
        teacher_score: the original's, on the evaluation set.
        before: figures of the student as it came.
        after: figures of the written file.
        change: after minus before.
        to_teacher: after minus teacher.
        healing: what was trained, and its history.
        options: of the training, as the pass ``heal`` has them, and the seed.
        findings: sentences worth the user's attention.
        environment: versions that decide what was computed.
    """

    status: str
    model: str
    teacher: str
    output: str
    teacher_score: Evaluation
    before: Figures
    after: Figures
    change: Difference
    to_teacher: Difference
    healing: Healing
    options: Mapping[str, Any]
    findings: Sequence[str]
    environment: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The document of report.json."""
        plain = dataclasses.asdict(self)
        return {**plain, "teacher_score": self.teacher_score.to_json(), "healing": self.healing.to_json()}

    def to_text(self) -> str:
        """The summary printed at the end of a run."""
        done, history = self.healing, self.healing.history
        best = min(epoch.held_out for epoch in history)
        rows = {"teacher": self.teacher_score.to_json(), "before": self.before.metric, "after": self.after.metric}
        lines = [f"{self.model} -> {self.output}, taught by {self.teacher}", ""]
        for name, score in rows.items():
            assert score is not None
            low, high = score["ci95"]
            lines.append(f"  {name:<8} {score['metric']} {score['value']:.4f}  95 % interval [{low:.4f}, {high:.4f}]")
        lines += [
            f"\nHealing changed the metric by {self.change}.",
            f"What is left to the teacher is {self.to_teacher}.",
            f"{done.steps} steps on {done.training} samples took {done.seconds:.0f} s on {done.device}; the loss on "
            f"{done.held_out} held-out samples went from {history[0].held_out:.4g} to {best:.4g}, best after step "
            f"{done.best_step}.",
            *(f"  {term}" for term in done.losses),
        ]
        return "\n".join([*lines, *(f"\n{finding}" for finding in self.findings)])


def make_report(
    student: LoadedModel,
    teacher: LoadedModel,
    written: LoadedModel,
    folder: Path,
    scores: tuple[Evaluation, Evaluation, Evaluation],
    healing: Healing,
    options: Mapping[str, Any],
) -> HealReport:
    """Put together what was measured; ``scores`` are the teacher's, and the student's before and after."""
    original, before, after = scores
    return HealReport(
        status="done",
        model=str(student.path),
        teacher=str(teacher.path),
        output=str(folder),
        teacher_score=original,
        before=_figures(student, before),
        after=_figures(written, after),
        change=Difference.of(after, before),
        to_teacher=Difference.of(after, original),
        healing=healing,
        options=options,
        findings=findings_of(healing),
        environment=versions(),
    )


def _figures(model: LoadedModel, score: Evaluation) -> Figures:
    return Figures(bytes=model.bytes, weights=model_weights(model.model), metric=score.to_json())


def findings_of(healing: Healing) -> tuple[str, ...]:
    """What is worth saying about a training."""
    found = []
    last = healing.history[-1]
    if not math.isfinite(last.held_out):
        found.append(f"The training diverged by step {last.step}; a lower --learning-rate would help.")
    if healing.best_step == 0:
        found.append("No step was better on the held-out samples than the model as it came, which is what was written.")
    elif last.held_out < STILL_FALLING * healing.history[-2].held_out:
        found.append("The held-out loss was still falling at the end; longer training may gain more.")
    return tuple(found)
