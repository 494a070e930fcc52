# SPDX-License-Identifier: Apache-2.0
"""Kernel variants: references against numpy, every other variant bit for bit against its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracle import NO_SHIFTS, Weights, quantize, random_shifts, random_weights

_kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")

FAMILIES: dict[str, list[Any]] = _kernels.families()
SHAPES = [(1, 1, 1), (2, 31, 15), (3, 32, 16), (4, 33, 17), (5, 67, 40), (7, 128, 33), (13, 131, 48)]


def supported(row: Any) -> Any:
    if not row.supported():
        pytest.skip(f"this CPU has no {row.isa()}")
    return row


def matrix(weights: Weights) -> Any:
    return _kernels.Matrix(weights.codes, weights.selectors, weights.table, weights.k, weights.n)


def padded(codes: np.ndarray) -> np.ndarray:
    """Codes as bytes, padded with zeros to whole groups of 32."""
    rows, k = codes.shape
    out = np.zeros((rows, -(-k // 32) * 32), np.uint8)
    out[:, :k] = codes.astype(np.int64) & 255
    return out


def random_codes(rng: np.random.Generator, rows: int, k: int, is_unsigned: bool) -> np.ndarray:
    low, high = (0, 256) if is_unsigned else (-127, 128)
    return rng.integers(low, high, (rows, k))


def decoded(weights: Weights, panel: int) -> np.ndarray:
    """The N16K4 form of a panel; what lies beyond N and K is left 0."""
    k, n = weights.integers.shape
    whole = np.zeros((-(-k // 4) * 4, -(-n // 16) * 16), np.int8)
    whole[:k, :n] = weights.integers
    part = whole[:, panel * 16 : panel * 16 + 16]
    return np.ascontiguousarray(part.reshape(-1, 4, 16).transpose(0, 2, 1).reshape(-1, 64))


def test_every_family_ends_in_its_reference_and_chooses_one() -> None:
    for rows in FAMILIES.values():
        assert rows[-1].isa() == "reference"
        assert sum(row.chosen() for row in rows) == 1
        assert all(row.supported() for row in rows if row.chosen())


@pytest.mark.parametrize("method", ["rtn", "shift", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("row", FAMILIES["unpack"], ids=lambda row: row.name())
def test_unpack(row: Any, bits: int, method: str) -> None:
    rng = np.random.default_rng(bits)
    for _, k, n in SHAPES:
        weights = random_weights(rng, k, n, bits, method)
        panel = (n - 1) // 16
        got = supported(row)(matrix(weights), panel, 0, -(-k // 4))
        inside = decoded(weights, panel)
        columns = n - panel * 16
        valid = np.zeros((len(inside), 16, 4), bool)
        valid[:, :columns] = (np.arange(len(inside) * 4) < k).reshape(-1, 1, 4)
        np.testing.assert_array_equal(got[valid.reshape(-1, 64)], inside[valid.reshape(-1, 64)])


@pytest.mark.parametrize("is_unsigned", [False, True])
@pytest.mark.parametrize("row", FAMILIES["gemm"], ids=lambda row: row.name())
def test_gemm(row: Any, is_unsigned: bool) -> None:
    rng = np.random.default_rng(1)
    for m, k, n in SHAPES:
        weights = random_weights(rng, k, n, 4)
        codes = random_codes(rng, m, k, is_unsigned)
        panels = np.stack([decoded(weights, panel) for panel in range(-(-n // 16))])
        got = supported(row)(_kernels.Rows(padded(codes), is_unsigned), panels)
        np.testing.assert_array_equal(got[:, :n], codes @ weights.integers.astype(np.int64))


@pytest.mark.parametrize("is_unsigned", [False, True])
@pytest.mark.parametrize("method", ["rtn", "shift", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("row", FAMILIES["gemv"], ids=lambda row: row.name())
def test_gemv(row: Any, bits: int, method: str, is_unsigned: bool) -> None:
    rng = np.random.default_rng(bits)
    for m, k, n in SHAPES:
        weights = random_weights(rng, k, n, bits, method)
        codes = random_codes(rng, m, k, is_unsigned)
        got = supported(row)(matrix(weights), _kernels.Rows(padded(codes), is_unsigned))
        np.testing.assert_array_equal(got[:, :n], codes @ weights.integers.astype(np.int64))


@pytest.mark.parametrize("is_unsigned", [False, True])
@pytest.mark.parametrize("run_units", [4, 8, 16])
@pytest.mark.parametrize("row", FAMILIES["arrange"], ids=lambda row: row.name())
def test_arrange(row: Any, run_units: int, is_unsigned: bool) -> None:
    rng = np.random.default_rng(run_units)
    for m, k, _ in SHAPES:
        codes = random_codes(rng, m, k, is_unsigned)
        bias = 0 if is_unsigned else 7
        got = supported(row)(_kernels.Rows(padded(codes), is_unsigned), run_units, bias)
        whole = np.zeros((m, -(-k // 32) * 32), np.int64)
        whole[:, :k] = codes
        for b, block in enumerate(got):
            part = whole[:, b * 64 : b * 64 + 64]
            depth = part.shape[1]  # 32 in a last block of one group
            # [row, side, pair, k of the pair] to [row, pair, side, k of the pair].
            expected = part.reshape(m, 2, -1, 2).swapaxes(1, 2)
            np.testing.assert_array_equal(block[: m * depth], (expected.ravel() & 255).astype(np.uint8))
            if not is_unsigned:
                runs = max(1, depth // 4 // run_units)
                sums = expected.sum(-1).reshape(m, runs, -1, 2).sum(2)
                offsets = block[m * depth :].copy().view(np.int16)[: sums.size]
                np.testing.assert_array_equal(offsets, -bias * sums.ravel())


@pytest.mark.parametrize("is_unsigned", [False, True])
@pytest.mark.parametrize("method", ["rtn", "shift", "shapes"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("row", FAMILIES["gemm_shift"], ids=lambda row: row.name())
def test_gemm_shift(row: Any, bits: int, method: str, is_unsigned: bool) -> None:
    rng = np.random.default_rng(bits)
    for m, k, n in SHAPES:
        weights = random_weights(rng, k, n, bits, method)
        codes = random_codes(rng, m, k, is_unsigned)
        panel = (n - 1) // 16
        got = supported(row)(matrix(weights), panel, _kernels.Rows(padded(codes), is_unsigned))
        columns = weights.integers[:, panel * 16 :].astype(np.int64)
        np.testing.assert_array_equal(got[:, : columns.shape[1]], codes @ columns)


@pytest.mark.parametrize("x_scale", [0.0, 0.021])
@pytest.mark.parametrize("shifted", [False, True], ids=["plain", "shifted"])
@pytest.mark.parametrize("limits", [(-127, 127), (0, 255), (-7, 7), (0, 15), (-31, 31)], ids=str)
@pytest.mark.parametrize("row", FAMILIES["quantize"], ids=lambda row: row.name())
def test_quantize(row: Any, limits: tuple[int, int], x_scale: float, shifted: bool) -> None:
    rng = np.random.default_rng(3)
    low, high = limits
    for m, k, _ in SHAPES:
        x = (rng.standard_normal((m, k)) * 3).astype(np.float32)
        x[0] = 0
        shifts = random_shifts(rng, k, low, high) if shifted else np.zeros(0, np.uint8)
        codes, scales, sums, pair_sums = supported(row)(x, low, high, x_scale, shifts)
        expected, expected_scales = quantize(x, low, high, x_scale, shifts if shifted else NO_SHIFTS)
        np.testing.assert_array_equal(codes, padded(expected))
        np.testing.assert_array_equal(scales, expected_scales)
        np.testing.assert_array_equal(sums, expected.sum(axis=1))
        if low < 0:
            signed = padded(expected).view(np.int8).astype(np.int64)
            pairs = signed.reshape(m, -1, 4, 2, 2).sum(axis=(2, 4)).reshape(m, -1, 4)
            np.testing.assert_array_equal(pair_sums, pairs)


@pytest.mark.parametrize("row", FAMILIES["gemm_float"], ids=lambda row: row.name())
def test_gemm_float(row: Any) -> None:
    rng = np.random.default_rng(4)
    for m, k, n in SHAPES:
        weights = random_weights(rng, k, min(n, 16), 4)
        x = rng.standard_normal((m, k)).astype(np.float32)
        got = supported(row)(x, decoded(weights, 0))[:, : weights.n]
        exact = x.astype(np.float64) @ weights.integers
        bound = k * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(weights.integers.astype(np.float64)))
        assert np.all(np.abs(got - exact) <= bound)


@pytest.mark.parametrize("row", FAMILIES["epilogue"], ids=lambda row: row.name())
def test_epilogue(row: Any) -> None:
    rng = np.random.default_rng(5)
    for m, _, n in SHAPES:
        acc = rng.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
        row_scales, scales = rng.random(m, np.float32), rng.random(n, np.float32)
        for bias in (rng.standard_normal(n).astype(np.float32) * 1e6, np.ones(1, np.float32)):
            expected = acc.astype(np.float32) * (row_scales[:, None] * scales) + bias
            np.testing.assert_array_equal(supported(row)(acc, row_scales, scales, bias), expected)


def test_kernels_refuse_what_would_read_out_of_bounds() -> None:
    weights = random_weights(np.random.default_rng(0), 32, 16, 4)
    with pytest.raises(ValueError, match="selector names a table"):
        _kernels.Matrix(weights.codes, weights.selectors | 0xFF, weights.table[:2], 32, 16)
    with pytest.raises(ValueError, match="codes must be"):
        _kernels.Matrix(weights.codes, weights.selectors, weights.table, 36, 16)
    with pytest.raises(ValueError, match="panel is outside"):
        FAMILIES["unpack"][-1](matrix(weights), 1, 0, 8)
