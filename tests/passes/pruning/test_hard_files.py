# SPDX-License-Identifier: Apache-2.0
"""What exporters do to weights and constants: every way in which a model of two layers may be written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cut_oracle import assert_oracle, examine, some_units
from graphs import HEADER, weights
from onnx import TensorProto, helper, numpy_helper

IN_OUT = "g (float[N,7] x) => (float[N,5] y) "
W1, W2 = weights(7, 8), weights(8, 5, seed=1)


def model(text: str, header: str = HEADER, **arrays: np.ndarray) -> ir.Model:
    """From text and initializers, through a file's bytes."""
    proto = onnx.parser.parse_model(header + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(proto)


WAYS = {
    "transposed": ("{t = Transpose<perm=[1,0]>(w1) h = MatMul(x, t) y = MatMul(h, w2)}", {"w1": W1.T.copy(), "w2": W2}),
    "through identity and cast": (
        "{i = Identity(w1) c = Cast<to=1>(i) h = MatMul(x, c) y = MatMul(h, w2)}",
        {"w1": W1.astype(np.float64), "w2": W2},
    ),
    "joined from parts": (
        "{c = Concat<axis=1>(a, b) h = MatMul(x, c) y = MatMul(h, w2)}",
        {"a": W1[:, :3].copy(), "b": W1[:, 3:].copy(), "w2": W2},
    ),
    "filled with a constant": (
        "{c = ConstantOfShape<value=float[1] {0.5}>(shape) h = MatMul(x, c) y = MatMul(h, w2)}",
        {"shape": np.array([7, 8]), "w2": W2},
    ),
    "as a Constant node": (
        "{c = Constant<value=float[2,2] {1, 2, 3, 4}>() s = Slice(x, zero, two, one)"
        " h = MatMul(s, c) y = MatMul(h, w2)}",
        {"w2": weights(2, 5), "zero": np.array([0]), "two": np.array([2]), "one": np.array([1])},
    ),
    "one vector is the shape of two reshapes and the axes of a sum": (
        "{h = MatMul(x, w1) r = Reshape(h, v) s = ReduceSum<keepdims=1>(r, one) t = Squeeze(s, one) u = MatMul(t, w2)"
        " r2 = Reshape(u, one_five) y = Reshape(r2, one_five)}",
        {"w1": W1, "v": np.array([-1, 1, 8]), "one": np.array([1]), "w2": W2, "one_five": np.array([-1, 5])},
    ),
    "a bias that two layers share": (
        "{h = Gemm(x, w1, b) g = Gemm(h, w3, b) y = MatMul(g, w2)}",
        {"w1": W1, "w3": weights(8, 8, seed=3), "b": weights(8, seed=2), "w2": W2},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_weights_down_can_be_pruned(way: str) -> None:
    text, arrays = WAYS[way]
    examined = examine(model(IN_OUT + text, **arrays))
    pruned = some_units(examined.dependencies, 0.5)
    assert pruned
    assert_oracle(examined, pruned)


def test_half_precision() -> None:
    text = "g (float16[N,7] x) => (float16[N,5] y) {h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)}"
    examined = examine(model(text, w1=W1.astype(np.float16), w2=W2.astype(np.float16)))
    assert examined.places() == [("w1.1 w2.0", 8)]
    assert_oracle(examined, some_units(examined.dependencies, 0.5), tolerance=2e-3)


def test_initializers_that_are_inputs_as_well() -> None:
    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", "N", 7), value("w1", 7, 8), value("w2", 8, 5)],
        [value("y", "N", 5)],
        [numpy_helper.from_array(W1, "w1"), numpy_helper.from_array(W2, "w2")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)
    examined = examine(ir.from_proto(proto))
    small = assert_oracle(examined, some_units(examined.dependencies, 0.5))
    assert [one.name for one in small.graph.inputs] == ["x"]


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21, 23])
def test_sizes_are_attributes_or_inputs_by_opset(opset: int) -> None:
    split = "Split<axis=1, split=[3,5]>(h)" if opset < 13 else "Split<axis=1>(h, sizes)"
    flat = "Unsqueeze<axes=[1]>(r)" if opset < 13 else "Unsqueeze(r, one)"
    back = "Squeeze<axes=[1]>(u)" if opset < 13 else "Squeeze(u, one)"
    text = f"{{h = MatMul(x, w1) a, b = {split} r = Relu(b) u = {flat} s = {back} c = Concat<axis=1>(s, a)"
    text += " y = MatMul(c, w2)}"
    arrays = {"w1": W1, "w2": W2}
    arrays |= {} if opset < 13 else {"sizes": np.array([3, 5]), "one": np.array([1])}
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
    examined = examine(model(IN_OUT + text, header, **arrays))
    assert examined.places() == [("w1.1 w2.0", 8)]
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def test_what_a_branch_reads_goes() -> None:
    text = (
        "{h = MatMul(x, w1) s = ReduceSum<keepdims=0>(h) z = Greater(s, zero)"
        " k = If<then_branch = t () => (float[N,8] p) {p = Relu(h)},"
        " else_branch = e () => (float[N,8] q) {q = Neg(h)}>(z)"
        " m = MatMul(k, w3) y = MatMul(m, w2)}"
    )
    examined = examine(model(IN_OUT + text, w1=W1, w3=weights(8, 8, seed=4), w2=W2, zero=np.zeros((), np.float32)))
    assert examined.places() == [("w1.1 w3.0", 8), ("w2.0 w3.1", 8)]
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def test_weights_beside_the_file(tmp_path: Path) -> None:
    plain = model(IN_OUT + "{h = MatMul(x, w1) y = MatMul(h, w2)}", w1=W1, w2=W2)
    ir.save(plain, tmp_path / "m.onnx", external_data="m.data")
    examined = examine(ir.load(tmp_path / "m.onnx"))
    assert examined.places() == [("w1.1 w2.0", 8)]


def test_pruned_models_can_be_pruned_again() -> None:
    once = examine(model(IN_OUT + "{h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)}", w1=W1, w2=W2))
    twice = examine(assert_oracle(once, some_units(once.dependencies, 0.5)))
    assert twice.places() == [("w1.1 w2.0", 4)]
    assert_oracle(twice, some_units(twice.dependencies, 0.5))
