# SPDX-License-Identifier: Apache-2.0
"""CodeMean and CodeGate: kernel, function body and numpy agree in every bit."""

from __future__ import annotations

import numpy as np
import pytest
from fused_conv import TYPES, image, model, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

X_SCALE, Y_SCALE = np.float32(0.037), np.float32(0.021)


def mean(x: np.ndarray) -> tuple[bytes, dict[str, np.ndarray]]:
    constants = {"x_scale": np.array([X_SCALE])}
    return model("CodeMean", ["x", "x_scale"], {"x": x}, constants, TensorProto.FLOAT, {}), {"x": x}


def gate(x: np.ndarray, factors: np.ndarray, y: str, **more: int) -> tuple[bytes, dict[str, np.ndarray]]:
    feeds = {"x": x, "gate": factors}
    constants = {"x_scale": np.array([X_SCALE]), "y_scale": np.array([Y_SCALE])}
    low, high, kind = TYPES[y]
    attributes = {"y_low": low, "y_high": high, "y_dtype": kind} | more
    return model("CodeGate", ["x", "gate", *constants], feeds, constants, kind, attributes), feeds


@settings(max_examples=8, deadline=None)
@given(
    kind=st.sampled_from(["u8", "s8"]),
    channels=st.integers(1, 150),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_means_are_those_of_integer_sums(kind: str, channels: int, size: tuple[int, int], seed: int) -> None:
    x = image(np.random.default_rng(seed), kind, channels, size)
    x[0] = TYPES[kind][1]  # the largest sum there is
    proto, feeds = mean(x)
    sums = x.astype(np.int64).sum(axis=(1, 2)).astype(np.float32)
    expected = (sums * (X_SCALE / np.float32(size[0] * size[1])))[:, :, None, None]
    np.testing.assert_array_equal(run(proto, feeds, library=True, threads=2), expected)
    np.testing.assert_array_equal(run(proto, feeds, library=False), expected)


@settings(max_examples=8, deadline=None)
@given(
    kinds=st.tuples(st.sampled_from(["u8", "s8"]), st.sampled_from(["u8", "s8"])),
    channels=st.integers(1, 150),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 99),
)
def test_gates_are_those_of_the_definition(
    kinds: tuple[str, str], channels: int, size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = image(rng, kinds[0], channels, size)
    factors = rng.uniform(-0.5, 2, (2, channels, 1, 1)).astype(np.float32)
    proto, feeds = gate(x, factors, kinds[1])
    v = x.astype(np.float32) * (X_SCALE * factors.transpose(0, 2, 3, 1))
    low, high, _ = TYPES[kinds[1]]
    expected = np.clip(np.rint(v / Y_SCALE), low, high)
    got = run(proto, feeds, library=True, threads=2)
    assert got.dtype == (np.uint8 if low == 0 else np.int8)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(run(proto, feeds, library=False), expected)


def test_no_image_at_all() -> None:
    x = np.zeros((0, 3, 4, 5), np.uint8)
    assert run(*mean(x), library=True).shape == (0, 5, 1, 1)
    assert run(*gate(x, np.zeros((0, 5, 1, 1), np.float32), "u8"), library=True).shape == (0, 3, 4, 5)


@pytest.mark.parametrize(
    ("x", "factors", "more", "message"),
    [
        (np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 4, 1, 1), np.float32), {}, r"gate has shape \[1,4,1,1\]"),
        (np.zeros((1, 2, 2, 3), np.int32), np.zeros((1, 3, 1, 1), np.float32), {}, "expected uint8 or int8"),
        (np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 3, 1, 1), np.float32), {"y_high": 0}, "y_dtype"),
        (np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 3, 1, 1), np.float32), {"y_high": 256}, "y_high"),
        (np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 3, 1, 1), np.float32), {"y_low": -128}, "y_low"),
    ],
)
def test_a_gate_that_does_not_fit_is_refused(
    x: np.ndarray, factors: np.ndarray, more: dict[str, int], message: str
) -> None:
    proto, feeds = gate(x, factors, "u8", **more)
    with pytest.raises(Exception, match=message):
        run(proto, feeds, library=True)


def test_the_mean_of_no_pixels_is_refused() -> None:
    with pytest.raises(Exception, match="x has 0 pixels"):
        run(*mean(np.zeros((1, 0, 2, 3), np.uint8)), library=True)
