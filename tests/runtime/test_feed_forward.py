# SPDX-License-Identifier: Apache-2.0
"""FusedFeedForward: equal in every bit to its two products around the activation kernel; its body means the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import one_node
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from oracle import NO_SHIFTS, Weights, random_weights, shift_matmul

from edgefold.errors import EdgefoldError
from edgefold.ops import function_protos
from edgefold.runtime import ops_library

_kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")

RELU, SILU, GELU = (0, 0.0, np.inf), (4, 1.0, 0.0), (6, 0.0, 0.0)
Activation = tuple[int, float, float]
Range = tuple[int, int, float]  # low, high, static scale or 0
DYNAMIC: Range = (-127, 127, 0.0)


class Block:
    """A random block of K, H and N columns."""

    def __init__(
        self, k: int, h: int, n: int, function: Activation = GELU, hidden: Range = DYNAMIC, bits: int = 4
    ) -> None:
        rng = np.random.default_rng(k)
        self.up: Weights = random_weights(rng, k, h, bits)
        self.down: Weights = random_weights(rng, h, n, bits, "shift")
        self.up.scales *= np.float32(0.002)
        self.biases = rng.normal(size=h).astype(np.float32), np.ones(1, np.float32)
        self.function = function
        self.hidden = hidden

    def model(self, residual: np.ndarray | None = None, **changes: Any) -> onnx.ModelProto:
        tensors: dict[str, np.ndarray] = {}
        attributes: dict[str, Any] = dict(zip(("function", "alpha", "beta"), self.function, strict=True))
        layers = [("up_", self.up, DYNAMIC), ("down_", self.down, self.hidden)]
        for (prefix, weights, (low, high, scale)), bias in zip(layers, self.biases, strict=True):
            own = one_node.weight_tensors(weights)
            own |= {"bias": bias, "x_scale": np.array([scale], np.float32), "x_shifts": NO_SHIFTS}
            tensors |= {prefix + name: array for name, array in own.items()}
            named = {"k": weights.k, "bits": weights.bits, "activation_low": low, "activation_high": high}
            attributes |= {prefix + name: value for name, value in named.items()}
        tensors["residual"] = np.zeros(1, np.float32) if residual is None else residual
        x = (TensorProto.FLOAT, ["m", self.up.k])
        built = one_node.model("FusedFeedForward", tensors, x, ["m", self.down.n], **(attributes | changes))
        return onnx.load_from_string(built)

    def expected(self, x: np.ndarray, residual: np.ndarray | None = None, last: Activation | None = None) -> np.ndarray:
        hidden = shift_matmul(x, self.up, self.biases[0], 0.0, -127, 127)
        active = _kernels.families()["activation"][-1](hidden, *self.function)
        low, high, scale = self.hidden
        y = shift_matmul(active, self.down, self.biases[1], scale, low, high)
        y = y if last is None else _kernels.families()["activation"][-1](y, *last)
        return y if residual is None else y + residual


def run(model: onnx.ModelProto, x: np.ndarray, threads: int = 1) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        options.register_custom_ops_library(str(ops_library()))
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    return np.asarray(ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0])


def rows(m: int, k: int) -> np.ndarray:
    x = np.random.default_rng(m).normal(size=(m, k)).astype(np.float32)
    x[m // 2 : m // 2 + 1] = 0
    return x


@pytest.mark.parametrize("m", [0, 1, 3, 19, 128, 129, 300])
def test_equals_the_operators_it_stands_for(m: int) -> None:
    block = Block(37, 70, 19)
    x = rows(m, 37)
    np.testing.assert_array_equal(run(block.model(), x), block.expected(x))
    residual = np.random.default_rng(0).normal(size=(m, 19)).astype(np.float32)
    np.testing.assert_array_equal(run(block.model(residual), x), block.expected(x, residual))


@pytest.mark.parametrize("function", [RELU, SILU, GELU], ids=["relu", "silu", "gelu"])
@pytest.mark.parametrize(
    "hidden", [DYNAMIC, (-127, 127, 0.03), (0, 255, 0.01), (-7, 7, 0.0)], ids=["dynamic8", "static8", "u8", "s4"]
)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_equals_them_for_every_kind_of_layer(function: Activation, hidden: Range, bits: int) -> None:
    block = Block(64, 96, 33, function, hidden, bits)
    x = rows(9, 64)
    np.testing.assert_array_equal(run(block.model(), x), block.expected(x))


def named(last: Activation) -> dict[str, float]:
    return dict(zip(("down_function", "down_alpha", "down_beta"), last, strict=True))


@pytest.mark.parametrize("last", [RELU, SILU, GELU, (0, -np.inf, np.inf)], ids=["relu", "silu", "gelu", "none"])
@pytest.mark.parametrize("m", [1, 9, 130])
def test_an_activation_behind_the_second_layer(last: Activation, m: int) -> None:
    block, x = Block(37, 70, 19, RELU), rows(m, 37)
    for residual in (None, np.ones((m, 19), np.float32)):
        model = block.model(residual, **named(last))
        np.testing.assert_array_equal(run(model, x), block.expected(x, residual, last))
    model = block.model(**named(last))
    model.functions.extend(function_protos(21, ["FusedFeedForward"]))
    y = np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])
    expected = block.expected(x, last=last)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_threads_change_nothing() -> None:
    block = Block(64, 160, 48)
    x = rows(300, 64)
    np.testing.assert_array_equal(run(block.model(), x, threads=3), run(block.model(), x))


@pytest.mark.parametrize("function", [RELU, SILU, GELU], ids=["relu", "silu", "gelu"])
def test_the_body_means_the_same(function: Activation) -> None:
    """Exact in stock ONNX Runtime where the activation is; else its last bits move a code by one here and there."""
    block = Block(37, 70, 19, function)
    x = rows(12, 37)
    residual = np.ones((12, 19), np.float32)
    model = block.model(residual)
    model.functions.extend(function_protos(21, ["FusedFeedForward"]))
    y = np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])
    expected = block.expected(x, residual)
    if function is RELU:
        np.testing.assert_array_equal(y, expected)
    error = np.abs(y - expected)
    active = _kernels.families()["activation"][-1](
        shift_matmul(x, block.up, block.biases[0], 0.0, -127, 127), *function
    )
    step = np.abs(active).max() * block.down.scales.max()  # what one code more does, with the largest weight
    assert error.max() <= 2 * step
    assert np.median(error) <= 1e-6 * np.abs(expected).max()


BROKEN = {
    "bits": ({"up_bits": 1}, "attribute 'up_bits' is 1"),
    "k": ({"down_k": 96}, "codes has shape"),
    "function": ({"function": 9}, "attribute 'function' is 9"),
    "alpha": ({"alpha": float("nan")}, "attribute 'alpha' is nan"),
    "last function": ({"down_function": 9, "down_alpha": 0.0, "down_beta": 0.0}, "attribute 'down_function' is 9"),
    "last alpha": ({"down_function": 0, "down_beta": 0.0}, "attribute 'down_alpha'"),
    "codes": ({"down_x_codes": 1}, "attribute 'x_codes' is 1; expected float inputs"),
    "layout": ({"down_layout": 2}, "attribute 'down_layout' is 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_node_is_refused(case: str) -> None:
    changes, message = BROKEN[case]
    with pytest.raises(Exception, match=message):
        run(Block(32, 64, 16).model(**changes), rows(1, 32))


def test_layers_that_do_not_fit_are_refused() -> None:
    block = Block(32, 64, 16)
    block.down = random_weights(np.random.default_rng(0), 60, 16, 4)
    with pytest.raises(Exception, match="down_k is 60; up gives 64 columns"):
        run(block.model(), rows(1, 32))


@pytest.mark.parametrize("residual", [np.ones(1, np.float32), np.zeros((3, 15), np.float32)], ids=str)
def test_a_residual_of_another_shape_is_refused(residual: np.ndarray) -> None:
    with pytest.raises(Exception, match=r"residual has shape .*; expected \[2,16\], or one zero"):
        run(Block(32, 64, 16).model(residual), rows(2, 32))
