# SPDX-License-Identifier: Apache-2.0
"""FusedLinear: equal in every bit to its product, the activation kernel and the addition; its body means the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import one_node
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from oracle import NO_SHIFTS, Weights, random_weights, shift_matmul
from test_feed_forward import GELU, RELU, SILU, Activation, rows, run

from edgefold.ops import function_protos

_kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")

IDENTITY: Activation = (0, -np.inf, np.inf)
RANGES = {
    "dynamic": (-127, 127, 0.0),
    "static": (-127, 127, 0.03),
    "unsigned": (0, 255, 0.01),
    "narrow": (-7, 7, 0.0),
    "float": (0, 0, 0.0),
}


class Layer:
    """A random layer of K and N columns."""

    def __init__(self, k: int, n: int, function: Activation, activations: str = "dynamic", bits: int = 4) -> None:
        rng = np.random.default_rng(k)
        self.weights: Weights = random_weights(rng, k, n, bits, "shift")
        self.bias = rng.normal(size=n).astype(np.float32)
        self.function = function
        self.low, self.high, self.scale = RANGES[activations]

    def model(self, residual: np.ndarray | None = None, **changes: Any) -> onnx.ModelProto:
        tensors = one_node.weight_tensors(self.weights)
        tensors |= {"bias": self.bias, "x_scale": np.array([self.scale], np.float32), "x_shifts": NO_SHIFTS}
        tensors["residual"] = np.zeros(1, np.float32) if residual is None else residual
        attributes: dict[str, Any] = dict(zip(("function", "alpha", "beta"), self.function, strict=True))
        attributes |= {"k": self.weights.k, "bits": self.weights.bits}
        attributes |= {"activation_low": self.low, "activation_high": self.high}
        type_ = {0: TensorProto.FLOAT, 1: TensorProto.INT8}[changes.get("x_codes", 0)]
        x = (type_, ["m", self.weights.k])
        built = one_node.model("FusedLinear", tensors, x, ["m", self.weights.n], **(attributes | changes))
        return onnx.load_from_string(built)

    def expected(self, x: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        product = shift_matmul(x, self.weights, self.bias, self.scale, self.low, self.high)
        y = _kernels.families()["activation"][-1](product, *self.function)
        return y if residual is None else y + residual


@pytest.mark.parametrize("m", [0, 1, 3, 19, 128, 129])
@pytest.mark.parametrize("function", [IDENTITY, RELU, SILU, GELU], ids=["none", "relu", "silu", "gelu"])
def test_equals_the_operators_it_stands_for(m: int, function: Activation) -> None:
    layer = Layer(70, 37, function)
    x = rows(m, 70)
    np.testing.assert_array_equal(run(layer.model(), x), layer.expected(x))
    residual = np.random.default_rng(0).normal(size=(m, 37)).astype(np.float32)
    np.testing.assert_array_equal(run(layer.model(residual), x), layer.expected(x, residual))


@pytest.mark.parametrize("activations", [name for name in RANGES if name != "float"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_equals_them_for_every_kind_of_layer(activations: str, bits: int) -> None:
    layer = Layer(96, 33, RELU, activations, bits)
    x, residual = rows(9, 96), np.ones((9, 33), np.float32)
    np.testing.assert_array_equal(run(layer.model(residual), x), layer.expected(x, residual))


def test_float_activations() -> None:
    layer = Layer(96, 33, RELU, "float")
    x, residual = rows(9, 96), np.ones((9, 33), np.float32)
    expected = layer.expected(x, residual)
    np.testing.assert_allclose(run(layer.model(residual), x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_codes_that_a_producer_made() -> None:
    layer = Layer(64, 20, RELU, "static")
    codes = np.random.default_rng(1).integers(-127, 128, (5, 64)).astype(np.int8)
    x = codes.astype(np.float32) * np.float32(layer.scale)
    np.testing.assert_array_equal(run(layer.model(x_codes=1), codes), layer.expected(x))


def test_threads_change_nothing() -> None:
    layer, x = Layer(64, 160, GELU), rows(300, 64)
    residual = rows(300, 160)
    np.testing.assert_array_equal(run(layer.model(residual), x, threads=3), run(layer.model(residual), x))


@pytest.mark.parametrize("function", [IDENTITY, RELU, GELU], ids=["none", "relu", "gelu"])
def test_the_body_means_the_same(function: Activation) -> None:
    """Exact in stock ONNX Runtime where the activation is."""
    layer, x, residual = Layer(70, 37, function), rows(12, 70), np.ones((12, 37), np.float32)
    model = layer.model(residual)
    model.functions.extend(function_protos(21, ["FusedLinear"]))
    y = np.asarray(ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0])
    expected = layer.expected(x, residual)
    if function is GELU:
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(y, expected)


BROKEN = {
    "bits": ({"bits": 1}, "attribute 'bits' is 1"),
    "k": ({"k": 96}, "codes has shape"),
    "function": ({"function": 9}, "attribute 'function' is 9"),
    "alpha": ({"alpha": float("nan")}, "attribute 'alpha' is nan"),
    "layout": ({"layout": 2}, "attribute 'layout' is 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_node_is_refused(case: str) -> None:
    changes, message = BROKEN[case]
    with pytest.raises(Exception, match=message):
        run(Layer(32, 16, RELU).model(**changes), rows(1, 32))


@pytest.mark.parametrize("residual", [np.ones(1, np.float32), np.zeros((3, 15), np.float32)], ids=str)
def test_a_residual_of_another_shape_is_refused(residual: np.ndarray) -> None:
    with pytest.raises(Exception, match=r"FusedLinear: residual has shape .*; expected \[2,16\], or one zero"):
        run(Layer(32, 16, RELU).model(residual), rows(2, 32))
