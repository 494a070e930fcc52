# SPDX-License-Identifier: Apache-2.0
"""Weights that nodes in the bodies of If, Loop and Scan read are packed as those of the main graph are, each once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from depth.residual_chains import WIDTH as CHAIN_WIDTH
from depth.residual_chains import chain
from graphs import Array, graph, weights
from merged_decoder import INITIALIZERS, feeds, merged_decoder

from edgefold import compress, inspect, verify
from edgefold.calibration import Calibration
from edgefold.nodewise import PORTABLE_TOLERANCE
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes._names import name_apart
from edgefold.passes.elastic_depth import ElasticDepth
from edgefold.passes.quantize import Quantize
from edgefold.perturbing import perturb
from edgefold.probing import probe
from edgefold.verification import check_onnx, run_model

W, V = weights(64, 48), weights(64, 48, seed=1)
X = weights(5, 64, seed=2)
EIGHT_BITS = 0.04
"""Of the outputs in root mean square. Codes of rows are off by 1/127 of the largest element over the root of 12, and
that is 2 to 4 times their root mean square: 0.5 to 1 % a layer, those of weights less; errors of the at most eight
layers on a path add up as squares do."""


def quantized(model: ir.Model, context: Context | None = None, **options: object) -> tuple[ir.Model, Notes]:
    """A copy with 8-bit weights, checked."""
    after = model.clone()
    name_apart(after)
    notes = Quantize(**{"weights": 8, "method": "shift", **options}).rewrite(after, context or Context())
    check_onnx(after)
    return after, notes


def assert_close(before: ir.Model, after: ir.Model, data: Mapping[str, Array]) -> None:
    """The library gives what the float model gives, and stock ONNX Runtime what the library gives."""
    wanted, ours = run_model(before, data, library=False), run_model(after, data)
    stock = run_model(after, data, library=False)
    for name, value in wanted.items():
        scale = np.abs(value).max()
        assert np.linalg.norm(ours[name] - value) < EIGHT_BITS * np.linalg.norm(value)
        np.testing.assert_allclose(stock[name], ours[name], atol=PORTABLE_TOLERANCE * scale, rtol=0)


def operators(model: ir.Model) -> dict[str, int]:
    """How many nodes of `ai.edgefold` there are of each type, and products left in float."""
    found: dict[str, int] = {}
    for node in model.graph.all_nodes():
        if node.domain == "ai.edgefold" or node.op_type in ("Conv", "Gather", "Gemm", "MatMul"):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def stored(model: ir.Model) -> list[str]:
    """The names of the stored tensors of all graphs."""
    return sorted(name for one in model.graphs() for name in one.initializers)


def branches(then: str, otherwise: str) -> str:
    return f"""g (float[N, 64] x, bool c) => (float[N, 48] y) {{
        [choice] y = If(c) <then_branch = a () => (float[N, 48] p) {{ {then} }},
                            else_branch = b () => (float[N, 48] q) {{ {otherwise} }}>
    }}"""


@pytest.mark.parametrize("cached", [False, True])
def test_a_merged_decoder_stores_each_matrix_once(cached: bool) -> None:
    model = ir.from_proto(merged_decoder())
    after, notes = quantized(model)
    assert operators(after) == {"ShiftGather": 2, "ShiftMatMul": 26, "MatMul": 8}  # scores and values of attention
    codes = [name for name in stored(after) if name.endswith(".codes")]
    assert codes == sorted(f"{name}.codes" for name in INITIALIZERS)
    assert not set(INITIALIZERS) & set(stored(after))
    assert len(notes.edits) == 28
    assert {edit.node for edit in notes.edits} >= {
        "optimum::if/then_branch:l0_q_node", "optimum::if/else_branch:l0_q_node"
    }  # fmt: skip
    assert_close(model, after, feeds(cached))


def test_first_and_last_layers_are_found_in_branches() -> None:
    _, notes = quantized(ir.from_proto(merged_decoder()), weights=4, method="shift-lut")
    wider = {(skip.node, skip.detail) for skip in notes.skips if skip.reason is SkipReason.KEPT_WIDER}
    assert wider == {
        (f"optimum::if/{branch}:{node}", f"{why}, 8 bits")
        for branch in ("then_branch", "else_branch")
        for node, why in (("embed", "embedding"), ("head_node", "last layer"))
    }


SCAN = """g (float[T, 2, 64] x) => (float[2, 64] last, float[T, 2, 64] all) {
    start = Constant<value_float = 0.0>() two = Constant<value_ints = [2, 64]>() zero = Expand(start, two)
    last, all = Scan<num_scan_inputs = 1, body = b (float[2, 64] h, float[2, 64] xt)
        => (float[2, 64] next, float[2, 64] out) {
        [of_x] a = MatMul(xt, w) [of_h] b = MatMul(h, u) s = Add(a, b) next = Tanh(s) out = Identity(next)
    }>(zero, x)
}"""


def test_what_an_iteration_hands_on_follows_its_layers() -> None:
    model = graph(SCAN, {"w": weights(64, 64), "u": weights(64, 64, seed=1)})
    _, notes = quantized(model, weights=4, method="shift-lut")
    assert [(skip.node.split(":")[-1], skip.detail) for skip in notes.skips] == [("of_x", "first layer, 8 bits")]


def with_local(text: str, **arrays: tuple[str, Array]) -> ir.Model:
    """A model whose branches have initializers of their own: name, with a digit behind it, -> branch and array."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + text)
    bodies = {attribute.g.name: attribute.g for node in proto.graph.node for attribute in node.attribute}
    for name, (body, array) in arrays.items():
        bodies[body].initializer.append(onnx.numpy_helper.from_array(array, name.rstrip("0123456789")))
    return ir.from_proto(proto)


