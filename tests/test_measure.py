# SPDX-License-Identifier: Apache-2.0
"""Bytes, weights, bits and multiply-accumulates, on graphs small enough to count by hand, and on the real models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.files.loading import load_model
from edgefold.measuring.macs import node_macs
from edgefold.measuring.measure import (
    bits_per_weight,
    model_macs,
    model_size,
    model_weights,
    peak_rss,
    reset_peak_rss,
    stored_matrices,
)

DATA = Path(os.environ.get("EDGEFOLD_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HEADER = '<ir_version: 10, opset_import: ["" : 21, "ai.edgefold" : 1, "com.microsoft" : 1]>\n'


def model(text: str, **initializers: np.ndarray) -> ir.Model:
    """A model from text in which the named inputs become initializers."""
    parsed = ir.from_onnx_text(HEADER + text)
    for name, array in initializers.items():
        value = next(value for value in parsed.graph.inputs if value.name == name)
        parsed.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        value.shape = ir.Shape(array.shape)
        parsed.graph.register_initializer(value)
    return parsed


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_macs_of_each_operator() -> None:
    text = """
    g (float[N, 4, 8, 8] x, float[6, 2, 3, 3] w, float[4, 5, 2, 2] t, float[4, 9] m, float[7, 4] a, float[3, 7] b)
      => (float y, float z, float u, float v, float s) {
      y = Conv <group = 2, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)
      z = ConvTranspose <strides = [2, 2]> (x, t)
      p = Transpose <perm = [0, 2, 3, 1]> (x)
      u = MatMul(p, m)
      v = Gemm <transA = 1, transB = 1> (a, b)
      q = Transpose <perm = [0, 1, 3, 2]> (x)
      s = MatMul(x, q)
    }
    """
    built = model(text, w=zeros(6, 2, 3, 3), t=zeros(4, 5, 2, 2), m=zeros(4, 9), a=zeros(7, 4), b=zeros(3, 7))
    counts = [one.macs for one in node_macs(built, {"x": (2, 4, 8, 8)})]
    assert counts == [
        2 * 6 * 4 * 4 * (2 * 9),  # output elements x kernel x channels of a group
        2 * 4 * 8 * 8 * (5 * 4),  # input elements x what each is spread over
        2 * 64 * 4 * 9,
        4 * 7 * 3,
        2 * 4 * 8 * 8 * 8,  # activations on both sides count too
    ]
    assert model_macs(built, {"x": (2, 4, 8, 8)}) == sum(count or 0 for count in counts)


def test_shapes_that_the_graph_computes_are_followed() -> None:
    text = """
    g (float[N, T, 6] x, float[3, 5] w) => (float y) <int64[1] minus = {-1}, int64[1] three = {3}, int64 zero = {0}> {
      s = Shape(x)
      n = Gather(s, zero)
      one = Unsqueeze(n, axes)
      target = Concat <axis = 0> (one, minus, three)
      r = Reshape(x, target)
      axes = Constant <value = int64[1] {0}> ()
      y = MatMul(r, w)
    }
    """
    text = text.replace("one = Unsq", "axes = Constant <value = int64[1] {0}> ()\n one = Unsq", 1)
    text = text.replace("\n      axes = Constant <value = int64[1] {0}> ()\n      y", "\n      y")
    built = model(text, w=zeros(3, 5))
    assert model_macs(built, {"x": (2, 7, 6)}) == 2 * 14 * 3 * 5


def test_the_shape_of_a_weight_is_a_number_to_compute_with() -> None:
    text = """
    g (float[6, 4] x, float[3, 8] w, float[8, 5] v) => (float y) {
      s = Shape(w)
      same = Max(s, s)
      r = Reshape(x, same)
      y = MatMul(r, v)
    }
    """
    assert model_macs(model(text, w=zeros(3, 8), v=zeros(8, 5)), {}) == 3 * 8 * 5


def test_an_unknown_shape_gives_no_number() -> None:
    built = model("g (float[N, 4] x, float[4, 5] w) => (float y) { y = MatMul(x, w) }", w=zeros(4, 5))
    assert model_macs(built, {}) is None


def packed_model() -> ir.Model:
    text = """
    g (float[N, 40] x, int64[N] ids, uint8[2, 10, 32] codes, uint8[2, 2, 8] sel, int8[8, 16] table, float[20] scales,
       float[20] bias, float[1] xs, uint8[1] shift) => (float y, float e) {
      y = ai.edgefold.ShiftMatMul <k = 40, bits = 4, activation_low = -127, activation_high = 127>
          (x, codes, sel, table, scales, bias, xs, shift)
      e = ai.edgefold.ShiftGather <k = 40, bits = 4> (ids, codes, sel, table, scales)
    }
    """
    return model(
        text,
        codes=np.zeros((2, 10, 32), np.uint8),
        sel=np.zeros((2, 2, 8), np.uint8),
        table=np.zeros((8, 16), np.int8),
        scales=zeros(20),
        bias=zeros(20),
        xs=zeros(1),
        shift=np.zeros(1, np.uint8),
    )


def test_packed_operators_count_what_they_stand_for() -> None:
    packed = packed_model()
    assert model_macs(packed, {"x": (3, 40), "ids": (3,)}) == 3 * 40 * 20
    assert model_weights(packed) == 40 * 20 + 20  # the tied matrix once, and the bias
    (matrix,) = stored_matrices(packed)
    assert matrix.weights == 800
    assert matrix.bits == 8 * (2 * 10 * 32 + 2 * 2 * 8 + 8 * 16 + 4 * 20)
    assert bits_per_weight(packed) == matrix.bits / 800


def test_packed_convolutions_keep_their_geometry() -> None:
    text = """
    g (float[1, 4, 8, 8] x, uint8[1, 5, 32] codes, uint8[1, 1, 8] sel, int8[1, 16] table, float[6] scales,
       float[1] bias, float[1] xs, uint8[1] shift) => (float y) {
      y = ai.edgefold.ShiftConv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], dilations = [1, 1],
          group = 2, k = 18, bits = 4, activation_low = 0, activation_high = 255>
          (x, codes, sel, table, scales, bias, xs, shift)
    }
    """
    packed = model(
        text,
        codes=np.zeros((1, 5, 32), np.uint8),
        sel=np.zeros((1, 1, 8), np.uint8),
        table=np.zeros((1, 16), np.int8),
        scales=zeros(6),
        bias=zeros(1),
        xs=zeros(1),
        shift=np.zeros(1, np.uint8),
    )
    assert model_macs(packed, {}) == 6 * 16 * 18


def test_bits_of_float_and_dequantized_weights() -> None:
    text = """
    g (float[N, 64] x, float[64, 32] w, int8[64, 32] q, float[32] s) => (float y, float z) {
      y = MatMul(x, w)
      d = DequantizeLinear <axis = 1> (q, s)
      z = MatMul(x, d)
    }
    """
    built = model(text, w=zeros(64, 32), q=np.zeros((64, 32), np.int8), s=zeros(32))
    assert model_weights(built) == 2 * 64 * 32
    assert bits_per_weight(built) == pytest.approx((32 + 8 + 32 * 32 / 2048) / 2)
    assert bits_per_weight(ir.from_onnx_text(HEADER + "g (float[2] x) => (float[2] y) { y = Neg(x) }")) is None


def test_the_size_is_that_of_the_written_file(tmp_path: Path) -> None:
    built = packed_model()
    ir.save(built, tmp_path / "m.onnx")
    assert model_size(built) == pytest.approx((tmp_path / "m.onnx").stat().st_size, rel=0.02)


def test_peak_memory_sees_an_allocation() -> None:
    reset_peak_rss()
    before = peak_rss()
    block = np.ones(8 << 20)
    assert peak_rss() - before > 0.9 * block.nbytes


# Published or hand-checked counts: ResNet-20 40.55 M, ResNet-56 125.49 M, MobileNetV2 300.8 M multiply-accumulates.
REAL = {
    "cifar_resnet20/model.onnx": ({"input": (1, 3, 32, 32)}, 40.55e6, 269034),
    "cifar_resnet56/model_dynamo.onnx": ({"input": (1, 3, 32, 32)}, 125.49e6, 850986),
    "imagenet_mobilenetv2/model.onnx": ({}, 300.78e6, 3489101),
    "vit_mnist/model.onnx": ({"image": (1, 1, 28, 28)}, 3.624e6, 213669),
    "moe_charlm/model.onnx": ({"input_ids": (1, 128)}, 295.19e6, 2209183),
}


@pytest.mark.parametrize("name", REAL)
def test_real_models(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip("the models are not on this machine; EDGEFOLD_DATA names their folder")
    loaded = load_model(DATA / name)
    shapes, macs, weights = REAL[name]
    assert model_macs(loaded.model, shapes) == pytest.approx(macs, rel=1e-3)
    assert model_weights(loaded.model) == weights
    assert bits_per_weight(loaded.model) == 32
    assert model_size(loaded.model) == pytest.approx(loaded.bytes, rel=0.01)
