# SPDX-License-Identifier: Apache-2.0
"""Weights that nodes in the bodies of If, Loop and Scan read are packed as those of the main graph are, each once."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from body_models import NESTED, V, W, X, assert_close, operators, quantized, stored
from cached_decoder import decoder
from graphs import Array, graph, weights
from merged_decoder import INITIALIZERS, feeds, merged_decoder

from edgefold.passes import Context, SkipReason
from edgefold.passes._names import name_apart
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.probing import probe


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
    assert operators(after) == {"FloatConv": 2}
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


@pytest.mark.parametrize(("cache", "operator"), [("int8", "ShiftAttention"), ("leave", "Softmax")])
def test_a_cache_in_a_body_stays_float(cache: str, operator: str) -> None:
    proto = ir.to_proto(decoder("eager: added, least float"))
    outputs, helper = [one.name for one in proto.graph.output], onnx.helper
    empty = onnx.numpy_helper.from_array(np.zeros((2, 2, 7, 8), np.float32))
    without = [helper.make_node("Concat", ["x", "x"], ["y"], axis=2)]
    without += [helper.make_node("Constant", [], [name], value=empty) for name in ("k", "v")]
    bodies = {
        "then_branch": helper.make_graph(list(proto.graph.node), "with_past", [], list(proto.graph.output)),
        "else_branch": helper.make_graph(without, "without", [], list(proto.graph.output)),
    }
    del proto.graph.node[:]
    proto.graph.node.append(helper.make_node("If", ["choice"], outputs, "if", **bodies))
    proto.graph.input.append(helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, []))
    before = ir.from_proto(proto)
    name_apart(before)
    after = before.clone()
    data = {
        "x": weights(2, 3, 16), "past_k": weights(2, 2, 4, 8), "past_v": weights(2, 2, 4, 8, seed=1),
        "mask": np.ones((2, 7), np.int64), "choice": np.array(True),
    }  # fmt: skip
    context = Context(probe=functools.partial(probe, feeds=data))
    notes = QuantizeAttention(cache=cache).rewrite(after, context)
    assert not notes.caches
    assert len(notes.skips) == 1
    assert operator in {node.op_type for node in after.graph.all_nodes()}
    assert_close(before, after, data)


def test_an_older_runtime_whose_kernels_get_no_outer_weights_there_leaves_bodies_alone() -> None:
    text = """g (float[N, 64] x, bool c) => (float[N, 48] y, float[N, 48] z) {
        [outside] z = MatMul(x, v)
        [if] y = If(c) <then_branch = a () => (float[N, 48] p) { [n] p = MatMul(x, w) },
                        else_branch = b () => (float[N, 48] q) { q = Neg(z) }>
    }"""
    after, notes = quantized(graph(text, {"w": W, "v": V}), Context(outer_constants=False))
    assert [edit.node for edit in notes.edits] == ["outside"]
    assert ("if/then_branch:n", SkipReason.SUBGRAPH) in [(skip.node, skip.reason) for skip in notes.skips]
    assert operators(after) == {"ShiftMatMul": 1, "MatMul": 1}
