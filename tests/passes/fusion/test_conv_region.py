# SPDX-License-Identifier: Apache-2.0
"""Convolutions hand integers to each other where that changes nothing, and only there."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.measuring.measure import bits_per_weight, model_macs
from edgefold.nodewise import prove_portable
from edgefold.ops import add_functions
from edgefold.passes._ranges import Range
from edgefold.passes.base import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.conv_region import fuse_conv_regions
from edgefold.passes.fusion.cost import TYPICAL
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 9, 10)).astype(np.float32)
HEAD = "g (float[2, 8, 9, 10] x) => "


probed = functools.partial(probe, feeds={"x": X}, seed=0)


def fuse(model: ir.Model, exclude: tuple[str, ...] = ()) -> tuple[ir.Model, Notes]:
    """The model with its regions joined, after the checker."""
    fused = model.clone()
    context = Context(probe=probed, exclude=exclude)
    notes = fuse_conv_regions(fused, context, TYPICAL)
    add_functions(fused)
    onnx.checker.check_model(ir.to_proto(fused))
    return fused, notes


def outputs(model: ir.Model) -> list[np.ndarray]:
    return [np.asarray(y) for y in make_session(model).run(None, {"x": X})]


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


SAME = {
    "two convolutions": (
        "(float[n, c, h, w] y) { a = Conv(x, 8, 16, kernel=3) b = Relu(a) y = Conv(b, 16, 8) }",
        {"FusedConvBlock": 2},
    ),
    "signed codes, strides, groups": (
        "(float[n, c, h, w] y) { a = Conv(x, 8, 16, kernel=3, stride=2) b = Conv(a, 16, 16, kernel=3, group=16, "
        "low=-127, high=127) c = Relu(b) d = Conv(c, 16, 8, scale=0.02) y = Relu(d) }",
        {"FusedConvBlock": 3},
    ),
    "a fork and a concatenation": (
        "(float[n, c, h, w] y) { a = Conv(x, 8, 4) b = Relu(a) c = Conv(b, 4, 8) d = Relu(c) e = Conv(b, 4, 8, "
        "kernel=3) f = Relu(e) g = Concat <axis = 1> (d, f) y = Conv(g, 16, 8, scale=0.03) }",
        {"FusedConvBlock": 4, "Concat": 1},
    ),
    "a pool between": (
        "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) c = MaxPool <kernel_shape = [3, 3], "
        "strides = [2, 2], ceil_mode = 1> (b) y = Conv(c, 16, 8) }",
        {"FusedConvBlock": 2, "MaxPool": 1, "Transpose": 2},
    ),
    "an average needs floats": (
        "(float[n, c, h, w] y, float[n, c, one, also] z) { a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 8) "
        "y = Relu(c) z = GlobalAveragePool(y) }",
        {"FusedConvBlock": 2, "GlobalAveragePool": 1},
    ),
    "an activation that reads its own gate": (
        "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 8) s = Sigmoid(c) y = Mul(c, s) }",
        {"FusedConvBlock": 2},
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_region_gives_what_the_separate_nodes_give(name: str) -> None:
    text, expected = SAME[name]
    model = conv_graph(HEAD + text)
    before = outputs(model)
    fused, notes = fuse(model)
    assert dict(operators(fused)) == expected
    assert notes.edits
    for wanted, got in zip(before, outputs(fused), strict=True):
        # Codes are equal bit for bit; the kernels' own sigmoid is within 2**-21 of ONNX Runtime's.
        np.testing.assert_allclose(got, wanted, rtol=0, atol=4e-6 if "gate" in name else 0)


def test_residual_is_added_as_codes_and_costs_its_rounding() -> None:
    scale = 0.05
    model = conv_graph(
        HEAD + "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 16, kernel=3) d = Add(c, b) "
        f"e = Relu(d) y = Conv(e, 16, 8, scale={scale}) }}"
    )
    fused, _ = fuse(model)
    assert dict(operators(fused)) == {"FusedConvBlock": 3}
    before, after = outputs(model)[0], outputs(fused)[0]
    assert not np.array_equal(before, after)
    # The sum is half a step off at most, so its code one step; a step moves an output by scale times its weights.
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


RELU_BEHIND_A_SUM = "a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 16, kernel=3) d = Relu(c) e = Add(d, b) f = Relu(e)"


def test_relu_behind_activation_and_residual_is_the_end_of_the_codes() -> None:
    model = conv_graph(HEAD + f"(float[n, c, h, w] y) {{ {RELU_BEHIND_A_SUM} y = Conv(f, 16, 8) }}")
    fused, _ = fuse(model)
    assert dict(operators(fused)) == {"FusedConvBlock": 3}
    before, after = outputs(model)[0], outputs(fused)[0]
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("(float[n, c, h, w] y) { %s y = Conv(f, 16, 8, low=-127, high=127) }", "wanted in codes of both signs"),
        ("(float[n, c, h, w] y) { %s y = Exp(f) }", "its result is read as floats by y (Exp)"),
    ],
)
def test_relu_that_codes_do_not_compute_stays(rest: str, why: str) -> None:
    model = conv_graph(HEAD + rest % RELU_BEHIND_A_SUM)
    fused, notes = fuse(model)
    assert operators(fused)["Relu"] == 1
    assert any(skip.node == "f" and why in skip.detail for skip in notes.skips)


def test_residual_that_is_to_stay_float_changes_nothing() -> None:
    model = conv_graph(
        HEAD + "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 16, kernel=3) d = Relu(c) "
        "e = Conv(d, 16, 16) f = Add(e, b) g = Relu(f) y = Conv(g, 16, 8) }"
    )
    fused = model.clone()
    step = FuseBlocks(residuals="float")
    notes = step.rewrite(fused, Context(probe=probed))
    assert dict(operators(fused)) == {"FusedConvBlock": 3, "Add": 1, "Relu": 1, "ShiftConv": 1}
    assert notes.stats["conv-region.integer_tensors"] == 1
    np.testing.assert_array_equal(outputs(fused)[0], outputs(model)[0])


NEAR_MISSES = {
    "readers that want different codes": "(float[n, c, h, w] y, float[n, c, h, w] z) { a = Conv(x, 8, 16) "
    "b = Relu(a) y = Conv(b, 16, 8, scale=0.05) z = Conv(b, 16, 8, scale=0.04) }",
    "a reader of floats": "(float[n, c, h, w] y, float[n, c, h, w] z) { a = Conv(x, 8, 16) b = Relu(a) "
    "y = Conv(b, 16, 8) z = Exp(b) }",
    "a graph output": "(float[n, c, h, w] y, float[n, c, h, w] b) { a = Conv(x, 8, 16) b = Relu(a) "
    "y = Conv(b, 16, 8) }",
    "a concatenation of something float": "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) "
    "g = Concat <axis = 1> (b, x) y = Conv(g, 24, 8) }",
    "an average between": "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) "
    "c = AveragePool <kernel_shape = [2, 2]> (b) y = Conv(c, 16, 8) }",
    "steps of single channels": "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) "
    "y = Conv(b, 16, 8, high=15, shift=1) }",
    "float activations": "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) y = Conv(b, 16, 8, high=0) }",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_keeps_floats_between(name: str) -> None:
    model = conv_graph(HEAD + NEAR_MISSES[name])
    before = outputs(model)
    fused, notes = fuse(model)
    assert notes.stats["conv-region.integer_tensors"] == 0
    assert all(node.attributes.get_int("x_codes", 0) == 0 for node in fused.graph)
    for wanted, got in zip(before, outputs(fused), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_sum_with_something_float_stays_outside() -> None:
    model = conv_graph(HEAD + "(float[n, c, h, w] y) { a = Conv(x, 8, 8) b = Add(a, x) c = Relu(b) y = Conv(c, 8, 8) }")
    fused, _ = fuse(model)
    assert operators(fused)["Add"] == 1
    np.testing.assert_array_equal(outputs(fused)[0], outputs(model)[0])


def test_a_convolution_alone_is_left_as_it_is_with_the_reason() -> None:
    fused, notes = fuse(conv_graph(HEAD + "(float[n, c, h, w] y) { y = Conv(x, 8, 8) }"))
    assert dict(operators(fused)) == {"ShiftConv": 1}
    ends = "its input is an input or a constant of the model, and its result is an output of the model"
    assert [str(skip) for skip in notes.skips] == [f"y: nothing to gain ({ends})"]
    assert not notes.edits


class Ranges:
    """Calibration that has seen values from -17 to 17 everywhere."""

    def ranges(self, tensors: list[str]) -> dict[str, Range]:
        seen = Range()
        seen.add(np.linspace(-17, 17, 1000, dtype=np.float32))
        return dict.fromkeys(tensors, seen)


SHORTCUT = (
    "(float[n, c, h, w] y) { a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 16, kernel=3, stride=2) "
    "s = Conv(b, 16, 16, stride=2) d = Add(c, s) e = Relu(d) y = Conv(e, 16, 8) }"
)


def test_shortcut_that_no_convolution_reads_gets_its_codes_from_calibration() -> None:
    model = conv_graph(HEAD + SHORTCUT)
    fused = model.clone()
    fuse_conv_regions(fused, Context(probe=probed, calibration=Ranges()), TYPICAL)  # type: ignore[arg-type]
    add_functions(fused)
    assert dict(operators(fused)) == {"FusedConvBlock": 4}
    before, after = outputs(model)[0], outputs(fused)[0]
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()


def test_shortcut_that_no_convolution_reads_stays_float_without_calibration() -> None:
    model = conv_graph(HEAD + SHORTCUT)
    fused, _ = fuse(model)
    assert operators(fused)["Add"] == 1
    np.testing.assert_array_equal(outputs(fused)[0], outputs(model)[0])


def test_excluded_convolution_keeps_its_floats() -> None:
    fused, notes = fuse(conv_graph(HEAD + SAME["two convolutions"][0]), exclude=("a",))
    assert operators(fused)["ShiftConv"] == 2
    assert "a: excluded by the user" in [str(skip) for skip in notes.skips]


def test_fused_nodes_are_counted_as_the_layers_they_compute_and_proven_portable() -> None:
    model = conv_graph(HEAD + SAME["signed codes, strides, groups"][0])
    fused, _ = fuse(model)
    assert model_macs(fused, {"x": X.shape}) == model_macs(model, {"x": X.shape})
    assert bits_per_weight(fused) == bits_per_weight(model)
    assert prove_portable(fused, {"x": X}).nodes == 3