@pytest.mark.parametrize("choice", [False, True])
@pytest.mark.parametrize(("other", "matrices"), [(W, 1), (V, 2)])
def test_weights_of_bodies_named_alike_are_told_apart(choice: bool, other: Array, matrices: int) -> None:
    text = branches("[n] p = MatMul(x, w)", "[n] q = MatMul(x, w)")
    model = with_local(text, w1=("a", W), w2=("b", other))
    after, notes = quantized(model)
    assert [edit.node for edit in notes.edits] == ["choice/then_branch:n", "choice/else_branch:n"]
    assert sum(name.endswith(".codes") for name in stored(after)) == matrices
    assert not [name for name in stored(after) if name.startswith("w") and "." not in name]
    assert_close(model, after, {"x": X, "c": np.array(choice)})


@pytest.mark.parametrize("choice", [False, True])
def test_constant_nodes_views_and_biases_of_both_graphs(choice: bool) -> None:
    text = branches("t = Transpose(w) h = MatMul(x, t) p = Add(h, b)", "h2 = MatMul(x, v) q = Add(b, h2)")
    model = graph(text, {"w": np.ascontiguousarray(W.T), "v": V, "b": weights(48)})
    after, _ = quantized(model)
    assert operators(after) == {"ShiftMatMul": 2}
    assert {node.op_type for node in after.graph.all_nodes()} == {"If", "ShiftMatMul"}
    assert not {"w", "v", "b"} & set(stored(after))
    assert_close(model, after, {"x": X, "c": np.array(choice)})


NESTED = """g (float[N, 64] x, int64 trips, bool c) => (float[N, 64] y) {
    yes = Constant<value = bool {1}>()
    [loop] y = Loop(trips, yes, x) <body = l (int64 i, bool go, float[N, 64] s) => (bool on, float[N, 64] next) {
        on = Identity(go)
        [inner] h = If(c) <
            then_branch = a () => (float[N, 64] p) { [n] p = MatMul(s, w) },
            else_branch = b () => (float[N, 64] q) { [n] q1 = MatMul(s, w) q = Neg(q1) }
        >
        next = Tanh(h)
    }>
}"""


