# SPDX-License-Identifier: Apache-2.0
"""The task metrics: what each sample contributes, how contributions become one value, and which way is worse.

A metric is three pure functions on arrays. ``contributions`` maps the outputs and targets of a batch to float64 rows
[samples, columns]; ``combine`` maps column sums of rows to the value, so that a bootstrap is one matrix product; the
rank correlation, which is no function of sums, brings ``of_rows`` instead. For the intervals see
`edgefold.scoring.intervals`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgefold.errors import UsageError

Array = np.ndarray[Any, Any]
Worse = Literal["lower", "higher"]

# Two equal images have an infinite signal-to-noise ratio; float32 rounding alone is near 150 dB.
MAX_PSNR = 150.0


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in the task file.
        unit: "%" where the value is a percentage, else "".
        worse: whether a lower or a higher value is worse.
        contributions: (output [samples, ...], target [samples, ...], peak) -> rows [samples, columns], float64.
        combine: (column sums [..., columns], number of rows) -> value [...]; None if ``of_rows`` is given.
        of_rows: rows -> value.
        gather: turns all contribution rows into the independent units of resampling (pairs of rows).
        binary: contributions of a single row are 0 or 100, so the interval is Wilson's.
    """

    name: str
    unit: str
    worse: Worse
    contributions: Callable[[Array, Array, float | None], Array]
    combine: Callable[[Array, int], Array] | None = None
    of_rows: Callable[[Array], float] | None = None
    gather: Callable[[Array], Array] | None = None
    binary: bool = False

    def value(self, rows: Array) -> float:
        """The metric of contribution rows [units, columns] (after ``gather``)."""
        if self.of_rows is not None:
            return self.of_rows(rows)
        assert self.combine is not None
        return float(self.combine(rows.sum(axis=0), len(rows)))


def _mean(sums: Array, rows: int) -> Array:
    return np.asarray(sums[..., 0] / rows)


def _row_mean(values: Array) -> Array:
    """Mean of everything after the first axis, as one column."""
    return np.asarray(values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)[:, None])


def top1(output: Array, target: Array, peak: float | None) -> Array:
    """100 where the largest entry of the last axis (or an integer output itself) is the label, else 0."""
    del peak
    predicted = output if output.shape == target.shape else _argmax(output, target, "top1")
    return _row_mean(100.0 * (predicted == target))


def top5(output: Array, target: Array, peak: float | None) -> Array:
    """100 where the label is among the five largest entries of the last axis, else 0."""
    del peak
    _argmax(output, target, "top5")
    if output.shape[-1] <= 5:
        raise UsageError(f"the metric top5 needs more than five classes; the output has {output.shape[-1]}")
    best = np.argpartition(-output.astype(np.float64), 5, axis=-1)[..., :5]
    return _row_mean(100.0 * np.any(best == target[..., None], axis=-1))


def _argmax(output: Array, target: Array, name: str) -> Array:
    if output.shape[:-1] != target.shape:
        raise UsageError(
            f"the metric {name} needs labels of shape {list(output.shape[:-1])} for an output of shape"
            f" {list(output.shape)}, not {list(target.shape)}"
        )
    return np.asarray(output.argmax(axis=-1))


def mse(output: Array, target: Array, peak: float | None) -> Array:
    """Mean squared error of each sample."""
    del peak
    _same_size(output, target, "mse")
    return _row_mean(np.square(output.astype(np.float64) - target.reshape(output.shape)))


def psnr(output: Array, target: Array, peak: float | None) -> Array:
    """Peak signal-to-noise ratio of each sample in dB, at most 150.

    The peak is the task's ``peak``; else the largest value of an unsigned integer target, else 1.
    """
    if peak is None:
        peak = float(np.iinfo(target.dtype).max) if target.dtype.kind == "u" else 1.0
    error = mse(output, target, None)
    floor = peak**2 * 10.0 ** (-MAX_PSNR / 10)
    return np.asarray(10.0 * np.log10(peak**2 / np.maximum(error, floor)))


def cosine(output: Array, target: Array, peak: float | None) -> Array:
    """Cosine between each sample's flattened output and target; 1 for two zero vectors, 0 for one."""
    del peak
    _same_size(output, target, "cosine")
    return row_cosine(output, target)[:, None]


