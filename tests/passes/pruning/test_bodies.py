# SPDX-License-Identifier: Apache-2.0
"""If, Loop and Scan: their bodies lose channels like the main graph, where all that they touch is understood."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cut_oracle import Examined, assert_oracle, examine, outputs, some_units
from graphs import HEADER, weights
from numpy.typing import NDArray
from onnx import numpy_helper

from edgefold.calibration import Calibration
from edgefold.passes.base import Context, SkipReason
from edgefold.passes.prune_channels import PruneChannels
from edgefold.passes.pruning.budget import macs
from edgefold.probing import probe

W1, W2 = weights(6, 8) / 2, weights(8, 5, seed=1) / 2
NUMBERS: dict[str, NDArray[Any]] = {
    "five": np.array(5), "yes": np.array(True), "minus": np.array([-1]), "zero": np.array(0), "one": np.array([1]),
    "two": np.array([2]), "nil": np.array(0, np.float32),
}  # fmt: skip


def examined(text: str, **arrays: NDArray[Any]) -> Examined:
    words = set(re.findall(r"\w+", text))
    used = {name: array for name, array in NUMBERS.items() if name in words}
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in {**used, **arrays}.items())
    return examine(ir.from_proto(proto))


def assert_cuts(found: Examined, places: list[tuple[str, int]]) -> ir.Model:
    assert found.places() == places
    for share_removed in (0.2, 0.9):
        assert_oracle(found, some_units(found.dependencies, share_removed))
    return assert_oracle(found, some_units(found.dependencies, 0.5))


def why(found: Examined, node: str) -> str:
    return next(one.why for one in found.dependencies.barriers if one.op_type == node)


GRU = """
g (float[N,5,6] x) => (float[N,5] y OUT) {
    t = Transpose <perm = [1, 0, 2]> (x)
    n = Shape <start = 0, end = 1> (x)
    shape = Concat <axis = 0> (n, width)
    zeros = ConstantOfShape (shape)
    last, all = Loop (five, yes, zeros) <
        body = b (int64 i, bool c, float[N,8] h) => (bool c2, float[N,8] s, float[N,8] o) {
        c2 = Identity (c)
        step = Gather (t, i)
        from_x = MatMul (step, w)
        from_h = MatMul (h, r)
        zx, rx, nx = Split <axis = 1, num_outputs = 3> (from_x)
        zh, rh, nh = Split <axis = 1, num_outputs = 3> (from_h)
        za = Add (zx, zh)
        z = Sigmoid (za)
        ra = Add (rx, rh)
        q = Sigmoid (ra)
        m = Mul (q, nh)
        na = Add (nx, m)
        cand = Tanh (na)
        d = Sub (h, cand)
        e = Mul (z, d)
        s = Add (cand, e)
        o = Identity (s)
    }>
    both = ReduceSum <keepdims = 0> (all, first)
    sum = Add (last, both)
    y = MatMul (sum, v)
}
"""
GRU_WEIGHTS = {
    "w": weights(6, 24) / 3, "r": weights(8, 24, seed=2) / 3, "v": W2, "width": np.array([8]), "first": np.array([0]),
}  # fmt: skip


def test_a_gru_written_as_a_loop() -> None:
    found = examined(GRU.replace("OUT", ""), **GRU_WEIGHTS)
    small = assert_cuts(found, [("r.0 r.1 v.0 w.1", 8)])
    assert small.graph.initializers["r"].const_value.numpy().shape == (4, 12)
    # Five steps of two products with 2 samples, and the last one: in MACs.
    assert macs(found.dependencies, found.trace)({}) == 5 * 2 * (6 * 24 + 8 * 24) + 2 * 8 * 5


def test_a_state_that_is_an_output_stays() -> None:
    found = examined(GRU.replace("OUT", ", float[N,8] last"), **GRU_WEIGHTS)
    assert found.places() == []
    assert "interface" in why(found, "graph output")


IF = """
g (float[N,6] x) => (float[N,5] y) {
    h = MatMul (x, w1)
    s = ReduceSum <keepdims = 0> (h)
    c = Greater (s, nil)
    k = If (c) <then_branch = t () => (float[N,8] p) { a = Relu (h) p = MatMul (a, wt) },
                else_branch = e () => (float[N,8] q) { a = Neg (h) b = Mul (a, scale) q = ELSE (b, we) }>
    y = MatMul (k, w2)
}
"""
BRANCHES = {"wt": weights(8, 8, seed=4), "we": weights(8, 8, seed=5), "scale": weights(8, seed=6)}


def test_both_branches_and_the_node_give_the_same_channels() -> None:
    found = examined(IF.replace("ELSE", "MatMul"), w1=W1, w2=W2, **BRANCHES)
    assert_cuts(found, [("scale.0 w1.1 we.0 wt.0", 8), ("w2.0 we.1 wt.1", 8)])


def test_a_branch_that_cannot_be_run_holds_what_it_touches() -> None:
    """Elements of another count, so that no run gets through it."""
    text = IF.replace("Greater (s, nil)", "Equal (s, s)").replace("q = ELSE (b, we)", "q = Reshape (b, wrong)")
    found = examined(text, w1=W1, w2=W2, wrong=np.array([-1, 7, 11]), **BRANCHES)
    assert found.places() == []
    assert "not run at any size" in why(found, "If")
    assert len(found.dependencies.barriers) == 2


def test_what_branches_give_in_two_lengths_stays() -> None:
    text = IF.replace("q = ELSE (b, we)", "q = Gather <axis = 1> (b, few)").replace("float[N,8]", "float[N,M]")
    text = text.replace("y = MatMul (k, w2)", "all = ReduceSum <keepdims = 1> (k, last) y = MatMul (all, w2)")
    found = examined(text, w1=W1, w2=weights(1, 5), few=np.array([1, 3]), last=np.array([-1]), **BRANCHES)
    assert found.places() == [("scale.0 w1.1 wt.0", 6)]  # all but the two that the other branch gives
    assert_oracle(found, some_units(found.dependencies, 0.5))


SCAN = """
g (float[N,5,6] x) => (float[N,5,5] y) {
    n = Shape <start = 0, end = 1> (x)
    shape = Concat <axis = 0> (n, width)
    zeros = Expand (nil, shape)
    last, all = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1], scan_output_axes = [-2],
        body = b (float[N,8] h, float[N,6] step) => (float[N,8] h2, float[N,8] o) {
            a = MatMul (step, w1)
            b = MatMul (h, r)
            s = Add (a, b)
            h2 = Tanh (s)
            o = Relu (h2)
        }> (zeros, x)
    y = MatMul (all, w2)
}
"""


def test_a_scan() -> None:
    found = examined(SCAN, w1=W1, w2=W2, r=weights(8, 8, seed=3) / 3, width=np.array([8]))
    assert_cuts(found, [("r.0 r.1 w1.1 w2.0", 8)])


NESTED = """
g (float[N,5,6] x, float[N,8] start) => (float[N,5] y) {
    h0 = MatMul (start, w0)
    last = Loop (five, yes, h0) <body = b (int64 i, bool c, float[N,8] h) => (bool c2, float[N,8] h2) {
        c2 = Identity (c)
        step = Gather <axis = 1> (x, i)
        a = MatMul (step, w1)
        bit = Mod (i, pair)
        odd = Cast <to = 9> (bit)
        given = If (odd) <then_branch = t () => (float[N,8] p) { v = Add (a, bias) p = Relu (v) },
                          else_branch = e () => (float[N,8] q) { q = Loop (INNER, yes, a) <
                              body = d (int64 i, bool c, float[N,8] v) => (bool f, float[N,8] w) {
                                  f = Identity (c) z = MatMul (v, r) w = Tanh (z) }> }>
        s = Add (given, h)
        h2 = Tanh (s)
    }>
    y = MatMul (last, w2)
}
"""
NESTED_WEIGHTS = {
    "w0": weights(8, 8, seed=7), "w1": W1, "w2": W2, "r": weights(8, 8, seed=3) / 3, "bias": weights(8),
    "pair": np.array(2), "three": np.array(3),
}  # fmt: skip


@pytest.mark.parametrize("inner", ["three", "i"])
def test_bodies_in_bodies(inner: str) -> None:
    found = examined(NESTED.replace("INNER", inner), **NESTED_WEIGHTS)
    assert_cuts(found, [("bias.0 r.0 r.1 w0.1 w1.1 w2.0", 8)])
    runs = {name: shape for name, shape in found.trace.shapes.items() if name.endswith(":runs")}
    # Of the steps 0 to 4 two are odd; the inner loop runs at 0, 2 and 4.
    assert sorted(runs.values()) == sorted([(5,), (2,), (3,), (9,) if inner == "three" else (6,)])


LOOP = """
g (float[N,6] x) => (float[N,5] y) {
    h = MatMul (x, w1)
    last = Loop (TRIP, yes, h) <body = b (int64 i, bool c, float[N,8] s) => (bool c2, float[N,8] s2) {
        c2 = Identity (c) BODY
    }>
    y = MatMul (last, w2)
}
"""


def looped(body: str, trip: str = "five", **arrays: NDArray[Any]) -> Examined:
    return examined(LOOP.replace("TRIP", trip).replace("BODY", body), w1=W1, w2=W2, **arrays)


def test_a_loop_that_never_ran_holds_what_it_touches() -> None:
    found = looped("s2 = Relu (s)", trip="zero")
    assert found.places() == []
    assert "not run at any size" in why(found, "Loop")


def test_a_weight_read_in_a_body_and_outside_stays_one() -> None:
    text = LOOP.replace("TRIP", "five").replace("BODY", "a = MatMul (s, t) s2 = Tanh (a)")
    text = text.replace("h = MatMul (x, w1)", "g = MatMul (x, w1) h = MatMul (g, t)")
    found = examined(text, w1=W1, w2=W2, t=weights(8, 8, seed=2) / 3)
    assert_cuts(found, [("t.0 t.1 t_2.0 t_2.1 w1.1 w2.0", 8)])
    assert sum(name.startswith("t") for name in assert_cuts(found, found.places()).graph.initializers) == 1


def test_stored_tensors_of_a_body_are_parameters() -> None:
    found = looped("k = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> () a = Mul (s, k) s2 = Tanh (a)")
    assert_cuts(found, [("k.0 w1.1 w2.0", 8)])


def test_a_body_that_gives_a_stored_tensor() -> None:
    found = looped("s2 = Constant <value = float[1, 8] {1, 2, 3, 4, 5, 6, 7, 8}> ()")
    assert_oracle(found, some_units(found.dependencies, 0.5))


def test_sizes_computed_in_a_body_follow() -> None:
    body = """n = Shape <start = 0, end = 1> (s) k = Shape <start = 1, end = 2> (s) half = Div (k, two)
              sizes = Concat <axis = 0> (n, two, half) a = Reshape (s, sizes) b = Relu (a)
              whole = Shape (s) s2 = Reshape (b, whole)"""
    found = looped(body, two=np.array([2]))
    assert found.places() != []
    assert_cuts(found, found.places())


SIZE = """
g (float[N,6] x) => (float[N,5] y, int64[1] z) {
    h = MatMul (x, w1)
    n = Shape <start = 0, end = 1> (h)
    s = ReduceSum <keepdims = 0> (h)
    c = Greater (DECIDES)
    size = If (c) <then_branch = t () => (int64[1] p) { p = Shape <start = 1, end = 2> (h) },
                   else_branch = e () => (int64[1] q) { q = Shape <start = 1, end = 2> (h) }>
    z = Identity (size)
    shape = Concat <axis = 0> (minus, size)
    r = Relu (h)
    k = Reshape (r, shape)
    y = MatMul (k, w2)
}
"""


def test_a_size_that_a_body_gives_is_the_one_that_it_was() -> None:
    small = assert_cuts(examined(SIZE.replace("DECIDES", "n, one"), w1=W1, w2=W2), [("w1.1 w2.0", 8)])
    assert outputs(small, {"x": weights(2, 6)})["z"] == 8


def test_a_size_that_the_data_decide_holds_what_it_shapes() -> None:
    found = examined(SIZE.replace("DECIDES", "s, nil"), w1=W1, w2=W2)
    assert found.places() == []
    assert "shape are computed from data" in why(found, "Reshape")


def test_a_state_that_grows() -> None:
    """Rows are added to it; its columns may still go."""
    text = LOOP.replace("TRIP", "five").replace("BODY", "a = Relu (h) s2 = Concat <axis = 0> (s, a)")
    found = examined(text.replace("float[N,8]", "float[M,8]").replace("(float[N,5] y)", "(float[L,5] y)"), w1=W1, w2=W2)
    assert_cuts(found, [("w1.1 w2.0", 8)])


def test_a_state_that_changed_its_length_once() -> None:
    """One iteration does not show what the next would do."""
    text = LOOP.replace("BODY", "a = Relu (h) s2 = Concat <axis = 0> (s, a)").replace("TRIP", "once")
    text = text.replace("float[N,8]", "float[M,8]").replace("(float[N,5] y)", "(float[L,5] y)")
    assert examined(text, w1=W1, w2=W2, once=np.array(1)).places() == []


@pytest.mark.parametrize("through", ["", "k2 = Identity (k) k3 = Identity (k2)"])
def test_unchanging_states_are_read_from_outside(through: str) -> None:
    """As Keras hands its weights through."""
    text = f"""
    g (float[N,6] x) => (float[N,5] y) {{
        h = MatMul (x, w1)
        same, last = Loop (five, yes, r, h) <
            body = b (int64 i, bool c, float[8,8] k, float[N,8] s) => (bool c2, float[8,8] GIVEN, float[N,8] s2) {{
                c2 = Identity (c) a = MatMul (s, k) s2 = Tanh (a) {through} }}>
        y = MatMul (last, w2)
    }}""".replace("GIVEN", "k3" if through else "k")
    found = examined(text, w1=W1, w2=W2, r=weights(8, 8, seed=2) / 3)
    (loop,) = [node for node in found.model.graph if node.op_type == "Loop"]
    assert (len(loop.inputs), len(loop.outputs)) == (3, 1)
    assert_cuts(found, [("r.0 r.1 w1.1 w2.0", 8)])


def test_a_branch_by_the_batch_is_still_decided_at_run_time() -> None:
    text = """
    g (float[N,6] x) => (float[N,5] y) {
        h = MatMul (x, w1)
        n = Shape <start = 0, end = 1> (x)
        single = Equal (n, one)
        k = If (single) <then_branch = t () => (float[N,8] p) { p = Neg (h) },
                         else_branch = e () => (float[N,8] q) { q = Relu (h) }>
        y = MatMul (k, w2)
    }"""
    found = examined(text, w1=W1, w2=W2)
    small = assert_cuts(found, [("w1.1 w2.0", 8)])
    assert "If" in {node.op_type for node in small.graph}


def test_layers_in_bodies_keep_their_weights_and_are_named() -> None:
    found = examined(IF.replace("ELSE", "MatMul"), w1=W1, w2=W2, **BRANCHES)
    model = found.model.clone()
    batches = [{"x": weights(16, 6, seed=seed)} for seed in range(4)]
    notes = PruneChannels(flops=0.3).rewrite(
        model, Context(probe=probe, calibration=Calibration(model, lambda: batches))
    )
    said = {(skip.node, skip.detail) for skip in notes.skips if skip.reason == SkipReason.SUBGRAPH}
    inside = {
        str(node.name) for node in model.graph.all_nodes() if node.op_type == "MatMul" and node.graph is not model.graph
    }
    assert {node for node, detail in said if "no refit" in detail} == inside
    assert {node for node, detail in said if "weights alone" in detail} == inside
    assert any(edit.what.startswith("refitted") for edit in notes.edits)  # w2, in the main graph
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