@pytest.mark.parametrize("choice", [False, True])
def test_an_if_within_a_loop(choice: bool) -> None:
    model = graph(NESTED, {"w": weights(64, 64) / 8})
    after, notes = quantized(model)
    assert [edit.node for edit in notes.edits] == [
        "loop/body:inner/then_branch:n", "loop/body:inner/else_branch:n"
    ]  # fmt: skip
    assert sum(name.endswith(".codes") for name in stored(after)) == 1
    for trips in (0, 1, 3):
        assert_close(model, after, {"x": X, "trips": np.array(trips), "c": np.array(choice)})


def test_the_body_of_a_scan() -> None:
    model = graph(SCAN, {"w": weights(64, 64) / 8, "u": weights(64, 64, seed=1) / 16})
    after, _ = quantized(model)
    assert operators(after) == {"ShiftMatMul": 2}
    assert_close(model, after, {"x": weights(4, 2, 64)})


@pytest.mark.parametrize("changed", [False, True])
def test_weights_that_a_loop_hands_on(changed: bool) -> None:
    given = "v = Neg(u)" if changed else "v = Identity(u)"
    text = f"""g (float[N, 64] x, int64 trips) => (float[N, 64] y) {{
        yes = Constant<value = bool {{1}}>()
        y, z = Loop(trips, yes, x, w) <
            body = l (int64 i, bool go, float[N, 64] s, float[64, 64] u)
                => (bool on, float[N, 64] t, float[64, 64] v) {{
                on = Identity(go) [n] h = MatMul(s, u) t = Tanh(h) {given}
            }}
        >
    }}"""
    model = graph(text, {"w": weights(64, 64) / 8})
    after, _ = quantized(model)
    assert operators(after) == ({"MatMul": 1} if changed else {"ShiftMatMul": 1})
    assert ("w" in stored(after)) == changed
    assert_close(model, after, {"x": X, "trips": np.array(3)})


def test_convolutions_in_a_branch_keep_float_activations_without_data() -> None:
    text = """g (float[1, 8, 9, 9] x, bool c) => (float[1, 16, 7, 7] y) {
        [choice] y = If(c) <then_branch = a () => (float[1, 16, 7, 7] p) { [n] p = Conv(x, w, b) },
                            else_branch = b () => (float[1, 16, 7, 7] q) { [n] q1 = Conv(x, w) q = Relu(q1) }>
    }"""
    model = graph(text, {"w": weights(16, 8, 3, 3), "b": weights(16)})
    after, notes = quantized(model)
    assert operators(after) == {"ShiftConv": 2}
    alone = {skip.node for skip in notes.skips if skip.reason is SkipReason.NO_CALIBRATION}
    assert alone == {"choice/then_branch:n", "choice/else_branch:n"}
    for choice in (False, True):
        assert_close(model, after, {"x": weights(1, 8, 9, 9), "c": np.array(choice)})


def test_the_main_graph_and_a_branch_share_a_matrix() -> None:
    text = """g (float[N, 64] x, bool c) => (float[N, 48] y, float[N, 48] z) {
        [n] z = MatMul(x, w)
        y = If(c) <then_branch = a () => (float[N, 48] p) { p = MatMul(x, w) },
                   else_branch = b () => (float[N, 48] q) { q = Neg(z) }>
    }"""
    model = graph(text, {"w": W})
    after, notes = quantized(model)
    assert len(notes.edits) == 2
    assert stored(after) == [
        "edgefold.zero",
        "edgefold.zero_shift",
        "w.codes",
        "w.scales",
        "w.selectors",
        "w.table",
    ] or ("w" not in stored(after))
    for choice in (False, True):
        assert_close(model, after, {"x": X, "c": np.array(choice)})


@pytest.mark.parametrize(
    "otherwise",
    [
        "r = Relu(w) q = MatMul(x, r)",
        "k = Identity(w) q1 = MatMul(x, k) r = ReduceMax<keepdims = 0>(w) q = Mul(q1, r)",
    ],
)
def test_what_a_branch_needs_in_float_stays_float_in_all(otherwise: str) -> None:
    after, notes = quantized(graph(branches("[n] p = MatMul(x, w)", otherwise), {"w": W}))
    assert not notes.edits
    assert ("choice/then_branch:n", SkipReason.SHARED_WEIGHT) in [(skip.node, skip.reason) for skip in notes.skips]
    assert "w" in stored(after)


