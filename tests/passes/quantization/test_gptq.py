# SPDX-License-Identifier: Apache-2.0
"""GPTQ rounding: valid codes, and less output error than rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.quantization.codebook import shift_tables
from edgefold.passes.quantization.codes import Method, QuantizedMatrix, quantize_matrix
from edgefold.passes.quantization.gptq import importance_of, inverse_factor, round_with_feedback
from edgefold.passes.quantization.selection import LevelLookup, cells_of

METHODS: tuple[Method, ...] = ("rtn", "shift", "shift-lut")


def correlated_inputs(rows: int, inputs: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) * np.exp(-np.arange(inputs) / inputs * 3)[:, None]
    return rng.standard_normal((rows, inputs)) @ mixing + 0.3


def output_error(x: np.ndarray, weight: np.ndarray, quantized: QuantizedMatrix) -> float:
    return float(((x @ (weight - quantized.dequantize())) ** 2).sum())


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(METHODS), st.integers(2, 6), st.integers(24, 100), st.integers(8, 24), st.integers(0, 2**16))
def test_gptq_is_not_worse_than_nearest_in_output_error(
    method: Method, bits: int, rows: int, columns: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    x = correlated_inputs(4 * rows, rows, seed + 1)
    moment = x.T @ x
    nearest = quantize_matrix(weight, bits, method, second_moment=moment)
    gptq = quantize_matrix(weight, bits, method, second_moment=moment, rounding="gptq")
    assert output_error(x, weight, gptq) <= output_error(x, weight, nearest)


@pytest.mark.parametrize("method", METHODS)
def test_gain_on_inputs_it_has_not_seen(method: Method) -> None:
    weight = np.random.default_rng(0).standard_normal((128, 96)).astype(np.float32)
    x = correlated_inputs(4096, 128, seed=1)
    moment = x[:2048].T @ x[:2048]
    nearest = quantize_matrix(weight, 4, method)
    gptq = quantize_matrix(weight, 4, method, second_moment=moment, rounding="gptq")
    assert output_error(x[2048:], weight, gptq) < 0.7 * output_error(x[2048:], weight, nearest)


@pytest.mark.parametrize("method", METHODS)
def test_dead_inputs_and_few_samples(method: Method) -> None:
    weight = np.random.default_rng(0).standard_normal((70, 20)).astype(np.float32)
    weight[:, 4] = 0
    x = correlated_inputs(5, 70, seed=1)
    x[:, ::3] = 0
    quantized = quantize_matrix(weight, 4, method, second_moment=x.T @ x, rounding="gptq")
    assert np.isfinite(quantized.dequantize()).all()
    assert (quantized.dequantize()[:, 4] == 0).all()
    zero = quantize_matrix(weight, 4, method, second_moment=np.zeros((70, 70)), rounding="gptq")
    nearest = quantize_matrix(weight, 4, method)
    assert ((weight - zero.dequantize()) ** 2).sum() < 1.1 * ((weight - nearest.dequantize()) ** 2).sum()


@pytest.mark.parametrize("method", METHODS)
def test_runs_of_columns_have_moments_of_their_own(method: Method) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((9, 32)).astype(np.float32)  # a depthwise 3x3 convolution of 32 channels
    x = [correlated_inputs(200, 9, seed) for seed in range(32)]
    moments = np.stack([one.T @ one for one in x])
    error = {}
    for rounding in ("nearest", "gptq"):
        quantized = quantize_matrix(weight, 4, method, second_moment=moments, rounding=rounding)
        difference = weight - quantized.dequantize()
        error[rounding] = sum(float(((x[n] @ difference[:, n]) ** 2).sum()) for n in range(32))
    assert error["gptq"] < error["nearest"]


def test_a_diagonal_moment_leaves_nothing_to_feed_back() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    moment = np.eye(64)
    nearest = quantize_matrix(weight, 4, "rtn", second_moment=moment)
    gptq = quantize_matrix(weight, 4, "rtn", second_moment=moment, rounding="gptq")
    assert (nearest.codes == gptq.codes).all()


def test_inverse_factor_is_that_of_the_damped_inverse() -> None:
    x = correlated_inputs(300, 150, seed=0)
    moment = x.T @ x
    factor = inverse_factor(moment, damping=0.01)
    mean = np.trace(moment) / 150
    expected = np.linalg.inv(moment / mean + 0.01 * np.eye(150))
    np.testing.assert_allclose(factor.T @ factor, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())
    assert (np.tril(factor, -1) == 0).all()
    assert importance_of(factor).mean() == pytest.approx(1, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_no_weight_is_further_than_one_level_from_its_nearest(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    original = rng.standard_normal((40, 8)).astype(np.float32)
    refit = original + 2 * rng.standard_normal((40, 8)).astype(np.float32)  # far away: only the limit holds it back
    factor = inverse_factor(np.cov(rng.standard_normal((40, 200))))
    table = shift_tables(bits)
    lookup = LevelLookup.of(table)
    scales = np.full(8, 3 / 127, np.float32)

    def furthest(limit: np.ndarray | None) -> int:
        codes, selectors = round_with_feedback(refit, factor, lookup, scales, limit)
        home, _ = lookup.nearest(cells_of(original / scales), selectors)
        # The first two codes stand for the same level.
        return int(np.abs(np.maximum(codes, 1).astype(int) - np.maximum(home, 1)).max())

    assert furthest(original) <= 1
    assert bits == 2 or furthest(None) > 1
