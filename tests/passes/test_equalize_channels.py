# SPDX-License-Identifier: Apache-2.0
"""Equalize-channels: where factors go, that powers of two change no bit, and what must stay as it is."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, nodes, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.calibration import Calibration
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes._layer_inputs import Rows
from edgefold.passes.equalization.constants import Place, WorkingConstants
from edgefold.passes.equalization.factors import Strength
from edgefold.passes.equalize_channels import EqualizeChannels
from edgefold.probing import probe

SPREAD = np.exp2(np.linspace(-3, 3, 8)).astype(np.float32)  # of the channels of the tensor between two layers


def context(model: ir.Model, feeds: Mapping[str, Array], exclude: Sequence[str] = ()) -> Context:
    return Context(
        calibration=Calibration(model.clone(), lambda: [feeds]),
        probe=functools.partial(probe, feeds=feeds),
        exclude=tuple(exclude),
    )


def equalized(
    text: str,
    initializers: Mapping[str, Array],
    feeds: Mapping[str, Array],
    exclude: Sequence[str] = (),
    **options: object,
) -> tuple[ir.Model, ir.Model, Notes]:
    """A model, the same equalized, and what the pass said."""
    before = graph(text, initializers)
    after = before.clone()
    notes = EqualizeChannels(**options).rewrite(after, context(before, feeds, exclude))  # type: ignore[arg-type]
    return before, after, notes


IMAGE, ROWS = {"x": weights(2, 3, 9, 9, seed=1)}, {"x": weights(2, 5, 6, seed=1)}
WIDE, NARROW = weights(8, 3, 3, 3) * SPREAD[:, None, None, None], weights(4, 8, 3, 3, seed=2)
FIRES = {
    "relu, pooling and padding between convolutions": (
        "t (float[2, 3, 9, 9] x) => (float[2, 4, 4, 4] y) { a = Conv(x, w, b)\n r = Relu(a)\n"
        " p = MaxPool<kernel_shape = [2, 2]>(r)\n q = Pad(p, size)\n [two] y = Conv(q, v) }",
        {"w": WIDE, "b": weights(8), "v": weights(4, 8, 2, 2), "size": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        IMAGE,
    ),
    "depthwise": (
        "t (float[2, 3, 9, 9] x) => (float[2, 8, 5, 5] y) { a = Conv(x, w)\n r = LeakyRelu(a)\n"
        " [two] y = Conv<group = 8>(r, v) }",
        {"w": WIDE, "v": weights(8, 1, 3, 3)},
        IMAGE,
    ),
    "grouped": (
        "t (float[2, 3, 9, 9] x) => (float[2, 4, 5, 5] y) { a = Conv(x, w)\n [two] y = Conv<group = 2>(a, v) }",
        {"w": WIDE, "v": weights(4, 4, 3, 3)},
        IMAGE,
    ),
    "batch normalization, then pooled and flattened into a Gemm": (
        "t (float[2, 3, 9, 9] x) => (float[2, 5] y) { a = Conv(x, w)\n n = BatchNormalization(a, g, o, m, s)\n"
        " r = Relu(n)\n p = GlobalAveragePool(r)\n f = Flatten(p)\n [two] y = Gemm<transB = 1>(f, v, c) }",
        {
            "w": weights(8, 3, 3, 3), "g": SPREAD, "o": weights(8, seed=3), "m": weights(8, seed=4),
            "s": np.ones(8, np.float32), "v": weights(5, 8), "c": weights(5),
        },
        IMAGE,
    ),
    "batch normalization reads it too": (
        "t (float[2, 3, 9, 9] x) => (float[2, 4, 5, 5] y, float[2, 8, 7, 7] n) { a = Conv(x, w)\n r = Relu(a)\n"
        " n = BatchNormalization(r, g, o, m, s)\n [two] y = Conv(r, v) }",
        {
            "w": WIDE, "g": weights(8), "o": weights(8, seed=3), "m": weights(8, seed=4), "s": np.ones(8, np.float32),
            "v": NARROW,
        },
        IMAGE,
    ),
    "gemm with a scalar bias": (
        "t (float[2, 6] x) => (float[2, 4] y) { a = Gemm(x, w, b)\n r = Relu(a)\n [two] y = Gemm(r, v) }",
        {"w": weights(6, 8) * SPREAD, "b": np.array([0.3], np.float32), "v": weights(8, 4)},
        {"x": weights(2, 6, seed=1)},
    ),
    "layer normalization": (
        "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { n = LayerNormalization(x, g, o)\n [two] y = MatMul(n, v) }",
        {"g": SPREAD[:6], "o": weights(6), "v": weights(6, 4)},
        ROWS,
    ),
    "its scale and bias written out": (
        "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { n = Tanh(x)\n p = Mul(n, g)\n q = Add(p, o)\n"
        " [two] y = MatMul(q, v) }",
        {"g": SPREAD[:6], "o": weights(6), "v": weights(6, 4)},
        ROWS,
    ),
    "a gate": (
        "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { u = MatMul(x, w)\n s = Sigmoid(u)\n h = Mul(u, half)\n"
        " p = Mul(s, h)\n [two] y = MatMul(p, v) }",
        {"w": weights(6, 8) * SPREAD, "half": np.array(0.5, np.float32), "v": weights(8, 4)},
        ROWS,
    ),
    "values of attention": (
        "t (float[2, 5, 6] x, float[2, 2, 5, 5] a) => (float[2, 5, 4] y) { p = MatMul(x, w)\n q = Add(p, b)\n"
        " r = Reshape(q, split)\n s = Transpose<perm = [0, 2, 1, 3]>(r)\n m = MatMul(a, s)\n"
        " u = Transpose<perm = [0, 2, 1, 3]>(m)\n c = Reshape(u, join)\n [two] y = MatMul(c, v) }",
        {
            "w": weights(6, 8) * SPREAD, "b": weights(8), "v": weights(8, 4),
            "split": np.array([0, 0, 2, 4]), "join": np.array([0, 0, 8]),
        },
        {**ROWS, "a": weights(2, 2, 5, 5, seed=5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FIRES)
def test_powers_of_two_change_no_bit(case: str) -> None:
    before, after, notes = equalized(*FIRES[case], alpha=1.0)
    assert [edit.node for edit in notes.edits if edit.what.startswith("folded, over 1")] == ["two"]
    assert len(nodes(after)) == len(nodes(before))
    feeds = FIRES[case][2]
    for wanted, got in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_array_equal(wanted, got)


@pytest.mark.parametrize("case", FIRES)
def test_any_factors_change_little_and_level_the_peaks(case: str) -> None:
    text, initializers, feeds = FIRES[case]
    before, after, _ = equalized(text, initializers, feeds, method="smoothquant", alpha=1.0)
    wanted, got = run(before, feeds)[0], run(after, feeds)[0]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())
    [layer] = [node for node in after.graph if node.name == "two"]
    request = Rows(str(layer.inputs[0].name), 1 if layer.op_type == "Conv" else -1)  # type: ignore[union-attr]
    read = Calibration(after, lambda: [feeds]).peaks([request])[request]
    assert read[read > 0].max() / read[read > 0].min() < 1.001


def test_a_sum_has_one_vector_for_all_its_terms_and_readers() -> None:
    text = """t (float[2, 3, 9, 9] x) => (float[2, 4, 5, 5] y) {
        a = Conv(x, w)\n r = Relu(a)\n [one] b = Conv<pads = [1, 1, 1, 1]>(r, u)\n s = Add(r, b)\n t = Relu(s)
        [two] y = Conv(t, v) }"""
    before, after, notes = equalized(text, {"w": WIDE, "u": weights(8, 8, 3, 3, seed=2), "v": NARROW}, IMAGE)
    assert [(edit.node, edit.what.split(",")[1]) for edit in notes.edits] == [("one", " over 2 layers")]
    np.testing.assert_array_equal(run(before, IMAGE)[0], run(after, IMAGE)[0])


GELU = "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { p = MatMul(x, w)\n r = Sigmoid(p)\n [two] y = MatMul(r, v) }"
PLAIN = "{ a = Conv(x, w)\n r = Relu(a)\n [two] y = Conv(r, v) }"
ONE, TWO = "t (float[2, 3, 9, 9] x) => (float[2, 4, 5, 5] y)", {"w": WIDE, "v": NARROW}
STAYS = {
    "not homogeneous": (
        GELU, {"w": weights(6, 8) * SPREAD, "v": weights(8, 4)}, ROWS, SkipReason.BARRIER, "Sigmoid"),
    "a bound in the way": (
        f"{ONE} {{ a = Conv(x, w)\n r = Clip(a, zero, six)\n [two] y = Conv(r, v) }}",
        {**TWO, "zero": np.array(0, np.float32), "six": np.array(6, np.float32)}, IMAGE, SkipReason.BARRIER, "Clip"),
    "padding with ones": (
        "t (float[2, 3, 9, 9] x) => (float[2, 4, 7, 7] y) { a = Conv(x, w)\n r = Pad(a, size, one)\n"
        " [two] y = Conv(r, v) }",
        {**TWO, "size": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.array(1, np.float32)},
        IMAGE, SkipReason.BARRIER, "Pad"),
    "the tensor is an output": (
        f"{ONE.replace('y)', 'y, float[2, 8, 7, 7] r)')} {PLAIN}", TWO, IMAGE, SkipReason.BARRIER, "output of the"),
    "excluded": (f"{ONE} {PLAIN.replace('a =', '[first] a =')}", TWO, IMAGE, SkipReason.EXCLUDED, "first"),
    "a half in the sum comes from the outside": (
        "t (float[2, 3, 9, 9] x, float[2, 8, 7, 7] z) => (float[2, 4, 5, 5] y)"
        "{ a = Conv(x, w)\n r = Add(a, z)\n [two] y = Conv(r, v) }",
        TWO, {**IMAGE, "z": weights(2, 8, 7, 7)}, SkipReason.BARRIER, "z is an input"),
    "a sum with its own transpose": (
        "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { p = MatMul(x, w)\n"
        " q = Transpose<perm = [0, 2, 1]>(p)\n m = Add(p, q)\n [two] y = MatMul(m, v) }",
        {"w": weights(6, 5) * SPREAD[:5], "v": weights(5, 4)}, ROWS, SkipReason.BARRIER, "in two ways"),
    "rows of attention are mixed, not columns": (
        "t (float[2, 5, 6] x) => (float[2, 5, 4] y) { p = MatMul(x, w)\n"
        " q = Transpose<perm = [0, 2, 1]>(p)\n m = MatMul(x, q)\n [two] y = MatMul(m, v) }",
        {"w": weights(6, 6) * SPREAD[:6], "v": weights(5, 4)}, ROWS, SkipReason.BARRIER, "MatMul"),
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_near_misses_say_why(case: str) -> None:
    text, initializers, feeds, reason, detail = STAYS[case]
    exclude = ["first"] if case == "excluded" else []
    before, after, notes = equalized(text, initializers, feeds, exclude)
    assert [skip for skip in notes.skips if skip.node == "two" and skip.reason is reason and detail in skip.detail]
    assert not notes.edits
    assert nodes(after) == nodes(before)


def test_insert_multiplies_before_the_layers_only() -> None:
    text = GELU.replace("y)", "y, float[2, 5, 8] r)")
    before, after, notes = equalized(
        text, {"w": weights(6, 8), "v": weights(8, 4) * SPREAD[:, None]}, ROWS, insert=True
    )
    assert notes.stats == {"folded": 0, "inserted": 2}
    assert nodes(after)[3:] == ["r.equalized = Mul(r, two/equalize.factors)", "y = MatMul(r.equalized, v.equalized)"]
    for wanted, got in zip(run(before, ROWS), run(after, ROWS), strict=True):
        np.testing.assert_array_equal(wanted, got)


def test_without_data_ranges_of_weights_are_levelled() -> None:
    model = graph(f"{ONE} {PLAIN}", TWO)
    seen = Context(probe=functools.partial(probe, feeds=IMAGE))
    notes = EqualizeChannels(method="smoothquant").rewrite(model, seen)
    assert len(notes.edits) == 1
    made, read = (model.graph.initializers[f"{name}.equalized"].const_value.numpy() for name in "wv")  # type: ignore[union-attr]
    ratios = np.abs(made).max(axis=(1, 2, 3)) / np.abs(read).max(axis=(0, 2, 3))
    np.testing.assert_allclose(ratios, ratios[0], rtol=0.02)


positive = st.lists(st.floats(0.1, 10), min_size=2, max_size=6)  # factors beyond 2 ** 12 are cut off


@settings(deadline=None)
@given(positive, st.floats(0, 1))
def test_factors_keep_the_magnitude_and_are_powers_of_two_when_asked(peaks: list[float], alpha: float) -> None:
    activations, ones = np.array(peaks), np.ones(len(peaks))
    factors = Strength(alpha, powers_of_two=False).factors(activations, ones)
    np.testing.assert_allclose(np.prod(factors), 1, rtol=1e-6)
    np.testing.assert_allclose(factors / factors[0], (activations / activations[0]) ** alpha, rtol=1e-6)
    rounded = np.log2(Strength(alpha, powers_of_two=True).factors(activations, ones))
    assert (rounded == np.rint(rounded)).all()


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((), (-1,), (8,)),
        ((), (-2, -1), (2, 4)),
        ((1,), (0,), (8,)),
        ((3, 1), (-1,), (8, 3, 1)),
        ((4,), (-1, 0), (2, 4)),
    ],
    ids=str,
)
def test_factors_go_into_a_broadcast_constant_more_than_once(
    shape: tuple[int, ...], axes: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    """Classes whose weights lie between them are levelled in several sweeps."""
    old = weights(*shape, seed=7)
    model = graph("t (float[2, 8] x) => (float[a, b, c] y) { y = Mul(x, w) }", {"w": old})
    [node] = model.graph
    constants = WorkingConstants(model.graph)
    place = Place(node, 1, axes, power=-1)
    extents = (2, 4) if len(axes) == 2 else (8,)
    for _ in range(3):
        constants.multiply(place, extents, SPREAD)
    peak = np.abs(old).max() if len(axes) == 1 else np.tile(np.broadcast_to(np.abs(old), 4), 2)
    np.testing.assert_allclose(constants.peaks(place, extents), peak / SPREAD**3, rtol=1e-6)
    constants.store()
    value = model.graph.initializers["w.equalized"].const_value
    assert value is not None
    assert tuple(value.shape) == wanted


def test_silent_channels_keep_the_factor_one() -> None:
    factors = Strength(0.5, powers_of_two=False).factors(np.array([0.0, 2.0, 8.0]), np.array([1.0, 1.0, 0.0]))
    np.testing.assert_array_equal(factors, 1)