def test_weights_that_a_body_gives_stay() -> None:
    text = """g (float[N, 64] x, bool c) => (float[64, 48] y, float[N, 48] z) {
        [n] z = MatMul(x, w)
        y = If(c) <then_branch = a () => (float[64, 48] p) { p = Identity(w) },
                   else_branch = b () => (float[64, 48] q) { q = Neg(w) }>
    }"""
    _, notes = quantized(graph(text, {"w": W}))
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("n", SkipReason.GRAPH_OUTPUT)]


def test_products_in_functions_are_left_alone() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    g (float[N, 64] x) => (float[N, 48] y) { y = own.Product(x, w) }
    <domain: "own", opset_import: ["" : 21]> Product (a, b) => (c) { [inner] c = MatMul(a, b) }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    _, notes = quantized(ir.from_proto(proto))
    assert not notes.edits
    assert ("inner", SkipReason.SUBGRAPH) in [(skip.node, skip.reason) for skip in notes.skips]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("choice/then_branch:n", ["choice/then_branch:n"]),
        ("choice/then_branch:*", ["choice/then_branch:n"]),
        ("n", ["choice/then_branch:n", "choice/else_branch:n"]),
        ("q", ["choice/else_branch:n"]),
        ("branch", []),
    ],
)
def test_nodes_are_excluded_by_their_names_with_and_without_the_body(pattern: str, left: list[str]) -> None:
    model = graph(branches("[n] p = MatMul(x, w)", "[n] q = MatMul(x, v)"), {"w": W, "v": V})
    after, notes = quantized(model, Context(exclude=(pattern,)))
    assert [skip.node for skip in notes.skips if skip.reason is SkipReason.EXCLUDED] == left
    assert operators(after).get("MatMul", 0) == len(left)


def calibrated(model: ir.Model, batches: list[dict[str, Array]]) -> Context:
    name_apart(model)
    return Context(
        calibration=Calibration(model, lambda: iter(batches)), probe=functools.partial(probe, feeds=batches[0])
    )


def error(before: ir.Model, after: ir.Model, data: Mapping[str, Array]) -> float:
    wanted, got = (run_model(one, data)["logits"] for one in (before, after))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_second_order_rounding_of_branches_by_data_of_both() -> None:
    model = ir.from_proto(merged_decoder())
    batches = [feeds(cached, seed) for seed in range(24) for cached in (False, True)]
    options = {"weights": 3, "first_last": 3, "method": "shift-lut"}
    nearest, _ = quantized(model, **options)
    context = calibrated(model, batches)
    second, notes = quantized(model, context, rounding="gptq", **options)
    assert not [skip for skip in notes.skips if skip.reason in (SkipReason.FALLBACK, SkipReason.NO_CALIBRATION)]
    assert sum(error(model, second, one) for one in batches[:8]) < 0.8 * sum(
        error(model, nearest, one) for one in batches[:8]
    )


def test_a_branch_without_data_is_rounded_for_the_other() -> None:
    model = ir.from_proto(merged_decoder())
    context = calibrated(model, [feeds(cached=False, seed=seed) for seed in range(2)])
    _, notes = quantized(model, context, rounding="gptq")
    told = {skip.node: skip.detail for skip in notes.skips if skip.reason is SkipReason.FALLBACK}
    assert all(node.startswith("optimum::if/then_branch:") for node in told)
    assert len(told) == 13
    assert set(told.values()) == {
        "no calibration data reached it: rounded for the other nodes that apply its matrix"
    }  # fmt: skip


