# SPDX-License-Identifier: Apache-2.0
"""What two runs tell of a model: shapes of all values, and which of the small ones vary."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import ModelError
from edgefold.probing import MAX_ELEMENTS, probe

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


def model(text: str, **initializers: np.ndarray) -> ir.Model:
    tensors = [ir.tensor(array, name=name) for name, array in initializers.items()]
    return ir.from_onnx_text(HEADER + text, initializers=tensors)


ATTENTION = """
g (float[N,T,12] x) => (float y) {
    s = Shape(x)
    d = Gather(s, two)
    f = Cast<to=1>(d)
    r = Sqrt(f)
    t = Gather(s, one)
    e = Cast<to=1>(t)
    q = CastLike(d, x)
    m = Mul(x, r)
    y = ReduceSum<keepdims=0>(m)
}
"""


def test_shapes_of_all_values() -> None:
    trace = probe(model(ATTENTION, one=np.array(1), two=np.array(2)))
    assert trace.shapes["x"] == trace.shapes["m"] == (2, 8, 12)
    assert trace.shapes["s"] == (3,)
    assert trace.shapes["one"] == trace.shapes["y"] == ()


def test_values_computed_from_sizes_and_which_of_them_vary() -> None:
    trace = probe(model(ATTENTION, one=np.array(1), two=np.array(2)))
    assert {"d", "f", "r", "q", "two"} <= set(trace.values) - trace.varying
    assert {"s", "t", "e"} <= trace.varying
    assert trace.static("r") == pytest.approx(np.sqrt(12))
    assert trace.static("t") is None
    assert "m" not in trace.values
    assert trace.dynamic == {("x", 0), ("x", 1), ("m", 0), ("m", 1)}


def test_integers_of_the_data_are_no_sizes() -> None:
    trace = probe(model("g (float[2,3] x) => (int64[2] y) { y = ArgMax<axis=1, keepdims=0>(x) }"))
    assert trace.shapes["y"] == (2,)
    assert "y" not in trace.values
    assert trace.dynamic == frozenset()


def test_large_values_are_not_kept() -> None:
    trace = probe(model("g (float[N,K] x) => (int64[L] y) { y = ConstantOfShape<value = int64[1] {7}>(size) }",
                        size=np.array([MAX_ELEMENTS + 1])))  # fmt: skip
    assert trace.shapes["y"] == (MAX_ELEMENTS + 1,)
    assert "y" not in trace.values


def test_dimensions_of_one_name_have_one_size() -> None:
    trace = probe(model("g (float[N,T] a, float[N,T] b) => (float[N,T] y) { y = Add(a, b) }"))
    assert trace.shapes["a"] == trace.shapes["b"]
    assert ("y", 1) in trace.dynamic


def test_a_batch_that_is_dynamic_by_name_only() -> None:
    """Nothing is known to be static then: the second size may have failed for another reason."""
    text = "g (float[N,T,4] x) => (float[1,T,4] y) { s = Shape(x) z = Reshape(x, flat) y = Reshape(z, sizes) }"
    trace = probe(model(text, flat=np.array([-1, 4]), sizes=np.array([1, 8, 4])))
    assert trace.shapes["x"] == (1, 8, 4)
    assert trace.dynamic == frozenset()
    assert trace.static("sizes") is not None
    assert trace.static("s") is None


def test_one_dynamic_axis_of_two() -> None:
    text = "g (float[N,T,4] x) => (float[1,T,4] y) { y = Reshape(x, sizes) }"
    trace = probe(model(text, sizes=np.array([1, -1, 4])), shapes={"x": (1, 6, 4)})
    assert trace.shapes["y"] == (1, 6, 4)
    assert trace.dynamic >= {("x", 1), ("y", 1)}


def test_no_size_that_works() -> None:
    with pytest.raises(ModelError, match="cannot run the model"):
        probe(model("g (float[N,T] x) => (float[N,A] y) { y = Reshape(x, sizes) }", sizes=np.array([11, 13])))


def test_given_shapes_and_feeds() -> None:
    text = "g (int64[N,T] ids) => (float[N,T,3] y) { y = Gather(table, ids) }"
    network = model(text, table=np.ones((5, 3), np.float32))
    assert probe(network, shapes={"ids": (4, 7)}).shapes["y"] == (4, 7, 3)
    feeds = {"ids": np.array([[4, 3, 4], [2, 1, 0], [0, 0, 0]])}
    trace = probe(network, feeds)
    assert trace.shapes["y"] == (2, 3, 3)  # two samples show what three would
    assert ("y", 0) in trace.dynamic
    assert ("y", 1) in trace.dynamic


def test_a_cache_that_is_still_empty_stays_so() -> None:
    """No data could be made of none; and one that holds something changes its size as all do."""
    decoder = model("g (float[n,s,4] x, float[n,past,4] cache) => (float[n,t,4] y) { y = Concat<axis=1>(cache, x) }")
    x = np.ones((2, 6, 4), np.float32)
    first = probe(decoder, {"x": x, "cache": np.ones((2, 0, 4), np.float32)})
    assert first.shapes["cache"] == (2, 0, 4)
    assert ("y", 1) in first.dynamic
    assert ("cache", 1) not in first.dynamic
    later = probe(decoder, {"x": x, "cache": np.ones((2, 2, 4), np.float32)})
    assert {("cache", 1), ("y", 1)} <= later.dynamic


def test_what_is_no_tensor_is_passed_over() -> None:
    text = "g (float[4,3] x) => (float[4,3] y) { s = SplitToSequence(x, two) y = ConcatFromSequence<axis=0>(s) }"
    trace = probe(model(text, two=np.array([2, 2])))
    assert "s" not in trace.shapes
    assert trace.shapes["y"] == (4, 3)


def test_the_model_is_left_alone() -> None:
    network = model(ATTENTION, one=np.array(1), two=np.array(2))
    before = ir.to_proto(network).SerializeToString()
    probe(network)
    assert ir.to_proto(network).SerializeToString() == before


def test_a_loop_hands_a_sequence_on() -> None:
    """As torch writes lists that a scripted loop fills."""
    text = """g (float[4,3] x) => (float[4,3] y) {
        n = Constant<value = int64 {4}>()
        yes = Constant<value = bool {1}>()
        empty = SequenceEmpty()
        s = Loop(n, yes, empty) <body = b (int64 i, bool c, seq(float[3]) t) => (bool d, seq(float[3]) u) {
            d = Identity(c)
            row = Gather(x, i)
            u = SequenceInsert(t, row)
        }>
        y = ConcatFromSequence<axis = 0, new_axis = 1>(s)
    }"""
    trace = probe(ir.from_onnx_text(HEADER + text))
    assert trace.shapes["y"] == (4, 3)
    assert "s" not in trace.shapes
