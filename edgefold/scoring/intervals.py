# SPDX-License-Identifier: Apache-2.0
"""95 % confidence intervals of a metric, and of the difference of two models on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgefold.scoring.metrics import Metric

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]

# The 97.5 % quantile of the normal distribution.
Z95 = 1.959963984540054
RESAMPLES = 2000
RANK_RESAMPLES = 1000
SEED = 20261121
# Bounds the weight matrix of a bootstrap: resamples x rows of float32.
MAX_WEIGHTS = 1 << 24


def confidence_interval(metric: Metric, rows: Array) -> Interval:
    """95 % interval of ``metric.value(rows)``, the rows taken as independent.

    Wilson's score interval where each row is right or wrong; the delta method on the log for perplexity (a ratio of
    sums); normal for other means; a seeded percentile bootstrap over pairs for the rank correlation.
    """
    if metric.of_rows is not None:
        return _percentiles(_resampled(metric, [rows])[0])
    if metric.binary and np.all((rows[:, 0] == 0) | (rows[:, 0] == 100)):
        return _wilson(float(rows[:, 0].mean()) / 100, len(rows))
    if rows.shape[1] == 2:
        return _log_ratio(rows)
    mean = float(rows[:, 0].mean())
    half = Z95 * float(rows[:, 0].std(ddof=1)) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return mean - half, mean + half


def paired_interval(metric: Metric, a: Array, b: Array) -> Interval:
    """95 % interval of ``value(a) - value(b)``: a percentile bootstrap that draws the same samples for both, seeded."""
    first, second = _resampled(metric, [a, b])
    return _percentiles(first - second)


def _wilson(share: float, rows: int) -> Interval:
    """Wilson 1927: stays inside [0, 100] and does not collapse at 0 or 100 %."""
    square = Z95**2
    middle = share + square / (2 * rows)
    half = Z95 * np.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    # Rounding alone may leave the bounds an ulp inside the point estimate at 0 and 100 %.
    low, high = ((middle - half) / (1 + square / rows), (middle + half) / (1 + square / rows))
    return 100 * float(max(0.0, min(low, share))), 100 * float(min(1.0, max(high, share)))


def _log_ratio(rows: Array) -> Interval:
    total, count = rows.sum(axis=0)
    ratio = total / max(count, 1.0)
    n = len(rows)
    residuals = rows[:, 0] - ratio * rows[:, 1]
    error = np.sqrt(np.square(residuals).sum() * n / max(n - 1, 1)) / max(count, 1.0)
    return float(np.exp(ratio - Z95 * error)), float(np.exp(ratio + Z95 * error))


def _resampled(metric: Metric, sets: list[Array]) -> list[Array]:
    """Values of the metric on resamples; every set sees the same draws."""
    generator = np.random.default_rng(SEED)
    rows = len(sets[0])
    values: list[list[Array]] = [[] for _ in sets]
    if metric.of_rows is not None:
        for _ in range(RANK_RESAMPLES):
            drawn = generator.integers(0, rows, rows)
            for index, one in enumerate(sets):
                values[index].append(np.array([metric.of_rows(one[drawn])]))
        return [np.concatenate(one) for one in values]
    assert metric.combine is not None
    chunk = max(1, min(RESAMPLES, MAX_WEIGHTS // rows))
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        weights = generator.multinomial(rows, np.full(rows, 1.0 / rows), size=size).astype(np.float64)
        for index, one in enumerate(sets):
            values[index].append(metric.combine(weights @ one, rows))
    return [np.concatenate(one) for one in values]


def _percentiles(values: Array) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
