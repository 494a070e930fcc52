# SPDX-License-Identifier: Apache-2.0
"""ShiftConv in ONNX Runtime against numpy: equal floats where activations are quantized."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conv_oracle import Geometry, model, shift_conv
from onnx import TensorProto, helper
from oracle import random_shifts, random_weights

from edgefold.runtime import ops_library

GEOMETRIES = {
    "resnet20-first": Geometry(3, 16, (3, 3), (32, 32), pads=(1, 1, 1, 1)),
    "resnet20-stage1": Geometry(16, 16, (3, 3), (32, 32), pads=(1, 1, 1, 1)),
    "resnet20-stage3": Geometry(64, 64, (3, 3), (8, 8), pads=(1, 1, 1, 1)),
    "resnet20-downsample": Geometry(16, 32, (3, 3), (32, 32), strides=(2, 2), pads=(1, 1, 1, 1)),
    "shortcut": Geometry(16, 32, (1, 1), (9, 11), strides=(2, 2)),
    "pointwise": Geometry(32, 48, (1, 1), (7, 7)),
    "pointwise-odd-channels": Geometry(19, 35, (1, 1), (5, 6)),
    "pointwise-padded": Geometry(5, 7, (1, 1), (4, 4), pads=(1, 0, 0, 2)),
    "many-panels": Geometry(24, 300, (1, 1), (6, 6)),
    "mobilenet-depthwise": Geometry(40, 40, (3, 3), (14, 14), pads=(1, 1, 1, 1), group=40),
    "mobilenet-depthwise-s2": Geometry(24, 24, (3, 3), (15, 15), strides=(2, 2), pads=(0, 0, 1, 1), group=24),
    "mobilenetv3-depthwise-5x5": Geometry(72, 72, (5, 5), (14, 14), strides=(2, 2), pads=(2, 2, 2, 2), group=72),
    "depthwise-multiplier-2": Geometry(9, 18, (3, 3), (7, 8), pads=(1, 1, 1, 1), group=9),
    "groups-of-16-columns": Geometry(12, 64, (3, 3), (9, 9), pads=(1, 1, 1, 1), group=4),
    "groups-of-few-columns": Geometry(24, 20, (3, 3), (9, 10), pads=(1, 1, 1, 1), group=4),
    "dilated": Geometry(8, 16, (3, 3), (13, 12), dilations=(2, 3), pads=(2, 3, 2, 3)),
    "asymmetric": Geometry(6, 10, (2, 4), (9, 7), strides=(2, 1), pads=(0, 3, 1, 0), dilations=(1, 2)),
    "one-dimension": Geometry(20, 33, (5,), (50,), strides=(2,), pads=(2, 1)),
    "one-dimension-depthwise": Geometry(20, 20, (7,), (31,), pads=(6, 0), group=20),
    "three-dimensions": Geometry(4, 18, (3, 2, 3), (5, 6, 7), strides=(1, 2, 1), pads=(1, 0, 2, 1, 1, 0)),
    "three-dimensions-depthwise": Geometry(17, 17, (3, 3, 3), (5, 5, 6), pads=(1,) * 6, group=17),
    "three-dimensions-pointwise": Geometry(7, 9, (1, 1, 1), (3, 4, 5)),
    "one-output": Geometry(3, 1, (3, 3), (3, 3)),
    "one-pixel": Geometry(40, 70, (1, 1), (1, 1)),
    "three-windows-of-two-groups": Geometry(12, 64, (3, 3), (3, 5), group=2),
    "four-windows": Geometry(40, 35, (2, 2), (3, 3)),
    "wide-kernel": Geometry(2, 5, (7, 9), (8, 9), pads=(3, 4, 3, 4)),
}
RANGES = {"u8": (0, 255), "s8": (-127, 127), "float": (0, 0), "u4": (0, 15), "s6": (-31, 31)}


def session(proto: bytes, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(ops_library()))
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def run(proto: bytes, x: np.ndarray, threads: int = 1) -> np.ndarray:
    return session(proto, threads).run(None, {"x": x})[0]


def assert_same(y: np.ndarray, expected: np.ndarray, high: int, x: np.ndarray, g: Geometry, scales: np.ndarray) -> None:
    assert y.shape == expected.shape
    if high > 0:
        np.testing.assert_array_equal(y, expected)
    else:
        # gemm_float.h: K * 2^-24 * sum |x| |w|, with |w| <= 127; two more roundings for scale and bias.
        bound = (g.k + 2) * 2.0**-24 * g.k * np.abs(x).max(initial=0) * 127 * scales.max()
        np.testing.assert_allclose(y, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("span", RANGES)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(name: str, span: str, rng: np.random.Generator) -> None:
    g = GEOMETRIES[name]
    low, high = RANGES[span]
    method = ("lut", "shift", "rtn")[len(name) % 3]
    weights = random_weights(rng, g.k, g.out_channels, 4, method)
    bias = rng.normal(size=g.out_channels).astype(np.float32)
    x = rng.normal(size=(2, g.in_channels, *g.size)).astype(np.float32)
    x_scale = 2.5 / high if high else 0.0
    expected = shift_conv(x, weights, bias, x_scale, low, high, g)
    y = run(model(weights, bias, x_scale, low, high, g), x)
    assert_same(y, expected, high, x, g, weights.scales)


@pytest.mark.parametrize(("low", "high"), [(0, 15), (-7, 7), (-31, 31)])
@pytest.mark.parametrize(
    "name", ["resnet20-stage1", "pointwise-odd-channels", "mobilenet-depthwise", "groups-of-few-columns", "asymmetric"]
)
def test_channel_shifts(name: str, low: int, high: int, rng: np.random.Generator) -> None:
    g = GEOMETRIES[name]
    weights = random_weights(rng, g.k, g.out_channels, 4, "shift")
    bias = rng.normal(size=g.out_channels).astype(np.float32)
    shifts = random_shifts(rng, g.in_channels, low, high)
    across = (-1, *[1] * len(g.size))
    x = (rng.normal(size=(2, g.in_channels, *g.size)) * 2.0 ** shifts.reshape(across)).astype(np.float32)
    for given in (shifts, shifts.max(keepdims=True)):
        expected = shift_conv(x, weights, bias, 2.5 / high, low, high, g, given)
        y = run(model(weights, bias, 2.5 / high, low, high, g, given), x)
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("method", ["rtn", "shift", "lut"])
@pytest.mark.parametrize("name", ["resnet20-stage1", "one-pixel", "mobilenet-depthwise", "groups-of-few-columns"])
def test_bits(name: str, method: str, bits: int, rng: np.random.Generator) -> None:
    g = GEOMETRIES[name]
    weights = random_weights(rng, g.k, g.out_channels, bits, method)
    bias = rng.normal(size=1).astype(np.float32)
    x = rng.normal(size=(1, g.in_channels, *g.size)).astype(np.float32)
    for low, high in ((0, 255), (-127, 127)):
        expected = shift_conv(x, weights, bias, 0.02, low, high, g)
        np.testing.assert_array_equal(run(model(weights, bias, 0.02, low, high, g), x), expected)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("name", ["resnet20-stage3", "mobilenet-depthwise", "groups-of-16-columns", "dilated"])
def test_batches_and_threads(name: str, batch: int, rng: np.random.Generator) -> None:
    g = GEOMETRIES[name]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    bias = np.zeros(g.out_channels, np.float32)
    x = rng.normal(size=(batch, g.in_channels, *g.size)).astype(np.float32)
    for low, high in ((0, 255), (-127, 127), (0, 0)):
        expected = shift_conv(x, weights, bias, 0.02, low, high, g)
        y = run(model(weights, bias, 0.02, low, high, g), x, threads=2)
        assert_same(y, expected, high, x, g, weights.scales)


def test_extremes(rng: np.random.Generator) -> None:
    """All weights -127 against all activations at the end of their range, and values beyond it."""
    g = Geometry(64, 16, (3, 3), (6, 6), pads=(1, 1, 1, 1))
    weights = random_weights(rng, g.k, g.out_channels, 4)
    weights.table[...] = -127
    weights.integers[...] = -127
    bias = np.zeros(1, np.float32)
    x = np.full((1, 64, 6, 6), 1e30, np.float32)
    x[:, :, ::2] = -1e30
    x[0, 0, 0, 0] = np.inf
    for low, high in ((0, 255), (-127, 127)):
        expected = shift_conv(x, weights, bias, 1.0, low, high, g)
        np.testing.assert_array_equal(run(model(weights, bias, 1.0, low, high, g), x), expected)


def test_changing_shapes(rng: np.random.Generator) -> None:
    g = GEOMETRIES["dilated"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    bias = np.zeros(1, np.float32)
    one = session(model(weights, bias, 0.1, 0, 255, g))
    for size in ((13, 12), (1, 1), (40, 3), (2, 70)):
        x = rng.normal(size=(1, g.in_channels, *size)).astype(np.float32)
        y = one.run(None, {"x": x})[0]
        np.testing.assert_array_equal(y, shift_conv(x, weights, bias, 0.1, 0, 255, g))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [0, 1]}, "'strides' holds 0; expected 1 to"),
        ({"strides": [1]}, "'strides' has 1 numbers; expected 2"),
        ({"pads": [1, 1]}, "'pads' has 2 numbers; expected 4"),
        ({"pads": [-1, 0, 0, 0]}, "'pads' holds -1; expected 0 to"),
        ({"dilations": [1, 2**40]}, "'dilations' holds 1099511627776; expected 1 to 65536"),
        ({"kernel_shape": [3, 3, 3, 3]}, "'kernel_shape' must be a list of at most 3"),
        ({"kernel_shape": [2**16, 2**16]}, "no multiple of the 4294967296 kernel positions"),
        ({"kernel_shape": [5, 3]}, "no multiple of the 15 kernel positions"),
        ({"group": 3}, "16 output channels do not form 3 groups"),
        ({"group": 17}, "'group' is 17; expected 1 to 16"),
        ({"k": 143}, "no multiple of the 9 kernel positions"),
        ({"k": 180}, "codes has shape"),
        ({"layout": 2}, "'layout' is 2; expected 1 to 1"),
        ({"activation_high": 256}, "'activation_high' is 256; expected 0 to 255"),
        ({"activation_low": -128}, "'activation_low' is -128; expected -127 to 0"),
    ],
)
def test_malformed_attributes(changes: dict[str, object], message: str, rng: np.random.Generator) -> None:
    g = GEOMETRIES["resnet20-stage1"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    with pytest.raises(Exception, match=message):
        session(model(weights, np.zeros(1, np.float32), 1.0, 0, 255, g, **changes))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 17, 8, 8), r"x has shape \[1,17,8,8\]; expected \[batch, 16\] and 2 dimensions"),
        ((1, 16, 0, 8), r"x has shape \[1,16,0,8\]"),
    ],
)
def test_malformed_input(shape: tuple[int, ...], message: str, rng: np.random.Generator) -> None:
    g = GEOMETRIES["resnet20-stage1"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    one = session(model(weights, np.zeros(1, np.float32), 1.0, 0, 255, g))
    with pytest.raises(Exception, match=message):
        one.run(None, {"x": np.zeros(shape, np.float32)})


def test_kernel_larger_than_input(rng: np.random.Generator) -> None:
    g = GEOMETRIES["one-output"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    one = session(model(weights, np.zeros(1, np.float32), 1.0, 0, 255, g))
    with pytest.raises(Exception, match="dimensions that the kernel fits"):
        one.run(None, {"x": np.zeros((1, 3, 2, 3), np.float32)})


@pytest.mark.parametrize("x_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scale(x_scale: float, rng: np.random.Generator) -> None:
    g = GEOMETRIES["one-output"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    one = session(model(weights, np.zeros(1, np.float32), x_scale, 0, 255, g))
    with pytest.raises(Exception, match="x_scale must hold one positive number"):
        one.run(None, {"x": np.zeros((1, 3, 3, 3), np.float32)})


def test_bad_bias(rng: np.random.Generator) -> None:
    g = GEOMETRIES["shortcut"]
    weights = random_weights(rng, g.k, g.out_channels, 4)
    one = session(model(weights, np.zeros(5, np.float32), 1.0, 0, 255, g))
    with pytest.raises(Exception, match=r"bias has shape \[5\]; expected \[32\] or \[1\]"):
        one.run(None, {"x": np.zeros((1, 16, 9, 11), np.float32)})


@pytest.mark.parametrize(
    ("size", "expected"),
    [((9, 10), [5, 10]), (("h", 10), ["(h-1)/2+1", 10]), ((9, "w"), [5, "w"])],
)
def test_inferred_shape(size: tuple[int | str, ...], expected: list[int | str], rng: np.random.Generator) -> None:
    g = Geometry(16, 20, (3, 3), (9, 10), strides=(2, 1), pads=(1, 1, 1, 1))
    weights = random_weights(rng, g.k, g.out_channels, 4)
    proto = onnx.load_from_string(model(weights, np.zeros(1, np.float32), 1.0, 0, 255, g))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, *size]))
    one = session(proto.SerializeToString())
    assert one.get_outputs()[0].shape == ["batch", 20, *expected]
    assert one.run(None, {"x": np.zeros((2, 16, 9, 10), np.float32)})[0].shape == (2, 20, 5, 10)
