# SPDX-License-Identifier: Apache-2.0
"""The kernel family `activation`: every variant against the exact functions, within the bounds of its header."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

_kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")

ROWS: list[Any] = _kernels.families()["activation"]
CLIP, SIGMOID, HARD_SIGMOID, TANH, SWISH, HARD_SWISH, GELU, GELU_TANH, LEAKY_RELU = range(9)
Exact = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([value / 2 * math.erfc(-value / math.sqrt(2)) for value in x])


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


def run(row: Any, x: np.ndarray, kind: int, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
    if not row.supported():
        pytest.skip(f"this CPU has no {row.isa()}")
    return np.asarray(row(x[np.newaxis].astype(np.float32), kind, alpha, beta)[0])


def values() -> np.ndarray:
    """Float32 values as float64: dense where the functions bend, and of all sizes on both sides."""
    sizes = np.geomspace(1e-30, 85, 2001)
    near = np.linspace(-10, 10, 20001)
    return np.concatenate([near, sizes, -sizes]).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name())
@pytest.mark.parametrize(("kind", "exact"), [(SIGMOID, sigmoid), (TANH, np.tanh)], ids=["sigmoid", "tanh"])
def test_error_relative_to_the_result(row: Any, kind: int, exact: Exact) -> None:
    x = values()
    expected = exact(x)
    assert np.all(np.abs(run(row, x, kind) - expected) <= 2.0**-22 * np.abs(expected))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name())
@pytest.mark.parametrize(
    ("kind", "alpha", "exact"),
    [
        (SWISH, 1.0, lambda x: x * sigmoid(x)),
        (SWISH, 1.702, lambda x: x * sigmoid(x * np.float64(np.float32(1.702)))),
        (GELU, 0.0, gelu),
        (GELU_TANH, 0.0, gelu_tanh),
    ],
    ids=["silu", "quick-gelu", "gelu", "gelu-tanh"],
)
def test_error_relative_to_the_argument(row: Any, kind: int, alpha: float, exact: Exact) -> None:
    x = values()
    assert np.all(np.abs(run(row, x, kind, alpha) - exact(x)) <= (2.0**-21 if kind == GELU else 2.0**-22) * np.abs(x))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name())
def test_piecewise_linear_kinds_round_each_operation_once(row: Any) -> None:
    x = values().astype(np.float32)
    slope = np.clip(x * np.float32(1 / 6) + np.float32(0.5), 0, 1)
    np.testing.assert_array_equal(run(row, x, CLIP, 0.0, np.inf), np.maximum(x, 0))
    np.testing.assert_array_equal(run(row, x, CLIP, -1.5, 6.0), np.clip(x, -1.5, 6))
    np.testing.assert_array_equal(run(row, x, HARD_SIGMOID, 1 / 6, 0.5), slope)
    np.testing.assert_array_equal(run(row, x, HARD_SWISH, 1 / 6, 0.5), x * slope)
    for alpha in np.float32([0.1, 0, -1]):
        np.testing.assert_array_equal(run(row, x, LEAKY_RELU, alpha), np.where(x < 0, alpha * x, x))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name())
def test_ends(row: Any) -> None:
    """Beyond its interval erf is exactly 1; sigmoid goes to exactly 0; a NaN is never lost."""
    np.testing.assert_array_equal(run(row, np.array([-1e30, -6, -5.4]), GELU), 0)
    np.testing.assert_array_equal(run(row, np.array([5.4, 1e30, np.inf]), GELU), np.float32([5.4, 1e30, np.inf]))
    np.testing.assert_array_equal(run(row, np.array([-np.inf, -87, 87, np.inf]), SIGMOID), [0, 0, 1, 1])
    np.testing.assert_array_equal(run(row, np.array([-np.inf, -20, 20, np.inf]), TANH), [-1, -1, 1, 1])
    for kind in range(9):
        assert np.isnan(run(row, np.array([np.nan]), kind))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name())
@pytest.mark.parametrize("kind", range(9))
def test_bit_equal_to_the_reference(row: Any, kind: int) -> None:
    x = values()
    expected = run(ROWS[-1], x, kind, 0.3, 0.7)
    np.testing.assert_array_equal(run(row, x, kind, 0.3, 0.7).view(np.int32), expected.view(np.int32))
