# SPDX-License-Identifier: Apache-2.0
"""Scores a model on a task: the metric with its 95 % interval, and the time a sample takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.errors import ModelError, UsageError
from edgefold.interface import ModelInterface, Port
from edgefold.optional_inputs import optional_feeds
from edgefold.scoring.intervals import Interval, confidence_interval, paired_interval
from edgefold.scoring.metrics import METRICS, Metric, Worse
from edgefold.scoring.reference_rows import ReferenceRows, reference_rows
from edgefold.session import make_session, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx_ir as ir
    import onnxruntime as ort

    from edgefold.scoring.task import Batch, Split, Task

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Evaluation:
    """The score of one model on one split of a task.

    Attributes:
        metric: the metric measured; on calibration data without labels it is cosine or agreement with the original.
        value: its value, in the metric's unit (percent for top1, top5 and agreement; dB for psnr).
        ci95: the 95 % confidence interval [low, high].
        samples: how many samples were run.
        seconds_per_sample: median over batches of the time inside the session, divided by the batch.
        worse: whether lower or higher is worse.
        split: the data it was measured on.
        target: what the outputs were compared with: "labels", "reference" or "original".
        per_sample: contribution rows [samples or pairs, columns], float64, for paired comparisons.
    """

    metric: str
    value: float
    ci95: Interval
    samples: int
    seconds_per_sample: float
    worse: Worse
    split: Split
    target: str
    per_sample: Array = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold eval``; numbers that JSON lacks (infinity, NaN) become null."""
        return {
            "metric": self.metric,
            "value": _finite(self.value),
            "ci95": [_finite(bound) for bound in self.ci95],
            "samples": self.samples,
            "seconds_per_sample": self.seconds_per_sample,
            "worse": self.worse,
            "split": self.split,
            "target": self.target,
        }

    def to_text(self) -> str:
        """One line for a person."""
        unit = METRICS[self.metric].unit
        low, high = self.ci95
        against = "" if self.target == "labels" else f" against the {self.target}'s outputs"
        return (
            f"{self.metric} {self.value:.4f}{unit}  95 % interval [{low:.4f}, {high:.4f}]{against}"
            f"  {self.samples} samples  {1e3 * self.seconds_per_sample:.3g} ms a sample"
        )


@dataclass(frozen=True)
class _Scored:
    """A metric with the output it reads and where its target comes from."""

    metric: Metric
    output: Port
    target: str


def evaluate(
    model: Path | ir.Model,
    task: Task,
    *,
    split: Split = "eval",
    threads: int = 0,
    library: bool = True,
    optimize: bool = True,
    original: Path | ir.Model | None = None,
    limit: int | None = None,
    config: Mapping[str, str] | None = None,
    values: Mapping[str, float] | None = None,
) -> Evaluation:
    """Runs ``model`` over a split of ``task`` and scores it.

    Args:
        model: a model file or model.
        task: how to feed and score it.
        split: "eval", or "calibration", whose labels count only if it holds the same array; else the score is the
            closeness to ``original``: agreement for an integer output, cosine for any other.
        threads: threads inside an operator; 0 leaves the choice to ONNX Runtime.
        library: use the EdgeFold kernels where the model has ``ai.edgefold`` nodes.
        optimize: whether ONNX Runtime may rewrite the graph.
        original: the model to be close to on calibration data without labels.
        limit: at most so many samples.
        config: session configuration entries, such as the width of `edgefold.weight_widths.at_width`.
        values: of optional inputs, such as a depth; the others keep their defaults.

    Raises:
        UsageError: task and model do not fit, or a score needs ``original`` and none is given.
        ModelError: ONNX Runtime cannot open or run the model, or the metric is not finite in every sample.
    """
    session = make_session(model, threads=threads, library=library, optimize=optimize, config=config)
    interface, fixed = ModelInterface.of(session), optional_feeds(session, values or {})
    scored = _choose(task, interface, split, original is not None)
    reference = _reference(task, scored, split, original, limit)
    rows, seconds, samples = [], [], 0
    for batch in task.batches(interface, split, limit):
        output, taken = _timed(session, scored.output, batch, fixed)
        target = batch.labels if reference is None else reference.take(batch.count)
        assert target is not None, "batches of this split carry labels: _choose saw them"
        rows.append(_contribute(task, scored, output, target))
        seconds.append(taken / batch.rows)
        samples += batch.count
    gathered = np.concatenate(rows)
    units = gathered if scored.metric.gather is None else scored.metric.gather(gathered)
    return Evaluation(
        scored.metric.name,
        scored.metric.value(units),
        confidence_interval(scored.metric, units),
        samples,
        float(np.median(seconds)),
        scored.metric.worse,
        split,
        scored.target,
        units,
    )


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, Interval]:
    """``a.value - b.value`` with its paired 95 % interval: both models are resampled on the same samples, seeded.

    Raises:
        UsageError: the two were not scored by the same metric on the same samples.
    """
    if a.metric != b.metric or a.split != b.split or a.per_sample.shape != b.per_sample.shape:
        raise UsageError(
            f"cannot compare {a.metric} on {len(a.per_sample)} {a.split} units with"
            f" {b.metric} on {len(b.per_sample)} {b.split} units; evaluate both on one task"
        )
    return a.value - b.value, paired_interval(METRICS[a.metric], a.per_sample, b.per_sample)


def _choose(task: Task, interface: ModelInterface, split: Split, has_original: bool) -> _Scored:
    output = interface.output(task.metric.output, f"{task.path}: metric")
    if task.metric.reference is not None:
        return _Scored(METRICS[task.metric.name], output, "reference")
    if split == "eval" or task.has_labels(split):
        return _Scored(METRICS[task.metric.name], output, "labels")
    if not has_original:
        raise UsageError(
            f"{task.path}: the calibration data have no array '{task.metric.labels}', so the score is the closeness to"
            " an original model, and none was given"
        )
    return _Scored(METRICS["agreement" if output.dtype.kind in "iub" else "cosine"], output, "original")


def _reference(
    task: Task, scored: _Scored, split: Split, original: Path | ir.Model | None, limit: int | None
) -> ReferenceRows | None:
    if scored.target == "labels":
        return None
    model = task.reference if scored.target == "reference" else original
    assert model is not None
    return reference_rows(model, task, split, limit)


def _timed(
    session: ort.InferenceSession, output: Port, batch: Batch, fixed: Mapping[str, Array]
) -> tuple[Array, float]:
    start = time.perf_counter()
    (value,) = run(session, [output.name], {**batch.feeds, **fixed})
    taken = time.perf_counter() - start
    cut = batch.cut(np.asarray(value))
    if not cut.ndim or cut.shape[0] != batch.count:
        raise UsageError(
            f"the output '{output.name}' has shape {list(np.shape(value))} for {batch.rows} samples;"
            " a metric needs one row a sample"
        )
    return cut, taken


def _contribute(task: Task, scored: _Scored, output: Array, target: Array) -> Array:
    if output.dtype == np.float16:
        output = output.astype(np.float32)
    try:
        rows = scored.metric.contributions(output, target, task.metric.peak)
    except UsageError as error:
        raise UsageError(f"{task.path}: {error}") from error
    if not np.all(np.isfinite(rows)):
        name, metric = scored.output.name, scored.metric.name
        raise ModelError(f"the output '{name}' holds NaN or infinite values, so it has no {metric}")
    return rows


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
