# SPDX-License-Identifier: Apache-2.0
"""Images lie channel-last where that saves transpositions, with the same numbers; and elsewhere as they lay."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import graph, weights
from packed_convs import conv_graph

from edgefold.calibration import Calibration
from edgefold.ops import add_functions
from edgefold.passes.base import Context, Notes, SkipReason
from edgefold.passes.fold_batchnorm import FoldBatchnorm
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.channel_last import turn_channel_last
from edgefold.passes.fusion.cost import TYPICAL
from edgefold.passes.quantize import Quantize
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (1, 8, 14, 12)).astype(np.float32)
LAST, FIRST = "Transpose<perm = [0, 2, 3, 1]>", "Transpose<perm = [0, 3, 1, 2]>"
GAMMA = {"g": np.linspace(0.5, 2, 8, dtype=np.float32)}
HEAD = "g (float[1, 8, 14, 12] x) => (float[n, c, h, w] y)"
SIGNED = "low=-127, high=127"
NEXT = f"""
    a = Conv(x, 8, 8, {SIGNED})
    b = Conv(a, 8, 8, kernel=7, group=8, {SIGNED}) c = {LAST}(b) d = LayerNormalization(c, g) e = Relu(d)
    f = {FIRST}(e) s = Add(a, f)
    i = Conv(s, 8, 8, kernel=7, group=8, {SIGNED}) j = {LAST}(i) k = LayerNormalization(j, g)
    m = {FIRST}(k) t = Add(s, m)"""
ENDS = {
    "a convolution": f"y = Conv(t, 8, 4, kernel=2, stride=2, {SIGNED})",
    "something channel-first": "y = GlobalAveragePool(t)",
    "an output": "y = Identity(t)",
    "functions of it": f"u = Sigmoid(t) v = Mul(t, u) y = Conv(v, 8, 4, {SIGNED})",
}


def turned(body: str, head: str = HEAD, **options: object) -> tuple[ir.Model, ir.Model, Notes]:
    """A graph before and after, and what was noted."""
    context = Context(probe=functools.partial(probe, feeds={"x": X}, seed=0), **options)  # type: ignore[arg-type]
    before = conv_graph(f"{head} {{ {body} }}", GAMMA)
    after = before.clone()
    notes = turn_channel_last(after, context, TYPICAL)
    add_functions(after)
    onnx.checker.check_model(ir.to_proto(after))
    return before, after, notes


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def outputs(model: ir.Model, *, library: bool = True) -> list[np.ndarray]:
    return make_session(model, library=library).run(None, {"x": X})


@pytest.mark.parametrize("end", ENDS)
def test_blocks_of_convnext_keep_no_transposition_between_them(end: str) -> None:
    before, after, notes = turned(f"{NEXT} {ENDS[end]}")
    assert operators(before)["Transpose"] == 4
    assert operators(after)["Transpose"] == ("onv" not in end and "func" not in end)
    assert operators(after)["ShiftConv"] == 0
    assert len(notes.edits) == 3
    for library in (True, False):
        for got, wanted in zip(outputs(after, library=library), outputs(before, library=library), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_block_of_convnext_with_its_linear_layers_becomes_two_nodes_and_a_normalization() -> None:
    arrays = {"w": weights(8, 1, 7, 7), "u": weights(8, 32), "b": weights(32), "v": weights(32, 8), **GAMMA}
    arrays |= {"s": weights(8, 1, 1, seed=3), "o": weights(8, 8, 3, 3, seed=4)}
    body = f"""{{ p = Conv<pads = [1, 1, 1, 1]>(x, o) a = Conv<group = 8, pads = [3, 3, 3, 3]>(p, w) c = {LAST}(a)
        d = LayerNormalization(c, g) e = MatMul(d, u) f = Add(e, b) h = Relu(f) i = MatMul(h, v) j = {FIRST}(i)
        k = Mul(j, s) l = Add(p, k) y = GlobalAveragePool(l) }}"""
    before = graph(f"{HEAD} {body}", arrays)
    context = Context(
        calibration=Calibration(before.clone(), lambda: [{"x": X}]),
        probe=functools.partial(probe, feeds={"x": X}, seed=0),
    )
    FoldBatchnorm().rewrite(before, context)
    Quantize(weights=4, method="shift").rewrite(before, context)
    after = before.clone()
    notes = FuseBlocks().rewrite(after, context)
    blocks = {"FusedConvBlock": 2, "LayerNormalization": 1, "FusedFeedForward": 1, "Transpose": 1}
    assert operators(after) == {**blocks, "GlobalAveragePool": 1}
    assert operators(before)["Mul"] == 0
    assert not notes.skips
    assert [node.name for node in after.graph if node.op_type == "FusedConvBlock"] == ["p", "a"]
    np.testing.assert_array_equal(outputs(after)[0], outputs(before)[0])


def test_a_name_keeps_its_order() -> None:
    head = "g (float[1, 8, 14, 12] x) => (float[n, c, h, w] y, float[1, 8, 14, 12] s)"
    before, after, _ = turned(f"{NEXT} y = Conv(t, 8, 4)", head)
    assert [str(value.name) for value in after.graph.outputs] == ["y", "s"]
    for got, wanted in zip(outputs(after), outputs(before), strict=True):
        np.testing.assert_array_equal(got, wanted)
    known = {str(value.name): value for node in after.graph for value in node.outputs}
    assert known["s"].producer().op_type == "Transpose"  # type: ignore[union-attr]
    assert [known[name].shape for name in ("s", "s.last")] == [(1, 8, 14, 12), (1, 14, 12, 8)]
    assert "b" not in known
    assert "b.last" in known


LEFT_ALONE = {
    "another order": "a = Conv(x, 8, 8) b = Transpose<perm = [0, 3, 2, 1]>(a) y = Relu(b)",
    "no convolution": f"a = {LAST}(x) b = LayerNormalization(a, g) c = {FIRST}(b) y = GlobalAveragePool(c)",
    "float activations": f"a = Conv(x, 8, 8, high=0) y = {LAST}(a)",
    "a transposition that is an output": f"a = Conv(x, 8, 8) y = {LAST}(a)",
    "a step a channel": f"a = {FIRST}(x) y = Conv(a, 12, 8, shift=1, high=127)",
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_near_miss_is_left_alone(name: str) -> None:
    before, after, notes = turned(LEFT_ALONE[name])
    assert operators(after) == operators(before)
    assert not notes.edits


def test_where_more_would_be_transposed_it_says_so() -> None:
    head = "g (float[1, 8, 14, 12] x) => (float[n, h, w, c] y, float[n, c, h, w] z)"
    _, after, notes = turned(f"p = Conv(x, 8, 8) z = Add(p, x) a = {LAST}(x) y = Relu(a)", head)
    assert operators(after)["ShiftConv"] == 1
    [skip] = notes.skips
    assert skip.reason is SkipReason.NOTHING_TO_GAIN
    [row] = notes.table
    assert (row["kind"], row["fuse"]) == ("channel-last", False)


@pytest.mark.parametrize(("beside", "left"), [("Relu(e)", 0), ("Squeeze(e, o)", 1)])
def test_what_is_added_to_every_pixel_is_turned_too_where_it_has_four_axes(beside: str, left: int) -> None:
    body = f"""p = GlobalAveragePool(x) e = Conv(p, 8, 8, {SIGNED}) o = Constant<value_ints = [0]>() q = {beside}
        a = Conv(x, 8, 8) b = {LAST}(a) c = LayerNormalization(b, g) d = {FIRST}(c) f = Add(d, q)
        y = Conv(f, 8, 4, {SIGNED})"""
    before, after, _ = turned(body)
    assert operators(after)["Transpose"] == left
    for library in (True, False):
        got, wanted = (outputs(model, library=library)[0] for model in (after, before))
        np.testing.assert_array_equal(got, wanted)


def test_excluded_convolution_stays_and_unknown_sizes_are_told() -> None:
    _, after, _ = turned(f"{NEXT} y = Conv(t, 8, 4)", exclude=("b",))
    assert operators(after)["ShiftConv"] == 1
    model = conv_graph(f"{HEAD.replace('1, 8, 14, 12', 'n, c, h, w')} {{ {NEXT} y = Relu(t) }}", GAMMA)
    notes = turn_channel_last(model, Context(), TYPICAL)
    assert {skip.reason for skip in notes.skips} == {SkipReason.DYNAMIC_SHAPE}


def test_it_is_a_kind_of_fuse_blocks() -> None:
    model = conv_graph(f"{HEAD} {{ {NEXT} y = Conv(t, 8, 4) }}", GAMMA)
    notes = FuseBlocks(kinds=("channel-last",)).rewrite(
        model, Context(probe=functools.partial(probe, feeds={"x": X}, seed=0))
    )
    assert notes.stats["channel-last.images"] == 3
    assert operators(model)["Transpose"] == 0
