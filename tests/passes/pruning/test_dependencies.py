# SPDX-License-Identifier: Apache-2.0
"""The analysis of whole graphs: which groups there are, on which axes, what is frozen and why."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, weights

from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Dependencies, Exactness, Group, Role, Trace
from edgefold.passes.pruning.prepare import prepare
from edgefold.probing import probe


def analysed(model: ir.Model) -> Dependencies:
    ties = prepare(model)
    return analyse(model, probe(model), ties)


def summary(group: Group) -> tuple[int, int, list[str]]:
    return group.size, group.width, [f"{one.parameter}:{one.axis} {one.role}" for one in group.slices]


def only(found: Dependencies) -> Group:
    (group,) = found.groups
    return group


def test_a_chain_has_one_group_for_its_hidden_channels() -> None:
    model = graph(
        """g (float[N, 3, 8, 8] x) => (float[N, 5, 4, 4] y) {
            a = Conv (x, w, b)
            c = Relu (a)
            y = Conv (c, v)
        }""",
        {"w": weights(6, 3, 3, 3), "b": weights(6), "v": weights(5, 6, 3, 3)},
    )
    found = analysed(model)
    assert summary(only(found)) == (6, 1, ["w:0 writer", "b:0 channelwise", "v:1 reader"])
    kept = found.kept({"w:0": np.array([1, 4])})
    assert set(kept) == {("w", 0), ("b", 0), ("v", 1), ("a", 1), ("c", 1)}
    assert {tuple(array) for array in kept.values()} == {(0, 2, 3, 5)}
    assert [barrier.channels for barrier in found.barriers] == [5]
    assert found.kept({}) == {}


def test_a_shortcut_that_pads_channels_keeps_the_stages_free() -> None:
    """Option A of CIFAR ResNets: every second pixel, and new channels of zeros on both sides."""
    model = graph(
        """g (float[N, 3, 8, 8] x) => (float[N, 10] y)
        <int64[4] s = {0, 0, 0, 0}, int64[4] e = {99, 99, 99, 99}, int64[4] t = {1, 1, 2, 2}, int64[4] a = {0, 1, 2, 3},
         int64[8] p = {0, 2, 0, 0, 0, 2, 0, 0}> {
            h = Conv (x, w)
            strided = Slice (h, s, e, a, t)
            short = Pad (strided, p)
            long = Conv <strides = [2, 2]> (h, v)
            sum = Add (long, short)
            pooled = GlobalAveragePool (sum)
            flat = Flatten (pooled)
            y = Gemm <transB = 1> (flat, u)
        }""",
        {"w": weights(4, 3, 1, 1), "v": weights(8, 4, 1, 1), "u": weights(10, 8)},
    )
    narrow, added = analysed(model).groups
    assert summary(narrow) == (4, 1, ["w:0 writer", "v:0 writer", "v:1 reader", "u:1 reader"])
    assert summary(added) == (4, 1, ["v:0 writer", "u:1 reader"])
    assert narrow.slices[1].units.tolist() == [-1, -1, 0, 1, 2, 3, -1, -1]


ATTENTION = """g (float[N, T, 8] x) => (float[N, T, 8] y) <int64[4] split = {0, 0, 4, 2}, int64[3] join = {0, 0, 8}> {
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    qs = Reshape (q, split)
    ks = Reshape (k, split)
    vs = Reshape (v, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (qs)
    kh = Transpose <perm = [0, 2, 3, 1]> (ks)
    vh = Transpose <perm = [0, 2, 1, 3]> (vs)
    logits = MatMul (qh, kh)
    share = Softmax (logits)
    mixed = MatMul (share, vh)
    heads = Transpose <perm = [0, 2, 1, 3]> (mixed)
    flat = Reshape (heads, join)
    y = MatMul (flat, wo)
}"""


def test_attention_has_heads_and_two_kinds_of_dimensions() -> None:
    found = analysed(graph(ATTENTION, {name: weights(8, 8) for name in ("wq", "wk", "wv", "wo")}))
    heads, turned, mixed = found.groups
    assert summary(heads) == (4, 2, ["wq:1 writer", "wk:1 writer", "wv:1 writer", "wo:0 reader"])
    assert summary(turned) == (2, 4, ["wq:1 writer", "wk:1 writer"])
    assert summary(mixed) == (2, 4, ["wv:1 writer", "wo:0 reader"])
    assert heads.slices[0].units.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert turned.slices[0].units.tolist() == [0, 1] * 4
    kept = found.kept({heads.name: np.array([1]), mixed.name: np.array([0])})
    assert kept["wq", 1].tolist() == [0, 1, 4, 5, 6, 7]
    assert kept["wo", 0].tolist() == [1, 5, 7]
    assert kept["logits", 1].tolist() == [0, 2, 3]


def test_heads_merged_with_a_dynamic_batch_stay_units() -> None:
    merged = """rows = Reshape (share, rs)
        values = Reshape (vh, rv)
        products = MatMul (rows, values)
        mixed = Reshape (products, back)"""
    text = ATTENTION.replace("mixed = MatMul (share, vh)", merged).replace("[N, T, 8]", "[N, 5, 8]")
    shapes = "int64[3] rs = {-1, 5, 5}, int64[3] rv = {-1, 5, 2}, int64[4] back = {-1, 4, 5, 2}>"
    model = graph(text.replace("8}>", f"8}}, {shapes}"), {name: weights(8, 8) for name in ("wq", "wk", "wv", "wo")})
    assert [group.size for group in analysed(model).groups] == [4, 2, 2]


def test_repeated_key_heads_go_with_their_queries() -> None:
    model = graph(
        """g (float[N, T, 6] x) => (float[N, T, 6] y)
        <int64[4] queries = {0, 0, 4, 3}, int64[4] keys = {0, 0, 2, 3}, int64[1] two = {3}, int64[1] one = {1},
         int64[5] repeat = {1, 1, 1, 2, 1}, int64[4] all = {0, 0, 4, 3}, int64[3] join = {0, 0, 12}> {
            q = MatMul (x, wq)
            v = MatMul (x, wv)
            qs = Reshape (q, queries)
            vs = Reshape (v, keys)
            longer = Unsqueeze (vs, two)
            repeated = Expand (longer, repeat)
            vq = Reshape (repeated, all)
            mixed = Mul (qs, vq)
            flat = Reshape (mixed, join)
            y = MatMul (flat, wo)
        }""",
        {"wq": weights(6, 12), "wv": weights(6, 6), "wo": weights(12, 6)},
    )
    groups = analysed(model).groups
    assert [(group.size, group.width) for group in groups] == [(2, 6), (2, 6), (3, 4)]
    assert groups[0].slices[1].units.tolist() == [0, 0, 0, 1, 1, 1]
    assert [one.parameter for one in groups[1].slices] == ["wq", "wo"]


def test_tied_matrices_go_together() -> None:
    model = graph(
        """g (float[N, 4] x) => (float[N, 4] y) {
            a = MatMul (x, w)
            b = MatMul (a, w)
            c = MatMul (b, v)
            y = MatMul (c, w)
        }""",
        {"w": weights(4, 4), "v": weights(4, 4)},
    )
    found = analysed(model)
    assert found.groups == ()


def test_grouped_convolutions_lose_groups_or_the_same_channel_of_every_group() -> None:
    model = graph(
        """g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) {
            a = Conv (x, w)
            b = Conv <group = 2> (a, v)
            y = Conv (b, u)
        }""",
        {"w": weights(6, 3, 1, 1), "v": weights(8, 3, 1, 1), "u": weights(2, 8, 1, 1)},
    )
    groups = analysed(model).groups
    assert [summary(group) for group in groups] == [
        (2, 3, ["w:0 writer", "v:0 writer", "u:1 reader"]),
        (3, 2, ["w:0 writer", "v:1 reader"]),
        (4, 2, ["v:0 writer", "u:1 reader"]),
    ]


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_layer_normalization_changes_statistics_however_it_is_written(decomposed: bool) -> None:
    fused = "n = LayerNormalization (a, s)"
    parts = """mean = ReduceMean <axes = [-1]> (a)
        centred = Sub (a, mean)
        square = Mul (centred, centred)
        variance = ReduceMean <axes = [-1]> (square)
        deviation = Sqrt (variance)
        shape = Div (centred, deviation)
        n = Mul (shape, s)"""
    norm = parts if decomposed else fused
    text = f"g (float[N, 3] x) => (float[N, 2] y) {{ a = MatMul (x, w) {norm} y = MatMul (n, v) }}"
    model = graph(text, {"w": weights(3, 6), "s": weights(6), "v": weights(6, 2)})
    if decomposed:
        model.graph.opset_imports[""] = 17
    group = only(analysed(model))
    assert (group.exactness, group.size) == (Exactness.STATISTICS, 6)
    assert group.cause in {str(node.name) for node in model.graph}


def test_a_root_mean_square_is_exact() -> None:
    model = graph(
        """g (float[N, 3] x) => (float[N, 2] y) <float two = {2}, int64[1] last = {-1}> {
            a = MatMul (x, w)
            square = Pow (a, two)
            mean = ReduceMean (square, last)
            root = Sqrt (mean)
            n = Div (a, root)
            y = MatMul (n, v)
        }""",
        {"w": weights(3, 6), "v": weights(6, 2)},
    )
    assert only(analysed(model)).exactness == Exactness.EXACT


def test_what_is_not_understood_is_frozen_and_named() -> None:
    model = graph(
        """g (float[N, 4] x) => (float[N, 2] y) {
            a = MatMul (x, w)
            b = com.microsoft.FastGelu (a)
            y = MatMul (b, v)
        }""",
        {"w": weights(4, 6), "v": weights(6, 2)},
    )
    found = analysed(model)
    assert found.groups == ()
    assert (found.barriers[0].op_type, found.barriers[0].channels) == ("FastGelu", 6)
    assert "before its optimizer" in found.barriers[0].why


def test_branches_give_and_read_what_the_main_graph_does() -> None:
    model = graph(
        """g (float[N, 4] x, bool c) => (float[N, 2] y) {
            a = MatMul (x, w)
            b = If (c) <then_branch = t () => (float[N, 6] z) { z = Relu (a) },
                        else_branch = e () => (float[N, 6] z2) { z2 = Neg (a) }>
            y = MatMul (b, v)
        }""",
        {"w": weights(4, 6), "v": weights(6, 2)},
    )
    (group,) = analysed(model).groups
    assert [(one.parameter, one.axis) for one in group.slices] == [("w", 1), ("v", 0)]


def test_an_inner_value_that_is_an_output_is_frozen() -> None:
    text = "g (float[N, 4] x) => (float[N, 2] y OUT) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"
    parameters = {"w": weights(4, 6), "v": weights(6, 2)}
    assert analysed(graph(text.replace(" OUT", ", float[N, 6] b"), parameters)).groups == ()
    assert len(analysed(graph(text.replace(" OUT", ""), parameters)).groups) == 1


def test_a_channel_that_becomes_an_axis_of_its_own_or_none_stays() -> None:
    """Channel 0 is taken out and broadcast over the others: they may go, it may not."""
    model = graph(
        """g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y) <int64[2] parts = {1, 5}, int64[1] one = {1}> {
            a = Conv (x, w)
            gate, b = Split <axis = 1> (a, parts)
            flat = Squeeze (gate, one)
            again = Unsqueeze (flat, one)
            c = Mul (again, b)
            y = Conv (c, v)
        }""",
        {"w": weights(6, 3, 3, 3), "v": weights(2, 5, 1, 1)},
    )
    model.graph.inputs[0].shape = ir.Shape(["N", 3, 6, 6])
    found = analysed(model)
    assert [(group.size, group.slices[0].units.tolist()) for group in found.groups] == [(5, [-1, 0, 1, 2, 3, 4])]
    assert {barrier.op_type: barrier.channels for barrier in found.barriers}["Squeeze"] == 1


def test_shapes_that_contradict_a_rule_freeze_the_node() -> None:
    model, trace = residual(1)
    found = analyse(model, Trace({**trace.shapes, "v0": (16, 99)}, {}, frozenset()))
    assert len(found.groups) == 1  # the shape of an initializer is its own
    reshaped = graph(
        """g (float[2, 3] x) => (float[4, 5] y) <int64[2] s = {4, 3}> {
            a = MatMul (x, w)
            b = Reshape (a, s)
            y = MatMul (b, v)
        }""",
        {"w": weights(3, 6), "v": weights(3, 5)},
    )
    prepare(reshaped)
    shapes = {"x": (2, 3), "a": (2, 6), "b": (5, 3), "y": (5, 5)}
    found = analyse(reshaped, Trace(shapes, {}, frozenset()))
    assert found.groups == ()
    assert [barrier.op_type for barrier in found.barriers if barrier.channels == 6] == ["Reshape"]


def test_contractions_multiply_to_the_macs() -> None:
    model = graph(
        """g (float[2, 6, 8, 8] x) => (float[2, 10, 5] y) <int64[3] flat = {0, 0, -1}> {
            a = Conv <group = 2, strides = [2, 2]> (x, w)
            b = Reshape (a, flat)
            y = MatMul (b, v)
        }""",
        {"w": weights(10, 3, 2, 2), "v": weights(16, 5)},
    )
    prepare(model)
    trace = probe(model)
    conv, matmul = analyse(model, trace).contractions
    assert np.prod([trace.shapes[name][axis] for name, axis in conv.axes]) == 2 * 10 * 4 * 4 * 3 * 2 * 2
    assert np.prod([trace.shapes[name][axis] for name, axis in matmul.axes]) == 2 * 10 * 5 * 16


def residual(blocks: int) -> tuple[ir.Model, Trace]:
    """Blocks of five nodes on one stream of 16 channels, without a run: the shapes are all the same."""
    shape = (1, 16, 8, 8)
    text = "\n".join(
        f"a{i} = Conv (h{i}, w{i}) b{i} = Relu (a{i}) c{i} = Conv (b{i}, v{i}) d{i} = Add (c{i}, h{i}) "
        f"h{i + 1} = Relu (d{i})"
        for i in range(blocks)
    )
    stored: dict[str, Any] = {f"{kind}{i}": weights(16, 16, 1, 1) for kind in "wv" for i in range(blocks)}
    model = graph(f"g (float[1, 16, 8, 8] h0) => (float[1, 16, 8, 8] h{blocks}) {{ {text} }}", stored)
    values = [value.name for node in model.graph for value in node.outputs]
    shapes = {"h0": shape, **{str(name): shape for name in values}}
    return model, Trace({**shapes, **dict.fromkeys(stored, (16, 16, 1, 1))}, {}, frozenset())


def test_the_analysis_grows_no_worse_than_its_graph() -> None:
    def seconds(blocks: int) -> float:
        model, trace = residual(blocks)
        start = time.process_time()
        found = analyse(model, trace)
        assert len(found.groups) == blocks
        assert all(group.on(Role.WRITER) for group in found.groups)
        return time.process_time() - start

    small = min(seconds(50) for _ in range(3))
    assert min(seconds(400) for _ in range(2)) < 8 * 3 * small
