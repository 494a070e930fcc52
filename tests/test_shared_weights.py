# SPDX-License-Identifier: Apache-2.0
"""Sessions of models with large weights: they read them where they are, and write nothing."""

from __future__ import annotations

import gc
import tempfile
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from edgefold.files.serialization import serialize
from edgefold.session import make_session
from edgefold.shared_weights import share_weights

SIDE = 64  # 16 KB a matrix
MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n, 64] x, bool c) => (float[n, 64] y) {
    h = MatMul (x, w)
    t = CastLike (tail, h)
    b = Add (h, t)
    y = If (c) <
        then_branch = a () => (float[n, 64] p) { p = MatMul (b, w) },
        else_branch = e () => (float[n, 64] q) { q = Identity (b) }>
}"""


def matrix(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((SIDE, SIDE)).astype(np.float32)


def model(**more: np.ndarray[Any, Any]) -> ir.Model:
    tensors = {"w": matrix(0), "tail": np.ones(SIDE, np.float32), **more}
    return ir.from_onnx_text(MODEL, initializers=[ir.tensor(array, name=name) for name, array in tensors.items()])


def inputs() -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.ones((2, SIDE), np.float32), "c": np.array(True)}


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefold.files.external.EXTERNAL_ABOVE", 0)


@pytest.fixture
def nothing_may_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefold.shared_weights.EXTERNAL_ABOVE", SIDE * 4)


@pytest.mark.usefixtures("everything_is_large")
def test_a_session_computes_the_same_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_session(serialize(model())).run(None, inputs())[0]
    monkeypatch.setattr(tempfile, "TemporaryDirectory", None)
    assert np.array_equal(make_session(model()).run(None, inputs())[0], expected)


@pytest.mark.usefixtures("everything_is_large")
def test_weights_live_as_long_as_the_session_that_points_into_them() -> None:
    whole = model()
    weight = whole.graph.initializers["w"].const_value
    assert weight is not None
    alive = weakref.ref(weight.numpy())
    session = make_session(whole)
    del whole, weight
    gc.collect()
    assert alive() is not None
    assert session.run(None, inputs())[0].shape == (2, SIDE)
    del session
    gc.collect()
    assert alive() is None


def test_small_tensors_and_those_that_nothing_reads_stay_inside() -> None:
    """ONNX Runtime refuses to be given what it does not find in the graph."""
    whole = model()
    whole.graph.initializers.add(ir.val("unread", const_value=ir.tensor(matrix(1), name="unread")))
    shared = share_weights(whole)
    assert shared is not None
    assert shared.arrays.keys() == {"w"}


def test_a_weight_that_a_caller_may_replace_stays_inside() -> None:
    default = model()
    default.graph.inputs.append(default.graph.initializers["w"])
    shared = share_weights(default)
    assert shared is not None
    assert not shared.arrays


@pytest.mark.usefixtures("nothing_may_stay_inside")
def test_where_too_much_would_stay_inside_nothing_is_shared() -> None:
    assert share_weights(model()) is not None
    half = model(tail=np.ones((SIDE, SIDE)).astype(ml_dtypes.bfloat16))  # a type that numpy lacks
    assert share_weights(half) is None
    message = ir.from_proto(ir.to_proto(model()))  # its arrays would be copies
    assert share_weights(message) is None
    body = model()
    (branches,) = (node for node in body.graph if node.op_type == "If")
    inside = branches.attributes["else_branch"].as_graph()
    inside.initializers.add(ir.val("own", const_value=ir.tensor(matrix(2), name="own")))
    assert share_weights(body) is None


@pytest.mark.usefixtures("everything_is_large", "nothing_may_stay_inside")
def test_what_is_not_shared_is_opened_from_a_file() -> None:
    half = model(tail=np.ones((SIDE, SIDE)).astype(ml_dtypes.bfloat16))
    fed = {**inputs(), "x": np.ones((SIDE, SIDE), np.float32)}
    expected = make_session(serialize(half)).run(None, fed)[0]
    assert np.array_equal(make_session(half).run(None, fed)[0], expected)
