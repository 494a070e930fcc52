# SPDX-License-Identifier: Apache-2.0
"""Bytes become codes by a table, where a first convolution reads floats that are a function of them alone."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.nodewise import prove_portable
from edgefold.passes.base import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(6).integers(0, 256, (2, 9, 10, 3)).astype(np.uint8)
SCALARS = {
    "mean": np.float32(127.5), "deviation": np.float32(60), "step": np.float32(0.0078), "zero": np.uint8(128),
    "nought": np.float32(0), "planes": np.array([100, 110, 120], np.float32),
}  # fmt: skip
HEAD = "g (uint8[2, 9, 10, 3] x) => (float[b, c, h, w] y) "
TAIL = "d = Conv({}, 3, 16, kernel=3, stride=2, scale=0.02, low=-127, high=127) e = Relu(d) y = Conv(e, 16, 8) }}"
TO_FIRST = "Transpose <perm = [0, 3, 1, 2]>"


def fused(text: str) -> tuple[ir.Model, list[np.ndarray], list[np.ndarray]]:
    """The model after fuse-blocks, and outputs before and after."""
    named = {name: np.asarray(value) for name, value in SCALARS.items() if name in text}
    before = conv_graph(text, named)
    after = before.clone()
    FuseBlocks().rewrite(after, Context(probe=functools.partial(probe, feeds={"x": X}, seed=0)))
    onnx.checker.check_model(ir.to_proto(after))
    return after, *([np.asarray(y) for y in make_session(one).run(None, {"x": X})] for one in (before, after))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


BYTES = {
    "scaled, then turned": "{ a = Cast<to = 1>(x) b = Sub(a, mean) c = Div(b, deviation) t = "
    + TO_FIRST
    + "(c) "
    + TAIL.format("t"),
    "turned, then scaled": "{ t = " + TO_FIRST + "(x) a = Cast<to = 1>(t) c = Mul(a, step) " + TAIL.format("c"),
    "dequantized": "{ a = DequantizeLinear(x, step, zero) t = " + TO_FIRST + "(a) " + TAIL.format("t"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_become_codes_by_a_table(name: str) -> None:
    after, before, got = fused(HEAD + BYTES[name])
    assert operators(after) == ["CodeLookup", "FusedConvBlock", "FusedConvBlock"]
    np.testing.assert_array_equal(got[0], before[0])
    assert prove_portable(after, {"x": X}).nodes == 3


NEAR_MISSES = {
    "a constant of every channel": "{ a = Cast<to = 1>(x) b = Sub(a, planes) t = "
    + TO_FIRST
    + "(b) "
    + TAIL.format("t"),
    "a step of nought": "{ a = Cast<to = 1>(x) b = Div(a, nought) t = " + TO_FIRST + "(b) " + TAIL.format("t"),
    "something between that sees neighbours": "{ a = Cast<to = 1>(x) b = Softmax(a) t = "
    + TO_FIRST
    + "(b) "
    + TAIL.format("t"),
    "rows turned into columns": "{ a = Cast<to = 1>(x) b = Mul(a, step) t = Transpose <perm = [0, 3, 2, 1]>(b) "
    + TAIL.format("t"),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_stays_float(name: str) -> None:
    after, before, got = fused(HEAD + NEAR_MISSES[name])
    assert "CodeLookup" not in operators(after)
    np.testing.assert_array_equal(got[0], before[0])


def test_floats_stay_floats() -> None:
    text = "g (float[2, 3, 9, 10] x) => (float[b, c, h, w] y) { a = Mul(x, step) " + TAIL.format("a")
    model = conv_graph(text, {"step": np.asarray(SCALARS["step"])})
    FuseBlocks().rewrite(model, Context())
    assert "CodeLookup" not in operators(model)


def test_two_convolutions_with_one_scale_share_a_table() -> None:
    text = (
        "g (uint8[2, 9, 10, 3] x) => (float[b, c, h, w] y, float[b, c, h, w] z) "
        "{ a = Cast<to = 1>(x) b = Mul(a, step) t = " + TO_FIRST + "(b) "
        "d = Conv(t, 3, 16, scale=0.02) e = Relu(d) y = Conv(e, 16, 8) "
        "f = Conv(t, 3, 16, scale=0.02) g = Relu(f) z = Conv(g, 16, 8) }"
    )
    after, before, got = fused(text)
    assert operators(after).count("CodeLookup") == 1
    assert "Cast" not in operators(after)
    for wanted, one in zip(before, got, strict=True):
        np.testing.assert_array_equal(one, wanted)
