# SPDX-License-Identifier: Apache-2.0
"""Convolutions of one dimension hand integers to each other as those of two do, as images of one row."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import nodes
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_convs import conv_graph

from edgefold.measuring.measure import bits_per_weight, model_macs
from edgefold.nodewise import prove_portable
from edgefold.passes._ranges import Range
from edgefold.passes.base import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 50)).astype(np.float32)
HEAD = "g (float[2, 8, 50] x) => "
ONE = "(float[n, c, l] y)"
DYNAMIC = f"g (float[n, 8, l] x) => {ONE}"


class Ranges:
    """Calibration that has seen values from -8 to 17 everywhere."""

    def ranges(self, tensors: list[str]) -> dict[str, Range]:
        seen = Range()
        seen.add(np.linspace(-8, 17, 1000, dtype=np.float32))
        return dict.fromkeys(tensors, seen)


def fuse(model: ir.Model, *, x: np.ndarray = X, calibrated: bool = False) -> tuple[ir.Model, Notes]:
    """The model with its regions joined, after the checker."""
    fused = model.clone()
    probed = functools.partial(probe, feeds={"x": x}, seed=0)
    context = Context(probe=probed, calibration=Ranges() if calibrated else None)  # type: ignore[arg-type]
    notes = FuseBlocks().rewrite(fused, context)
    onnx.checker.check_model(ir.to_proto(fused))
    return fused, notes


def outputs(model: ir.Model, x: np.ndarray = X, *, library: bool = True) -> list[np.ndarray]:
    return [np.asarray(y) for y in make_session(model, library=library).run(None, {"x": x})]


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


def test_two_convolutions_before_and_expected() -> None:
    text = f"{HEAD}{ONE} {{ a = Conv(x, 8, 16, dims=1, kernel=3) b = Relu(a) y = Conv(b, 16, 8, dims=1, stride=2) }}"
    fused, notes = fuse(conv_graph(text))
    assert [node.split("(")[0] + "(" + node.split("(")[1].split(",")[0] for node in nodes(fused)] == [
        "x.image = Unsqueeze(x",
        "b.codes = FusedConvBlock(x.image",
        "y.fused = FusedConvBlock(b.codes",
        "y = Squeeze(y.fused",
    ]
    assert not notes.skips
    first, last = (node for node in fused.graph if node.op_type == "FusedConvBlock")
    assert first.attributes.get_ints("kernel_shape") == (1, 3)
    assert first.attributes.get_ints("pads") == (0, 1, 0, 1)
    assert first.attributes.get_ints("dilations") == (1, 1)
    assert last.attributes.get_ints("strides") == (1, 2)


SAME = {
    "signed codes, strides, depthwise": (
        "{ a = Conv(x, 8, 16, dims=1, kernel=3, stride=2) b = Conv(a, 16, 16, dims=1, kernel=9, group=16, low=-127, "
        "high=127) c = Relu(b) d = Conv(c, 16, 8, dims=1, scale=0.02) y = Relu(d) }",
        {"FusedConvBlock": 3},
    ),
    "dilated and causal": (
        "{ a = Conv(x, 8, 16, dims=1, kernel=3, dilation=2, causal=1) b = Relu(a) "
        "y = Conv(b, 16, 16, dims=1, kernel=3, dilation=4, causal=1) }",
        {"FusedConvBlock": 2},
    ),
    "groups": (
        "{ a = Conv(x, 8, 32, dims=1) b = Relu(a) y = Conv(b, 32, 48, dims=1, kernel=5, group=4) }",
        {"FusedConvBlock": 2},
    ),
    "a fork and a concatenation": (
        "{ a = Conv(x, 8, 4, dims=1) b = Relu(a) c = Conv(b, 4, 8, dims=1) d = Relu(c) e = Conv(b, 4, 8, dims=1, "
        "kernel=3) f = Relu(e) g = Concat <axis = 1> (d, f) y = Conv(g, 16, 8, dims=1, scale=0.03) }",
        {"FusedConvBlock": 4, "Concat": 1},
    ),
    "a pool between": (
        "{ a = Conv(x, 8, 16, dims=1) b = Relu(a) c = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (b) "
        "y = Conv(c, 16, 8, dims=1) }",
        {"FusedConvBlock": 2, "MaxPool": 1, "Transpose": 2},
    ),
    "the end cut off, and the edge repeated": (
        "<int64[1] zero = {0}, int64[1] end = {-3}, int64[1] axis = {2}, int64[6] front = {0, 0, 4, 0, 0, 0}> "
        '{ a = Conv(x, 8, 16, dims=1) b = Relu(a) c = Slice(b, zero, end, axis) d = Pad <mode = "edge"> (c, front) '
        "y = Conv(d, 16, 8, dims=1) }",
        {"FusedConvBlock": 2, "Slice": 1, "Pad": 1, "Transpose": 2},
    ),
    "every sample twice": (
        "<float[3] twice = {1.0, 1.0, 2.0}> { a = Conv(x, 8, 16, dims=1) b = Relu(a) "
        'c = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> '
        "(b, , twice) y = Conv(c, 16, 8, dims=1, kernel=3) }",
        {"FusedConvBlock": 2, "Expand": 1, "Reshape": 1, "Shape": 1, "Mul": 1},
    ),
    "floats between, of which two want other codes": (
        "{ a = Conv(x, 8, 16, dims=1) b = Relu(a) c = Conv(b, 16, 8, dims=1, scale=0.05) "
        "d = Conv(b, 16, 8, dims=1, scale=0.04) y = Concat <axis = 2> (c, d) }",
        {"ShiftConv": 3, "Relu": 1, "Concat": 1},
    ),
    "an activation that reads its own gate": (
        "{ a = Conv(x, 8, 16, dims=1) b = Relu(a) c = Conv(b, 16, 8, dims=1) s = Sigmoid(c) y = Mul(c, s) }",
        {"FusedConvBlock": 2},
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("head", [HEAD + ONE, DYNAMIC], ids=["static", "dynamic"])
def test_region_gives_what_the_separate_nodes_give(head: str, name: str) -> None:
    text, expected = SAME[name]
    model = conv_graph(head + text)
    fused, _ = fuse(model)
    ranks = {"Unsqueeze", "Squeeze"}
    assert {name: count for name, count in operators(fused).items() if name not in ranks} == expected
    tolerance = 4e-6 if "gate" in name else 0  # the kernels' own sigmoid is within 2**-21 of ONNX Runtime's
    longer = np.concatenate([X, X], 2)[:1]
    for x in (X,) if head.startswith(HEAD) else (X, longer):
        for wanted, got in zip(outputs(model, x), outputs(fused, x), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance)


def test_what_is_fused_runs_without_the_library_and_counts_as_the_layers_it_computes() -> None:
    model = conv_graph(HEAD + ONE + SAME["signed codes, strides, depthwise"][0])
    fused, _ = fuse(model)
    assert model_macs(fused, {"x": X.shape}) == model_macs(model, {"x": X.shape})
    assert bits_per_weight(fused) == bits_per_weight(model)
    assert prove_portable(fused, {"x": X}).nodes == 3
    wanted, got = outputs(model)[0], outputs(fused, library=False)[0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_residual_is_added_as_codes() -> None:
    text = (
        f"{HEAD}{ONE} {{ a = Conv(x, 8, 16, dims=1) b = Relu(a) c = Conv(b, 16, 16, dims=1, kernel=3, dilation=2) "
        "d = Add(c, b) e = Relu(d) y = Conv(e, 16, 8, dims=1) }"
    )
    model = conv_graph(text)
    fused, _ = fuse(model)
    assert operators(fused) == {"FusedConvBlock": 3, "Unsqueeze": 1, "Squeeze": 1}
    before, after = outputs(model)[0], outputs(fused)[0]
    # The sum is half a step off at most, so its code one step; a step moves an output by scale times its weights.
    assert 0 < np.abs(before - after).max() < 0.05 * np.abs(before).max()


@pytest.mark.parametrize("mean", ["GlobalAveragePool (b)", "ReduceMean <keepdims = 1> (b, axes)"])
def test_squeeze_and_excitation(mean: str) -> None:
    text = (
        f"{HEAD}{ONE} <int64[1] axes = {{2}}> {{ a = Conv(x, 8, 16, dims=1) b = HardSwish(a) p = {mean} "
        "s = Conv(p, 16, 4, dims=1, low=-127, high=127) t = Relu(s) u = Conv(t, 4, 16, dims=1) v = HardSigmoid(u) "
        "m = Mul(b, v) y = Conv(m, 16, 8, dims=1, low=-127, high=127) }"
    )
    model = conv_graph(text)
    fused, _ = fuse(model, calibrated=True)
    found = operators(fused)
    assert [found.get(name) for name in ("FusedConvBlock", "CodeMean", "CodeGate", "Mul")] == [4, 1, 1, None]
    before, after = outputs(model)[0], outputs(fused)[0]
    assert 0 < np.abs(before - after).max() < 0.05 * np.abs(before).max()
    assert prove_portable(fused, {"x": X}).worst < 1e-6


def test_mean_of_channels_too_is_none_of_every_channel() -> None:
    text = (
        f"{HEAD}{ONE} <int64[2] axes = {{-2, -1}}> {{ a = Conv(x, 8, 16, dims=1) b = Relu(a) "
        "p = ReduceMean <keepdims = 1> (b, axes) m = Mul(b, p) y = Conv(m, 16, 8, dims=1) }"
    )
    model = conv_graph(text)
    fused, _ = fuse(model, calibrated=True)
    assert not {"CodeMean", "CodeGate"} & operators(fused).keys()
    np.testing.assert_array_equal(outputs(fused)[0], outputs(model)[0])


def test_three_dimensions_stay_as_they_are() -> None:
    x = X.reshape(2, 8, 2, 5, 5)
    text = "g (float[2, 8, 2, 5, 5] x) => (float[n, c, d, h, w] y) "
    model = conv_graph(text + "{ a = Conv(x, 8, 16, dims=3) b = Relu(a) y = Conv(b, 16, 8, dims=3) }")
    fused, notes = fuse(model, x=x)
    assert operators(fused) == {"ShiftConv": 2, "Relu": 1}
    assert {str(skip) for skip in notes.skips} == {f"{one}: nothing to gain (three spatial dimensions)" for one in "ay"}


@pytest.mark.parametrize(
    ("tail", "result"), [("y = Exp(b)", "read as floats by y (Exp)"), ("y = Relu(b)", "an output of the model")]
)
def test_convolution_between_floats_stays_as_it_is(tail: str, result: str) -> None:
    model = conv_graph(f"{HEAD}{ONE} {{ a = Exp(x) b = Conv(a, 8, 8, dims=1, kernel=3) {tail} }}")
    fused, notes = fuse(model)
    assert operators(fused) == operators(model)
    ends = f"its input is made as floats by a (Exp), and its result is {result}"
    assert [str(skip) for skip in notes.skips] == [f"b: nothing to gain ({ends})"]


def test_between_floats_it_takes_an_activation_in_where_that_moves_more_than_two_nodes_cost() -> None:
    x = np.tile(X, (1, 1, 200))
    model = conv_graph(f"{DYNAMIC} {{ a = Exp(x) b = Conv(a, 8, 8, dims=1, kernel=3) y = Relu(b) }}")
    fused, _ = fuse(model, x=x)
    assert operators(fused) == {"Exp": 1, "Unsqueeze": 1, "FusedConvBlock": 1, "Squeeze": 1}
    np.testing.assert_array_equal(outputs(fused, x)[0], outputs(model, x)[0])


def test_tokens_times_factors_of_their_own_are_no_gates() -> None:
    """As in a normalization by the root of the mean square, [batch, tokens, channels] times [batch, tokens, 1]."""
    text = (
        f"{HEAD}{ONE} <int64[1] axes = {{-1}}> {{ p = ReduceMean <keepdims = 1> (x, axes) m = Mul(x, p) "
        "a = Conv(m, 8, 16, dims=1) b = Relu(a) y = Conv(b, 16, 8, dims=1) }"
    )
    fused, notes = fuse(conv_graph(text), calibrated=True)
    assert operators(fused)["FusedConvBlock"] == 2
    assert not notes.skips


def test_long_signals_are_not_streamed_by_rows() -> None:
    x = np.random.default_rng(1).uniform(-6, 6, (1, 8, 100)).astype(np.float32)
    text = (
        "g (float[1, 8, 100] x) => (float[n, c, l] y) { a = Conv(x, 8, 16, dims=1) b = Relu(a) "
        "c = Conv(b, 16, 48, dims=1) d = Relu(c) e = Conv(d, 48, 48, dims=1, kernel=3, group=48) f = Relu(e) "
        "i = Conv(f, 48, 16, dims=1) y = Conv(i, 16, 8, dims=1, low=-127, high=127) }"
    )
    fused, notes = fuse(conv_graph(text), x=x)
    assert operators(fused)["FusedConvBlock"] == 5
    assert [str(skip) for skip in notes.skips] == ["e: nothing to gain (one long row has no rows to stream)"]


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A model of two to four layers: kernels, strides, dilations, groups and what stands between them at random."""
    text, x, inputs = "<int64[1] zero = {0}, int64[1] end = {-1}, int64[1] axis = {2}> { ", "x", 8
    count = draw(st.integers(2, 4))
    for index in range(count):
        group = draw(st.sampled_from([1, 1, 2, inputs]))
        channels = inputs if group == inputs else 2 * draw(st.integers(1, 12))
        options = {name: draw(st.integers(1, 3)) for name in ("stride", "dilation")}
        options |= {"kernel": draw(st.sampled_from([1, 2, 3, 5, 9])), "causal": draw(st.integers(0, 1))}
        options |= {"low": -127, "high": 127} if draw(st.booleans()) else {}
        y = f"v{index}" if index < count - 1 else "y"
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        text += f"c{index} = Conv({x}, {inputs}, {channels}, dims=1, group={group}, {given}) "
        if index < count - 1:
            r = f"c{index}"
            if draw(st.booleans()):
                text, r = f"{text}r{index} = Relu (c{index}) ", f"r{index}"
            between = (f"Relu ({r})", f"MaxPool <kernel_shape = [2]> ({r})", f"Slice ({r}, zero, end, axis)")
            text += f"{y} = {draw(st.sampled_from(between))} "
        else:
            text += f"{y} = Relu(c{index}) "
        x, inputs = y, channels
    return text + "}"


@settings(max_examples=20, deadline=None)
@given(chains(), st.integers(1, 3), st.integers(300, 400))
def test_any_chain_is_bit_equal_to_its_separate_nodes(text: str, batch: int, length: int) -> None:
    x = np.random.default_rng(length).uniform(-6, 6, (batch, 8, length)).astype(np.float32)
    model = conv_graph(DYNAMIC + text)
    fused, notes = fuse(model, x=x)
    assert notes.stats["conv-region.integer_tensors"] >= text.count(" = Conv(") - 1
    np.testing.assert_array_equal(outputs(fused, x)[0], outputs(model, x)[0])
