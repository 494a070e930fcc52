# SPDX-License-Identifier: Apache-2.0
"""The forms of a product with channel shifts give one integer: literal, K1, K2 and the kernels.

K1 shifts one operand before an ordinary product. K2 orders the channels by their shift, multiplies segment by segment
and shifts the running sum in between, so it has no bound on the number of groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import quantize

_kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")

GROUPS = st.integers(1, 8)


def literal(codes: np.ndarray, weights: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The product of the dequantized activations in float64, in units of the finest step: every term is exact."""
    return (codes * np.exp2(shifts.astype(np.float64))) @ weights.astype(np.float64)


def k1(codes: np.ndarray, weights: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    return (codes.astype(np.int64) << shifts) @ weights.astype(np.int64)


def k2(codes: np.ndarray, weights: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    total = np.zeros((len(codes), weights.shape[1]), np.int64)
    for shift in range(int(shifts.max(initial=0)), -1, -1):
        segment = shifts == shift
        total = (total << 1) + codes[:, segment].astype(np.int64) @ weights[segment].astype(np.int64)
    return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Codes [m, k] of 4, 6 or 8 bits, weights [k, n], shifts [k] of up to 8 groups, and the largest code."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m, k, n = draw(st.integers(1, 5)), draw(st.integers(1, 67)), draw(st.integers(1, 9))
    high = draw(st.sampled_from([7, 31, 127]))
    codes = rng.integers(-high, high + 1, (m, k))
    codes[:, rng.integers(0, k)] = 0
    return codes, rng.integers(-127, 128, (k, n)), rng.integers(0, draw(GROUPS), k).astype(np.uint8), high


@given(problems())
@settings(max_examples=150, deadline=None)
def test_all_forms_agree(problem: tuple[np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    codes, weights, shifts, _ = problem
    expected = literal(codes, weights, shifts)
    np.testing.assert_array_equal(k1(codes, weights, shifts), expected)
    np.testing.assert_array_equal(k2(codes, weights, shifts), expected)


@given(problems(), st.integers(-20, 20))
@settings(max_examples=100, deadline=None)
def test_the_kernels_compute_k1(problem: tuple[np.ndarray, np.ndarray, np.ndarray, int], exponent: int) -> None:
    """Activations that lie on the grid come back as their codes, also at powers of two, and zero channels as 0."""
    codes, weights, shifts, high = problem
    shifts = np.minimum(shifts, int(np.log2(127 // high))).astype(np.uint8)
    scale = np.float32(2.0**exponent)
    x = (codes * scale * np.float32(2) ** shifts).astype(np.float32)
    expected = k1(codes, weights, shifts)
    padded = np.zeros((-(-weights.shape[0] // 32) * 32, 16), np.int8)
    padded[: weights.shape[0], : weights.shape[1]] = weights
    panel = np.ascontiguousarray(padded.reshape(-1, 4, 16).transpose(0, 2, 1).reshape(1, -1, 64))
    for quantizer in supported("quantize"):
        operands = quantizer(x, -high, high, float(scale), shifts)[0]
        for gemm in supported("gemm"):
            sums = gemm(_kernels.Rows(operands, False), panel)
            np.testing.assert_array_equal(sums[:, : weights.shape[1]], expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(-7, 7), (0, 15), (-31, 31), (0, 63)]))
@settings(max_examples=100, deadline=None)
def test_no_value_is_further_than_half_its_step(seed: int, limits: tuple[int, int]) -> None:
    """Where nothing is clipped, as in a row with a scale of its own, an error is at most half of its channel's step."""
    rng = np.random.default_rng(seed)
    low, high = limits
    shifts = rng.integers(0, int(np.log2((127 if low < 0 else 255) // high)) + 1, 40).astype(np.uint8)
    x = (rng.standard_normal((3, 40)) * np.exp2(shifts)).astype(np.float32)
    x = x if low < 0 else np.abs(x)
    operands, scales = quantize(x, low, high, 0.0, shifts)
    steps = scales[:, None].astype(np.float64) * np.exp2(shifts)
    assert np.all(np.abs(operands * scales[:, None].astype(np.float64) - x) <= steps * (0.5 + high * 2.0**-22))


def supported(family: str) -> list[Any]:
    return [row for row in _kernels.families()[family] if row.supported()]