def row_cosine(a: Array, b: Array) -> Array:
    """Cosine of each row of ``a`` with the same row of ``b``, everything after the first axis flattened; float64."""
    left = a.reshape(len(a), -1).astype(np.float64)
    right = b.reshape(len(b), -1).astype(np.float64)
    norms = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    product = norms[0] * norms[1]
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    safe = np.where(product > 0, product, 1.0)
    return np.where(both_zero, 1.0, np.einsum("ij,ij->i", left, right) / safe)


def agreement(output: Array, target: Array, peak: float | None) -> Array:
    """Percentage of a sample's entries where both are the same integer, or have the same argmax of the last axis."""
    del peak
    _same_size(output, target, "agreement")
    if output.dtype.kind in "iub" and target.dtype.kind in "iub":
        return _row_mean(100.0 * (output == target.reshape(output.shape)))
    if output.ndim < 2:
        raise UsageError(f"the metric agreement takes argmaxes of the last axis; the output has shape {output.shape}")
    return _row_mean(100.0 * (output.argmax(axis=-1) == target.reshape(output.shape).argmax(axis=-1)))


def _same_size(output: Array, target: Array, name: str) -> None:
    if len(output) != len(target) or output.size != target.size:
        raise UsageError(
            f"the metric {name} needs a target of the output's shape {list(output.shape)}, not {list(target.shape)}"
        )


def embedding_and_score(output: Array, target: Array, peak: float | None) -> Array:
    """An embedding with its pair's score in the last column; pairs are made when all samples are there."""
    del peak
    if target.size != len(output):
        raise UsageError(f"the metric spearman_cosine needs one score a row, not labels of shape {list(target.shape)}")
    flat = output.reshape(len(output), -1).astype(np.float64)
    return np.concatenate([flat, target.reshape(-1, 1).astype(np.float64)], axis=1)


def pair_rows(rows: Array) -> Array:
    """Rows 2i and 2i+1 -> (cosine of the two embeddings, score) [pairs, 2].

    Raises:
        UsageError: an odd number of rows.
    """
    if len(rows) % 2:
        raise UsageError(f"the metric spearman_cosine pairs rows 2i and 2i+1; {len(rows)} rows are an odd count")
    return np.stack([row_cosine(rows[0::2, :-1], rows[1::2, :-1]), rows[0::2, -1]], axis=1)


def average_ranks(values: Array) -> Array:
    """Ranks from 0, equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2.0)[inverse])


def spearman(pairs: Array) -> float:
    """Spearman's rank correlation of two columns; 0 where a column is constant."""
    first, second = average_ranks(pairs[:, 0]), average_ranks(pairs[:, 1])
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt(np.dot(first, first) * np.dot(second, second))
    return float(np.dot(first, second) / norm) if norm > 0 else 0.0


def negative_log_likelihood(output: Array, target: Array, peak: float | None) -> Array:
    """Per sample: the sum of -log p(label) in nats over its tokens, and their number. Negative labels are left out."""
    del peak
    _argmax(output, target, "perplexity")
    if np.any(target >= output.shape[-1]):
        raise UsageError(f"the metric perplexity has a label {target.max()}; the output has {output.shape[-1]} classes")
    labels = target.astype(np.int64)
    counted = labels >= 0
    picked = np.take_along_axis(output, np.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    highest = output.max(axis=-1)
    log_sum = np.log(np.exp(output - highest[..., None]).sum(axis=-1, dtype=np.float64)) + highest
    loss = np.where(counted, log_sum - picked, 0.0)
    samples = len(output)
    return np.stack([loss.reshape(samples, -1).sum(axis=1), counted.reshape(samples, -1).sum(axis=1)], axis=1)


def _perplexity(sums: Array, rows: int) -> Array:
    del rows
    return np.asarray(np.exp(sums[..., 0] / np.maximum(sums[..., 1], 1.0)))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", "%", "lower", top1, combine=_mean, binary=True),
        Metric("top5", "%", "lower", top5, combine=_mean, binary=True),
        Metric("mse", "", "higher", mse, combine=_mean),
        Metric("psnr", " dB", "lower", psnr, combine=_mean),
        Metric("cosine", "", "lower", cosine, combine=_mean),
        Metric("agreement", "%", "lower", agreement, combine=_mean, binary=True),
        Metric("spearman_cosine", "", "lower", embedding_and_score, of_rows=spearman, gather=pair_rows),
        Metric("perplexity", "", "higher", negative_log_likelihood, combine=_perplexity),
    )
}