def test_convolutions_in_a_branch_get_codes_of_calibrated_scale() -> None:
    text = """g (float[1, 8, 9, 9] x, bool c) => (float[1, 16, 7, 7] y) {
        [choice] y = If(c) <then_branch = a () => (float[1, 16, 7, 7] p) { h = Relu(x) [n] p = Conv(h, w) },
                            else_branch = b () => (float[1, 16, 7, 7] q) { k = Neg(x) [n] q = Conv(k, w) }>
    }"""
    model = graph(text, {"w": weights(16, 8, 3, 3)})
    feeds_of = [{"x": weights(1, 8, 9, 9, seed=seed), "c": np.array(True)} for seed in range(3)]
    after, notes = quantized(model, calibrated(model, feeds_of))
    low = {str(node.name): node.attributes.get_int("activation_high", -1) for node in after.graph.all_nodes()
           if node.op_type == "ShiftConv"}  # fmt: skip
    assert low == {"choice/then_branch:n": 255, "choice/else_branch:n": 0}  # unsigned codes, and float
    assert [(skip.node, skip.reason) for skip in notes.skips if skip.reason is SkipReason.FALLBACK] == [
        ("choice/else_branch:n", SkipReason.FALLBACK)
    ]
    for one in feeds_of:
        assert_close(model, after, one)


def test_the_weights_of_a_loop_are_rounded_by_all_iterations() -> None:
    model = graph(NESTED, {"w": weights(64, 64) / 8})
    batches = [{"x": weights(32, 64, seed=seed), "trips": np.array(3), "c": np.array(True)} for seed in range(4)]
    after, notes = quantized(model, calibrated(model, batches), rounding="gptq", weights=4)
    assert "output_error" in notes.stats
    unreached = "no calibration data reached it: rounded for the other nodes that apply its matrix"
    told = [(skip.node, skip.detail) for skip in notes.skips if skip.reason is SkipReason.FALLBACK]
    assert told == [("loop/body:inner/else_branch:n", unreached)]
    assert operators(after) == {"ShiftMatMul": 2}


def test_a_budget_of_bits_counts_layers_of_branches() -> None:
    model = ir.from_proto(merged_decoder())
    batches = [feeds(cached, seed) for seed in range(2) for cached in (False, True)]
    context = dataclasses.replace(
        calibrated(model, batches), perturb=functools.partial(perturb, feeds=lambda: iter(batches))
    )
    after, notes = quantized(model, context, weights=4, method="shift-lut", bits=4.0)
    assert len(notes.table) == len(INITIALIZERS) - 1  # the embedding does not count
    assert all(len(row["nodes"]) == 2 for row in notes.table)
    assert operators(after)["ShiftMatMul"] == 26


@pytest.mark.parametrize(("opset", "recipe"), [(11, "w4"), (21, "fused")])
def test_a_merged_decoder_from_file_to_folder(opset: int, recipe: str, tmp_path: Path) -> None:
    onnx.save(merged_decoder(opset), tmp_path / "m.onnx")
    report = compress(tmp_path / "m.onnx", tmp_path / "out", recipe=recipe)
    assert report.after.bytes < report.before.bytes / 3.5
    assert report.after.weights == report.before.weights
    assert report.portability is not None
    assert (report.portability["nodes"], report.portability["unreached"]) == (28, 0)  # of both branches
    verdict = verify(tmp_path / "out")
    assert verdict.agreement is not None
    assert verdict.agreement.nodes == 28
    found = inspect(tmp_path / "out")
    assert len(found.layers) == 2 * 17
    assert {
        layer.bits is None for layer in found.layers if "scores" not in layer.node and "seen" not in layer.node
    } == {False}


def test_all_depths_of_an_elastic_model() -> None:
    model = chain(5)
    mixed = [{"x": weights(256, CHAIN_WIDTH, seed=seed)} for seed in (21, 22)]
    elastic = model.clone()
    context = Context(
        calibration=Calibration(model, lambda: iter(mixed)),
        perturb=functools.partial(perturb, feeds=lambda: iter(mixed)),
    )
    assert ElasticDepth(depths=(3,)).rewrite(elastic, context).edits
    after, notes = quantized(elastic)
    assert not [skip for skip in notes.skips if skip.reason is SkipReason.SUBGRAPH]
    assert {node.op_type for node in after.graph.all_nodes()} & {"MatMul", "Gemm"} == set()
    for depth in (3, 5):
        assert_close(elastic, after, {**mixed[0], "depth": np.array(depth)})
