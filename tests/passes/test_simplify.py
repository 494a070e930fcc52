# SPDX-License-Identifier: Apache-2.0
"""Simplify: what onnx-ir and onnxscript remove, and what we do not let them touch."""

from __future__ import annotations

import numpy as np
from graphs import Array, graph, nodes, run, weights

from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.quantize import Quantize
from edgefold.passes.simplify import Simplify


def simplified(text: str, initializers: dict[str, Array]) -> tuple[list[str], Notes]:
    before = graph(text, initializers)
    after = before.clone()
    notes = Simplify().rewrite(after, Context())
    x = weights(2, 4)
    for wanted, got in zip(run(before, {"x": x}), run(after, {"x": x}), strict=True):
        assert np.array_equal(wanted, got)
    for old, new in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        assert [(v.name, v.dtype, str(v.shape)) for v in old] == [(v.name, v.dtype, str(v.shape)) for v in new]
    return nodes(after), notes


def test_constants_fold_and_identities_go() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        two = Constant<value_float = 2.0>()
        half = Reciprocal(two)
        i = Identity(x)
        y = Mul(i, half)
    }"""
    found, notes = simplified(text, {})
    assert found == ["y = Mul(x, half)"]
    assert notes.stats["nodes_before"] == 4
    assert notes.stats["nodes_after"] == 1


def test_equal_nodes_and_equal_constants_are_merged() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = Add(x, p)\n b = Add(x, q)\n y = Mul(a, b) }"
    found, _ = simplified(text, {"p": weights(4), "q": weights(4)})
    assert found == ["a = Add(x, p)", "y = Mul(a, a)"]


def test_unused_nodes_go() -> None:
    found, notes = simplified("g (float[N, 4] x) => (float[N, 4] y) { u = Exp(x)\n y = Abs(x) }", {})
    assert found == ["y = Abs(x)"]
    assert [(edit.node, edit.what) for edit in notes.edits] == [("u", "removed Exp")]


def test_an_output_that_is_an_input_stays() -> None:
    found, _ = simplified("g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Identity(x)\n z = Abs(x) }", {})
    assert found == ["y = Identity(x)", "z = Abs(x)"]


def test_nothing_to_do_is_said() -> None:
    _, notes = simplified("g (float[N, 4] x) => (float[N, 4] y) { [a] y = Abs(x) }", {})
    assert not notes.edits
    assert [skip.reason for skip in notes.skips] == [SkipReason.NOTHING_TO_GAIN]


def test_a_large_expansion_is_not_folded() -> None:
    text = "g (float[N, 4] x) => (float[1000, 1000] y) { e = Expand(c, s)\n t = ReduceSum(x)\n y = Add(e, t) }"
    found, _ = simplified(text, {"c": np.ones(1, np.float32), "s": np.array([1000, 1000])})
    assert found[0] == "e = Expand(c, s)"


def test_a_quantized_weight_is_not_taken_apart() -> None:
    text = "g (float[N, 4] x) => (float[N, 3] y) { w = DequantizeLinear(q, s)\n y = MatMul(x, w) }"
    found, _ = simplified(text, {"q": np.ones((4, 3), np.int8), "s": np.array(0.5, np.float32)})
    assert found == ["w = DequantizeLinear(q, s)", "y = MatMul(x, w)"]


def test_functions_of_a_compressed_model_stay() -> None:
    model = graph(
        "g (float[N, 64] x) => (float[N, 48] y) { i = Identity(x)\n y = MatMul(i, w) }", {"w": weights(64, 48)}
    )
    Quantize().rewrite(model, Context())
    functions = set(model.functions)
    Simplify().rewrite(model, Context())
    assert [node.op_type for node in model.graph] == ["ShiftMatMul"]
    assert set(model.functions) == functions
    run(model, {"x": weights(2, 64)})


def test_a_folded_transposition_is_stored_row_by_row() -> None:
    """Arrays that are views of others cannot be hashed, which ended the pass."""
    text = "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul(x, w)\n t = Transpose(w)\n y = MatMul(a, t) }"
    found, _ = simplified(text, {"w": weights(4, 6)})
    assert found == ["a = MatMul(x, w)", "y = MatMul(a, t)"]


def test_what_a_body_gives_is_made_by_a_node_of_its_own() -> None:
    """Identities of outer values and constants that bodies give, as torch writes scripted branches and loops."""
    text = """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) {
        zero = Constant<value_float = 0.0>()
        s = ReduceSum<keepdims = 0>(x)
        c = Greater(s, zero)
        other = Constant<value = float[1, 4] {1, 2, 3, 4}>()
        shifted = Add(x, other)
        y = If(c) <then_branch = a () => (float[N, 4] p) { p = Neg(x) },
                   else_branch = b () => (float[N, 4] q) { q = Identity(shifted) }>
        three = Constant<value = int64 {3}>()
        yes = Constant<value = bool {1}>()
        z = Loop(three, yes, x) <body = l (int64 i, bool d, float[N, 4] h) => (bool e, float[N, 4] t) {
            e = Identity(yes)
            t = Tanh(h)
        }>
    }"""
    simplified(text, {})


def test_a_branch_may_be_nothing_but_a_constant_of_the_graph_around() -> None:
    text = """g (float[2, 4] x) => (float[2, 4] y) {
        zero = Constant<value_float = 0.0>()
        s = ReduceSum<keepdims = 0>(x)
        c = Greater(s, zero)
        y = If(c) <then_branch = a () => (float[2, 4] p) { p = Neg(x) },
                   else_branch = b () => (float[2, 4] q) { q = Identity(k) }>
    }"""
    simplified(text, {"k": weights(2, 4)})


def test_a_branch_that_gives_what_lies_outside_keeps_the_node_that_does() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y, float[N, 4] h) {
        h = Neg(x)
        n = Shape<start = 0, end = 1>(x) two = Constant<value_ints = [2]>() c = Equal(n, two)
        y = If(c) <then_branch = a () => (float[N, 4] p) { p = Identity(h) },
                   else_branch = b () => (float[N, 4] q) { r = Identity(h) q = Abs(r) }>
    }"""
    found, _ = simplified(text, {})
    assert found[0] == "h = Neg(x)"
    assert found[-1].startswith("y = If(")
