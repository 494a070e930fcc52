# SPDX-License-Identifier: Apache-2.0
"""Properties of the weight methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.quantization.codes import Method, QuantizedMatrix, quantize_matrix
from edgefold.passes.quantization.selection import GROUP

CASES = [
    (method, bits)
    for method in ("rtn", "shift", "shift-lut")
    for bits in range(2, 9)
    if method != "shift-lut" or bits <= 6
]
SHAPES = [(9, 1), (1, 1), (1, 40), (32, 3), (33, 17), (100, 5), (128, 64)]


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def squared_error(weight: np.ndarray, quantized: QuantizedMatrix) -> float:
    return float(((weight - quantized.dequantize()).astype(np.float64) ** 2).sum())


def assert_valid(quantized: QuantizedMatrix, rows: int, columns: int) -> None:
    groups = -(-rows // GROUP)
    assert quantized.codes.shape == (rows, columns)
    assert quantized.codes.dtype == np.uint8
    assert quantized.selectors.shape == (groups, columns)
    assert quantized.selectors.dtype == np.uint8
    assert quantized.table.dtype == np.int8
    assert quantized.table.shape[1] == 2**quantized.bits
    assert quantized.table.size <= 256
    assert quantized.scales.shape == (columns,)
    assert quantized.scales.dtype == np.float32
    assert int(quantized.codes.max()) < 2**quantized.bits
    assert int(quantized.selectors.max()) < len(quantized.table)
    assert np.abs(quantized.integers().astype(int)).max() <= 127
    assert np.isfinite(quantized.scales).all()
    assert (quantized.scales >= 0).all()


@pytest.mark.parametrize(("method", "bits"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_valid_codes(method: Method, bits: int, shape: tuple[int, int]) -> None:
    assert_valid(quantize_matrix(gaussian(*shape), bits, method), *shape)


@pytest.mark.parametrize(("method", "bits"), CASES)
@pytest.mark.parametrize("magnitude", [1e-34, 1e-10, 1e10, 1e37])
def test_error_does_not_depend_on_the_magnitude(method: Method, bits: int, magnitude: float) -> None:
    weight = gaussian(64, 8)
    scaled = weight * np.float32(magnitude)
    expected = squared_error(weight, quantize_matrix(weight, bits, method))
    restored = quantize_matrix(scaled, bits, method).dequantize() / np.float32(magnitude)
    assert float(((weight - restored) ** 2).sum()) == pytest.approx(expected, rel=0.05)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(CASES), st.integers(1, 70), st.integers(1, 9), st.integers(0, 2**16))
def test_no_other_code_is_nearer(case: tuple[Method, int], rows: int, columns: int, seed: int) -> None:
    weight = gaussian(rows, columns, seed)
    quantized = quantize_matrix(weight, case[1], case[0])
    table = quantized.table[np.repeat(quantized.selectors, GROUP, axis=0)[:rows]].astype(np.float64)  # [K, N, L]
    scaled = weight.astype(np.float64) / quantized.scales
    least = np.abs(table - scaled[..., None]).min(axis=2)
    assert (np.abs(quantized.integers() - scaled) <= least + 1e-4).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 8), st.integers(1, 80), st.integers(1, 9), st.integers(0, 2**16))
def test_shift_is_never_worse_than_rtn(bits: int, rows: int, columns: int, seed: int) -> None:
    weight = gaussian(rows, columns, seed) * np.exp(gaussian(rows, columns, seed + 1))
    rtn, shift = (squared_error(weight, quantize_matrix(weight, bits, method)) for method in ("rtn", "shift"))
    assert shift <= rtn * (1 + 1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_learnt_tables_beat_shifts_on_gaussian_weights(bits: int) -> None:
    weight = gaussian(384, 64)
    lut, shift = (squared_error(weight, quantize_matrix(weight, bits, method)) for method in ("shift-lut", "shift"))
    assert lut < shift


def test_four_bit_error_on_gaussian_weights() -> None:
    weight = gaussian(384, 128)
    energy = float((weight**2).sum())
    error = {m: squared_error(weight, quantize_matrix(weight, 4, m)) / energy for m in ("rtn", "shift", "shift-lut")}
    assert error["rtn"] < 0.0135
    assert error["shift"] < 0.0122
    assert error["shift-lut"] < 0.0070


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_importance_moves_the_error_to_where_it_counts_less(method: Method, bits: int) -> None:
    weight = gaussian(64, 32)
    moment = np.diag(np.where(np.arange(64) % 2 == 0, 100.0, 1.0))
    plain = quantize_matrix(weight, bits, method)
    weighed = quantize_matrix(weight, bits, method, second_moment=moment)
    heavy = [((weight - q.dequantize())[::2] ** 2).sum() for q in (plain, weighed)]
    assert heavy[1] <= heavy[0] * 1.001


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_zero_columns_stay_zero(method: Method, bits: int) -> None:
    weight = gaussian(40, 6)
    weight[:, [0, 3]] = 0
    quantized = quantize_matrix(weight, bits, method)
    assert (quantized.dequantize()[:, [0, 3]] == 0).all()
    assert (quantized.scales[[1, 2]] > 0).all()
    assert (quantize_matrix(np.zeros((5, 4), np.float32), bits, method).dequantize() == 0).all()


@pytest.mark.parametrize(("method", "bits"), CASES)
def test_result_is_deterministic(method: Method, bits: int) -> None:
    first, second = (quantize_matrix(gaussian(70, 20), bits, method) for _ in range(2))
    assert (first.codes == second.codes).all()
    assert (first.table == second.table).all()
    assert (first.scales == second.scales).all()
    assert (first.selectors == second.selectors).all()


def test_bits_per_weight_counts_everything() -> None:
    quantized = quantize_matrix(gaussian(384, 1536), 4, "shift-lut")
    assert quantized.bits_per_weight == pytest.approx(4 + 4 / 32 + 32 / 384 + 128 * 8 / (384 * 1536))
    assert quantize_matrix(gaussian(9, 1), 4, "rtn").bits_per_weight > 16  # padded to 12 rows of 16 columns


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    weight = gaussian(8, 8)
    weight[3, 3] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantize_matrix(weight, 4, "rtn")


def test_bad_options_are_refused() -> None:
    weight = gaussian(8, 8)
    with pytest.raises(ValueError, match="use method shift"):
        quantize_matrix(weight, 7, "shift-lut")
    with pytest.raises(ValueError, match="2 to 8 bits"):
        quantize_matrix(weight, 1, "rtn")
    with pytest.raises(ValueError, match="needs the second moment"):
        quantize_matrix(weight, 4, "rtn", rounding="gptq")
    with pytest.raises(ValueError, match="do not fit"):
        quantize_matrix(weight, 4, "rtn", second_moment=np.eye(7))
