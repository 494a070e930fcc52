# SPDX-License-Identifier: Apache-2.0
"""Metrics against plain definitions, and their intervals against coverage and known formulas."""

from __future__ import annotations

import numpy as np
import pytest

from edgefold.errors import UsageError
from edgefold.scoring.intervals import confidence_interval, paired_interval
from edgefold.scoring.metrics import METRICS, average_ranks, pair_rows, spearman


def value(name: str, output: np.ndarray, target: np.ndarray, peak: float | None = None) -> float:
    metric = METRICS[name]
    rows = metric.contributions(output, target, peak)
    return metric.value(rows if metric.gather is None else metric.gather(rows))


def test_top1_and_top5() -> None:
    output = np.eye(8, dtype=np.float32) + np.linspace(0, 0.5, 8, dtype=np.float32)
    assert value("top1", output, np.arange(8)) == 100
    assert value("top1", output, np.array([0, 1, 2, 3, 4, 5, 6, 0])) == 87.5
    # Row 0: its own entry, then the highest columns 7, 6, 5, 4.
    assert value("top5", output[:1], np.array([4])) == 100
    assert value("top5", output[:1], np.array([3])) == 0


def test_top1_takes_a_class_output_as_it_is() -> None:
    assert value("top1", np.array([1, 2, 3]), np.array([1, 2, 4])) == pytest.approx(200 / 3)


def test_mse_cosine_and_psnr() -> None:
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 2.0], [0.0, 1.0]])
    assert value("mse", a, b) == pytest.approx((2 + 1) / 2)
    assert value("cosine", a, b) == pytest.approx((17 / (5 * 13**0.5) + 0) / 2)
    assert value("cosine", np.zeros((1, 2)), np.zeros((1, 2))) == 1
    assert value("psnr", a[:1] / 255, b[:1] / 255) == pytest.approx(10 * np.log10(255**2 / 2))
    assert value("psnr", a[:1], b[:1].astype(np.uint8)) == pytest.approx(10 * np.log10(255**2 / 2))
    assert value("psnr", a[:1], b[:1], peak=4) == pytest.approx(10 * np.log10(16 / 2))
    assert value("psnr", a, a) == 150


def test_agreement_of_integers_and_of_argmaxes() -> None:
    assert value("agreement", np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]])) == 75
    logits = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    assert value("agreement", logits, logits[..., ::-1]) == 0
    assert value("agreement", logits, 7 * logits) == 100


def test_average_ranks_share_ties() -> None:
    np.testing.assert_array_equal(average_ranks(np.array([10, 20, 10, 30])), [0.5, 2, 0.5, 3])


def test_spearman_is_the_correlation_of_ranks() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 20, 200).astype(float)
    y = x + generator.standard_normal(200) * 5
    expected = np.corrcoef(average_ranks(x), average_ranks(y))[0, 1]
    assert spearman(np.stack([x, y], axis=1)) == pytest.approx(expected)
    assert spearman(np.stack([x, np.exp(x / 10)], axis=1)) == pytest.approx(1)
    assert spearman(np.stack([x, np.ones(200)], axis=1)) == 0


def test_pairs_are_rows_2i_and_2i_plus_1() -> None:
    rows = METRICS["spearman_cosine"].contributions(
        np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]), np.array([5.0, 5, 2, 2]), None
    )
    np.testing.assert_allclose(pair_rows(rows), [[1, 5], [0, 2]])
    with pytest.raises(UsageError, match="odd count"):
        pair_rows(rows[:3])


def test_perplexity_is_exp_of_the_mean_loss() -> None:
    logits = np.log(np.array([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.5, 0.5]]], dtype=np.float32))
    labels = np.array([[0, 1], [1, -1]])
    expected = np.exp(-(np.log(0.5) + np.log(0.75) + np.log(0.9)) / 3)
    assert value("perplexity", logits, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "output", "target", "message"),
    [
        ("top1", np.zeros((2, 3)), np.zeros((2, 2)), "needs labels of shape"),
        ("top5", np.zeros((2, 5)), np.zeros(2), "more than five classes"),
        ("mse", np.zeros((2, 3)), np.zeros((2, 4)), "the output's shape"),
        ("agreement", np.zeros(2), np.zeros(2), "argmaxes of the last axis"),
        ("perplexity", np.zeros((1, 2, 3)), np.array([[0, 3]]), "has a label 3"),
        ("spearman_cosine", np.zeros((2, 3)), np.zeros((2, 2)), "one score a row"),
    ],
)
def test_targets_that_do_not_fit(name: str, output: np.ndarray, target: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        METRICS[name].contributions(output, target, None)


def test_wilson_matches_the_published_formula_and_does_not_collapse() -> None:
    rows = np.repeat([[100.0], [0.0]], [81, 19], axis=0)
    low, high = confidence_interval(METRICS["top1"], rows)
    # Newcombe 1998, table I (score method): 81 of 100 would lie between 72.2 and 87.5 %.
    assert (low, high) == (pytest.approx(72.22, abs=0.02), pytest.approx(87.49, abs=0.02))
    low, high = confidence_interval(METRICS["top1"], np.full((50, 1), 100.0))
    assert low < 95
    assert high == 100


@pytest.mark.parametrize("name", ["mse", "perplexity", "spearman_cosine"])
def test_intervals_cover_the_truth(name: str) -> None:
    generator = np.random.default_rng(7)
    metric = METRICS[name]

    def draw(size: int) -> np.ndarray:
        if name == "mse":
            return generator.exponential(2.0, (size, 1))
        if name == "perplexity":
            tokens = generator.integers(50, 100, size)
            return np.stack([tokens * generator.normal(1.5, 0.3, size), tokens], axis=1)
        x = generator.standard_normal(size)
        return np.stack([x, 0.8 * x + 0.6 * generator.standard_normal(size)], axis=1)

    truth = metric.value(draw(40_000))
    trials = 20 if name == "spearman_cosine" else 200
    inside = sum(low <= truth <= high for low, high in (confidence_interval(metric, draw(200)) for _ in range(trials)))
    # 95 % of trials, less four standard deviations of the count.
    assert inside >= trials * 0.95 - 4 * (trials * 0.95 * 0.05) ** 0.5


def test_the_paired_interval_is_narrow_where_models_err_alike() -> None:
    generator = np.random.default_rng(3)
    right = generator.random(1000) < 0.8
    flipped = right.copy()
    flipped[:5] = ~flipped[:5]
    a, b = 100.0 * right[:, None], 100.0 * flipped[:, None]
    metric = METRICS["top1"]
    low, high = paired_interval(metric, a, b)
    single = confidence_interval(metric, a)
    assert high - low < (single[1] - single[0]) / 3
    assert low <= a.mean() - b.mean() <= high
    assert paired_interval(metric, a, a) == (0, 0)
    assert paired_interval(metric, a, b) == (low, high), "a fixed seed"
