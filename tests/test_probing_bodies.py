# SPDX-License-Identifier: Apache-2.0
"""What a probe sees inside If, Loop and Scan: shapes, small values, how often they ran, and what changes meanwhile."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgefold.passes.pruning.groups import Trace
from edgefold.passes.pruning.prepare import prepare
from edgefold.probing import probe

CONSTANTS = {
    "five": np.array(5), "none": np.array(0), "once": np.array(1), "yes": np.array(True), "two": np.array(2),
    "row": np.array([1]), "nil": np.array(0, np.float32), "wrong": np.array([7, 11, -1]),
}  # fmt: skip


def traced(text: str, opset: int = 21, **nodes: str) -> Trace:
    """Nodes are named after their first output."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
    model = ir.from_proto(proto)
    for node in model.graph.all_nodes():
        node.name = node.outputs[0].name
    prepare(model)
    return probe(model)


LOOP = """
g (float[N,4] x) => (float[M,4] y) {
    y = Loop (TRIP, yes, x) <body = b (int64 i, bool c, float[M,4] s) => (bool c2, float[M,4] t) {
        c2 = Identity (c)
        n = Shape (s)
        w = Gather (n, once)
        h = Gather (n, none)
        j = Add (i, once)
        BODY
    }>
}
"""


def looped(body: str, trip: str = "five", opset: int = 21) -> Trace:
    return traced(LOOP.replace("TRIP", trip).replace("BODY", body), opset)


def test_shapes_and_values_of_a_body() -> None:
    trace = looped("t = Relu (s)")
    assert trace.shapes["s"] == trace.shapes["t"] == (2, 4)
    assert trace.shapes["y:body:runs"] == (5,)
    assert trace.static("w") == 4
    assert trace.static("h") is None  # the batch is another in the second run
    assert "j" not in trace.values  # counts iterations
    assert {("s", 0), ("t", 0)} <= trace.dynamic


def test_what_changes_from_iteration_to_iteration() -> None:
    trace = looped("t = Concat <axis = 0> (s, x)")
    assert trace.shapes["s"] == (2, 4)
    assert trace.shapes["t"] == (4, 4)
    assert {("s", 0), ("t", 0)} <= trace.dynamic
    assert ("t", 1) not in trace.dynamic
    assert trace.values["h"] == 2  # as it first was
    assert trace.static("h") is None
    assert trace.static("w") == 4


@pytest.mark.parametrize(("trip", "opset"), [("none", 21), ("five", 10)])
def test_bodies_that_are_not_seen(trip: str, opset: int) -> None:
    trace = looped("t = Relu (s)", trip, opset)
    assert trace.shapes["y"] == (2, 4)
    assert trace.shapes.keys().isdisjoint({"s", "t", "w", "y:body:runs"})


def test_one_iteration_that_changes_a_length_shows_too_little() -> None:
    assert "t" not in looped("t = Concat <axis = 0> (s, x)", "once").shapes
    assert "t" in looped("t = Relu (s)", "once").shapes


BRANCH = """
g (float[N,4] x) => (float[N,4] y) {
    s = ReduceSum <keepdims = 0> (x)
    c = Equal (s, s)
    y = If (c) <then_branch = t () => (float[N,4] p) { p = Relu (x) },
                else_branch = e () => (float[N,4] q) { n = Shape (x) w = Gather (n, once) q = OTHER }>
}
"""


def test_the_other_branch_is_run_too() -> None:
    trace = traced(BRANCH.replace("OTHER", "Neg (x)"))
    assert trace.shapes["q"] == (2, 4)
    assert trace.static("w") == 4
    assert (trace.shapes["y:then_branch:runs"], trace.shapes["y:else_branch:runs"]) == ((1,), (0,))


def test_a_branch_that_cannot_be_run() -> None:
    trace = traced(BRANCH.replace("OTHER", "Reshape (x, wrong)"))
    assert trace.shapes["p"] == (2, 4)
    assert trace.shapes.keys().isdisjoint({"q", "w", "y:else_branch:runs"})


def test_of_several_branches_one_that_cannot_be_run() -> None:
    second = """
    y = Identity (a)
    a = If (c) <then_branch = u () => (float[N,4] v) { v = Relu (z) },
                else_branch = f () => (float[N,4] o) { o = Neg (z) }>"""
    text = BRANCH.replace("y = If", "z = If").replace("OTHER", "Reshape (x, wrong)")
    first, last = second.strip().split("\n", 1)
    trace = traced(text.replace("}>\n}", "}>\n" + last + "\n    " + first + "\n}"))
    assert "q" not in trace.shapes
    assert trace.shapes["o"] == (2, 4)


def test_conditions_stay_where_a_loop_might_never_end() -> None:
    text = """
    g (float[N,4] x) => (float[N,4] y) {
        y = Loop (, yes, x) <body = b (int64 i, bool c, float[N,4] s) => (bool on, float[N,4] t) {
            z = Less (i, none)
            on = If (z) <then_branch = u () => (bool p) { p = Identity (yes) },
                         else_branch = f () => (bool q) { q = Less (i, two) }>
            t = Relu (s)
        }>
    }"""
    trace = traced(text)
    assert trace.shapes["y:body:runs"] == (3,)
    assert "q" in trace.shapes
    assert "p" not in trace.shapes


def test_a_truth_value_of_something_that_varies_is_not_static() -> None:
    text = """
    g (float[N,4] x) => (float[N,4] y) {
        n = Shape <start = 0, end = 1> (x)
        c = Equal (n, row)
        d = Not (c)
        w = Shape <start = 1, end = 2> (x)
        e = Equal (w, row)
        y = Relu (x)
    }"""
    trace = traced(text)
    assert (trace.static("c"), trace.static("d")) == (None, None)
    assert trace.static("e") is not None


def test_tables_of_bodies_in_bodies() -> None:
    text = """
    g (float[N,4] x) => (float[N,4] y) {
        y = Loop (five, yes, x) <body = b (int64 i, bool c, float[N,4] s) => (bool c2, float[N,4] t) {
            c2 = Identity (c)
            z = Less (i, two)
            t = If (z) <
                then_branch = u () => (float[N,4] p) { p = Relu (s) },
                else_branch = f () => (float[N,4] q) { q = Loop (i, yes, s) <
                    body = d (int64 j, bool e, float[N,4] k) => (bool e2, float[N,4] m) {
                        e2 = Identity (e) m = Neg (k) }> }>
        }>
    }"""
    shapes = traced(text).shapes
    places = ("y/body:t:then_branch", "y/body:t:else_branch", "y/body:t/else_branch:q:body")
    assert tuple(shapes[f"{place}:runs"] for place in places) == ((2,), (3,), (9,))
    assert shapes["m"] == shapes["p"] == shapes["q"] == (2, 4)


def test_branches_without_names_are_told_apart() -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        nc = Not (c)
        h = If (c) <then_branch = a () => (float[N,4] p) { p = Relu (x) },
                    else_branch = b () => (float[N,4] q) { q = Abs (x) }>
        y = If (nc) <then_branch = d () => (float[N,4] r) { r = Exp (h) },
                     else_branch = e () => (float[N,4] t) { t = Neg (h) }>
    }"""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    assert not any(node.name for node in proto.graph.node)
    trace = probe(ir.from_proto(proto))
    assert all(trace.shapes[name] == (2, 4) for name in "pqrt")
