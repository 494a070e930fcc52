# SPDX-License-Identifier: Apache-2.0
"""Tensors of bodies become outputs of the model: of the branch that ran, of all iterations, of bodies within bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.calibration import Calibration
from edgefold.errors import ModelError
from edgefold.exposed_tensors import Exposed
from edgefold.passes._layer_inputs import Rows
from edgefold.session import make_session

Array = np.ndarray
HEADER = '<ir_version: 10, opset_import: ["" : 21]>'
BRANCHES = """g (float[n, 2] x, bool c) => (float[n, 2] y) {
    y = If(c) <then_branch = a () => (float[n, 2] p) { h = Neg(x) p = Abs(h) },
               else_branch = b () => (float[n, 2] q) { k = Mul(x, x) q = Relu(k) }>
}"""
LOOP = """g (float[n, 2] x, int64 trips, bool c) => (float[n, 2] y) {
    yes = Constant<value = bool {1}>()
    y = Loop(trips, yes, x) <body = l (int64 i, bool go, float[n, 2] s) => (bool on, float[n, 2] t) {
        on = Identity(go)
        t = If(c) <then_branch = a () => (float[n, 2] p) { d = Add(s, s) p = Identity(d) },
                   else_branch = b () => (float[n, 2] q) { q = Neg(s) }>
    }>
}"""
SCAN = """g (float[3, 2] x) => (float[2] y, float[3, 2] z) {
    zero = Constant<value_floats = [0.0, 0.0]>()
    y, z = Scan<num_scan_inputs = 1, scan_output_directions = [0], body = b (float[2] h, float[2] xt)
        => (float[2] next, float[2] out) { next = Add(h, xt) out = Neg(next) }>(zero, x)
}"""
X = np.array([[1, -2], [3, 4]], np.float32)


def model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(HEADER + text))


def seen(text: str, names: Sequence[str], feeds: Mapping[str, object], *, as_shapes: bool = False) -> dict[str, Array]:
    exposed = Exposed(model(text), names, as_shapes=as_shapes)
    session = make_session(exposed.model)
    return exposed.read(session.run(exposed.outputs, {name: np.asarray(value) for name, value in feeds.items()}))


def assert_seen(found: Mapping[str, Array], **wanted: object) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], np.asarray(value))


def test_the_branch_that_runs() -> None:
    names = ("x", "h", "k", "y", "p")
    assert_seen(seen(BRANCHES, names, {"x": X, "c": True}), x=X, h=-X, y=np.abs(X), p=np.abs(X))
    assert_seen(seen(BRANCHES, names, {"x": X, "c": False}), x=X, k=X * X, y=X * X)


def test_shapes() -> None:
    found = seen(BRANCHES, ("h", "x"), {"x": X, "c": True}, as_shapes=True)
    assert_seen(found, h=[2, 2], x=[2, 2])


def test_all_iterations_and_a_branch_within() -> None:
    feeds = {"x": X, "trips": 3, "c": True}
    assert_seen(
        seen(LOOP, ("s", "d"), feeds), s=np.concatenate([X, 2 * X, 4 * X]), d=np.concatenate([2 * X, 4 * X, 8 * X])
    )
    assert_seen(seen(LOOP, ("s", "d"), {**feeds, "c": False}), s=np.concatenate([X, -X, X]))
    assert_seen(seen(LOOP, ("s", "d"), {**feeds, "trips": 0}))


def test_a_scan() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert_seen(seen(SCAN, ("next",), {"x": x}), next=x.cumsum(0))


def test_scalars_of_iterations_are_joined_to_a_vector() -> None:
    found = seen(LOOP, ("i", "on"), {"x": X, "trips": 3, "c": True})
    assert_seen(found, i=[0, 1, 2], on=[True] * 3)


def test_what_cannot_be_seen_is_named() -> None:
    with pytest.raises(ModelError, match="no tensor 'nothing'"):
        Exposed(model(BRANCHES), ["nothing"])
    foreign = """g (float[n, 2] x) => (float[n, 2] y) {
        y = own.Repeat<body = b () => (float[n, 2] p) { h = Neg(x) p = Abs(h) }>(x)
    }"""
    with pytest.raises(ModelError, match="'h' is inside an operator"):
        Exposed(model(foreign), ["h"])


def test_calibration_sees_the_batches_in_which_a_branch_runs() -> None:
    batches = [{"x": X * scale, "c": np.array(choice)} for scale, choice in ((1, True), (5, False), (2, True))]
    calibration = Calibration(model(BRANCHES), lambda: iter(batches))
    ranges = calibration.ranges(["h", "k", "x"])
    assert (ranges["h"].low, ranges["h"].high) == (-8, 4)
    assert ranges["k"].high == 400
    assert (ranges["x"].low, ranges["x"].high) == (-10, 20)
    moments = calibration.moments([Rows("h")])[Rows("h")]
    np.testing.assert_allclose(moments.xtx[0], 5 * X.T @ X)


def test_calibration_says_nothing_of_a_branch_that_never_runs() -> None:
    calibration = Calibration(model(BRANCHES), lambda: iter([{"x": X, "c": np.array(True)}]))
    assert not calibration.ranges(["k"])["k"].seen
    assert not calibration.moments([Rows("k")])
    assert not calibration.rows([Rows("k")], 10)


def test_branches_compute_no_more_than_is_read() -> None:
    exposed = Exposed(model(BRANCHES), ["h"])
    kept = [node.op_type for node in exposed.model.graph.all_nodes() if node.op_type not in ("Constant", "Identity")]
    assert kept == ["If", "Neg"]
    within = Exposed(model(LOOP), ["d"])  # the Loop goes on with what its branches give
    assert {"Loop", "If", "Add", "Neg"} <= {node.op_type for node in within.model.graph.all_nodes()}
