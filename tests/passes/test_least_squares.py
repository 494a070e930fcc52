# SPDX-License-Identifier: Apache-2.0
"""Least squares on moments, checked against numpy's own on the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes._least_squares import (
    damped_inverse,
    downdate,
    least_squares,
    removal_errors,
    triangular_inverse,
)
from edgefold.passes._moments import Moments


def data(rows: int, inputs: int, targets: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs)) + rng.standard_normal(inputs)
    return x, x @ rng.standard_normal((inputs, targets)) + 0.1 * rng.standard_normal((rows, targets))


def spread(rows: int, inputs: int, condition: float, seed: int = 0) -> np.ndarray:
    """Inputs whose singular values fall evenly, on a logarithmic scale, from 1 to 1 / condition."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((rows, inputs)))
    right, _ = np.linalg.qr(rng.standard_normal((inputs, inputs)))
    return left * np.logspace(0, -np.log10(condition), inputs) @ right


def test_undamped_solution_is_that_of_lstsq() -> None:
    x, y = data(300, 40, 7)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(least_squares(x.T @ x, x.T @ y, damping=0), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_ill_conditioned_inputs_are_still_fitted(condition: float) -> None:
    x = spread(500, 90, condition)
    y = x @ np.random.default_rng(1).standard_normal((90, 5))
    fitted = least_squares(x.T @ x, x.T @ y, damping=1e-12)
    assert np.linalg.norm(x @ fitted - y) < 1e-4 * np.linalg.norm(y)


@pytest.mark.parametrize("damping", [0.0, 1e-10, 1e-4])
@pytest.mark.parametrize("rows", [3, 10, 19])
def test_fewer_samples_than_inputs(rows: int, damping: float) -> None:
    x, y = data(rows, 20, 4)
    fitted = least_squares(x.T @ x, x.T @ y, damping=damping)
    assert np.isfinite(fitted).all()
    assert np.linalg.norm(x @ fitted - y) < 0.02 * np.linalg.norm(y)


def test_singular_undamped_solution_stays_nearest_to_the_prior() -> None:
    x, y = data(5, 20, 3)
    prior = np.random.default_rng(2).standard_normal((20, 3))
    fitted = least_squares(x.T @ x, x.T @ y, damping=0, prior=prior)
    expected = prior + np.linalg.lstsq(x, y - x @ prior, rcond=None)[0]
    np.testing.assert_allclose(fitted, expected, rtol=1e-5, atol=1e-6)


def test_strong_damping_returns_the_prior() -> None:
    x, y = data(100, 10, 3)
    prior = np.ones((10, 3))
    np.testing.assert_allclose(least_squares(x.T @ x, x.T @ y, damping=1e9, prior=prior), prior, rtol=1e-6)
    np.testing.assert_allclose(least_squares(x.T @ x, x.T @ y, damping=1e9), 0, atol=1e-6)


def test_dead_inputs_get_zero_or_keep_their_prior() -> None:
    x, y = data(100, 10, 3)
    x[:, 4] = 0
    assert np.abs(least_squares(x.T @ x, x.T @ y)[4]).max() == 0
    assert np.abs(least_squares(np.zeros((4, 4)), np.zeros((4, 2)), prior=np.ones((4, 2))) - 1).max() == 0


def test_bias_row_absorbs_the_mean_and_is_not_damped() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6))
    y = x @ rng.standard_normal((6, 2)) + 100
    moments = Moments.zeros(1, 6, 2)
    moments.add(x[None], y[None])
    grown = moments.with_bias()
    fitted = least_squares(grown.xtx, grown.xty, damping=1e-3, bias_row=True)
    np.testing.assert_allclose(fitted[0, -1], 100, atol=0.05)
    assert (grown.error(fitted) < 1e-2 * moments.error(least_squares(moments.xtx, moments.xty))).all()


def test_groups_and_experts_go_through_leading_axes() -> None:
    parts = [data(60, 12, 4, seed) for seed in range(3)]
    xtx = np.stack([x.T @ x for x, _ in parts])
    xty = np.stack([x.T @ y for x, y in parts])
    together = least_squares(xtx, xty)
    for run in range(3):
        np.testing.assert_allclose(together[run], least_squares(xtx[run], xty[run]), rtol=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 90), st.data())
def test_downdate_equals_recomputing(size: int, draw: st.DataObject) -> None:
    removed = draw.draw(st.lists(st.integers(0, size - 1), max_size=size - 1, unique=True))
    x, _ = data(2 * size, size, 1, seed=size)
    moment = x.T @ x + 1e-2 * np.eye(size) * size
    kept = np.setdiff1d(np.arange(size), removed)
    expected = np.linalg.inv(moment[np.ix_(kept, kept)])
    actual = downdate(np.linalg.inv(moment), removed)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max())


def test_removal_error_is_the_error_of_the_refit() -> None:
    x, y = data(400, 18, 5)
    xtx, xty = x.T @ x, x.T @ y
    best = least_squares(xtx, xty, damping=0)
    blocks = [np.arange(start, start + 3) for start in range(0, 18, 3)]
    scores = removal_errors(best, damped_inverse(xtx, 0), blocks)
    base = np.linalg.norm(x @ best - y) ** 2
    for block, score in zip(blocks, scores, strict=True):
        kept = np.setdiff1d(np.arange(18), block)
        refit = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
        assert np.linalg.norm(x[:, kept] @ refit - y) ** 2 - base == pytest.approx(score, rel=1e-6)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
def test_triangular_inverse(size: int) -> None:
    rng = np.random.default_rng(size)
    lower = np.tril(rng.standard_normal((2, size, size))) / size + np.eye(size)
    np.testing.assert_allclose(triangular_inverse(lower) @ lower, np.broadcast_to(np.eye(size), lower.shape), atol=1e-9)


def test_moments_stream_in_any_chunks() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 101, 8)).astype(np.float32), rng.standard_normal((2, 101, 3)).astype(np.float32)
    moments = Moments.zeros(2, 8, 3)
    for start, end in ((0, 1), (1, 60), (60, 60), (60, 101)):
        moments.add(x[:, start:end], y[:, start:end])
    wide_x, wide_y = x.astype(float), y.astype(float)
    np.testing.assert_allclose(moments.xtx, wide_x.swapaxes(1, 2) @ wide_x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.xty, wide_x.swapaxes(1, 2) @ wide_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.sums, wide_x.sum(axis=1), atol=1e-12)
    assert moments.count == 101
    weight = rng.standard_normal((2, 8, 3))
    np.testing.assert_allclose(moments.error(weight), np.square(wide_x @ weight - wide_y).sum(axis=1), rtol=1e-9)


def test_bad_moments_are_refused() -> None:
    moments = Moments.zeros(1, 4)
    with pytest.raises(ValueError, match="do not fit"):
        moments.add(np.zeros((1, 3, 5)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        moments.add(np.full((1, 3, 4), np.nan))
    with pytest.raises(ValueError, match="damping is at least 0"):
        least_squares(np.eye(2), np.eye(2), damping=-1)
    with pytest.raises(ValueError, match="singular"):
        damped_inverse(np.zeros((2, 2)), damping=0)
    with pytest.raises(ValueError, match="does not fit"):
        least_squares(np.eye(2), np.eye(3))
