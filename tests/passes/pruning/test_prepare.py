# SPDX-License-Identifier: Apache-2.0
"""The form in which channels are cut: an initializer for every use, and no stored tensor behind a node."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import Array, graph, nodes, run, weights

from edgefold.passes.pruning.prepare import prepare, share

X = {"x": weights(2, 6, seed=9)}


def prepared(text: str, **initializers: Array) -> tuple[ir.Model, ir.Model, tuple[tuple[str, ...], ...]]:
    """The model before and after, and the ties; both give the same bits."""
    before = graph(f"g (float[2,6] x) => (float[2,K] y) {{ {text} }}", initializers)
    after = before.clone()
    ties = prepare(after)
    for old, new in zip(run(before, X), run(after, X), strict=True):
        np.testing.assert_array_equal(old, new)
    return before, after, ties


def test_each_use_of_a_constant_is_its_own() -> None:
    _, after, ties = prepared(
        "a = Reshape(x, two_six) b = Reshape(a, two_six) y = Add(b, b)", two_six=np.array([2, 6], np.int64)
    )
    assert nodes(after) == ["a = Reshape(x, two_six)", "b = Reshape(a, two_six_2)", "y = Add(b, b)"]
    assert after.graph.initializers["two_six"].const_value is after.graph.initializers["two_six_2"].const_value
    assert ties == ()


def test_a_matrix_of_two_layers_is_tied() -> None:
    _, _, ties = prepared("a = MatMul(x, w) b = MatMul(a, w) y = Add(b, c)", w=weights(6, 6), c=weights(6))
    assert ties == (("w", "w_2"),)


def test_a_bias_of_two_layers_is_not() -> None:
    _, after, ties = prepared("a = Add(x, c) y = Add(a, c)", c=weights(6))
    assert ties == ()
    assert set(after.graph.initializers) == {"c", "c_2"}


def test_sharing_restores_what_was_one() -> None:
    before, after, _ = prepared("a = MatMul(x, w) b = MatMul(a, w) y = Add(b, c)", w=weights(6, 6), c=weights(6))
    share(after)
    assert nodes(after) == nodes(before)
    assert set(after.graph.initializers) == {"w", "c"}


def test_sharing_leaves_apart_what_differs_now() -> None:
    _, after, _ = prepared("a = Add(x, c) y = Add(a, c)", c=weights(6))
    after.graph.initializers["c_2"].const_value = ir.tensor(weights(6, seed=5), name="c_2")
    share(after)
    assert set(after.graph.initializers) == {"c", "c_2"}


def test_sharing_leaves_apart_what_was_apart() -> None:
    """Equal by chance: the biases of an untrained model are all zeros, and must be free to differ after training."""
    _, after, _ = prepared("a = Add(x, c) y = Add(a, d)", c=np.zeros(6, np.float32), d=np.zeros(6, np.float32))
    share(after)
    assert set(after.graph.initializers) == {"c", "d"}


def test_stored_elements_are_moved_ahead_of_time() -> None:
    _, after, ties = prepared(
        "i = Identity(w) t = Transpose<perm=[1,0]>(i) c = Concat<axis=0>(t, u) z = Constant<value_ints=[6,5]>()"
        " r = Reshape(c, z) y = MatMul(x, r)",
        w=weights(5, 4),
        u=weights(2, 5),
    )
    assert [node.op_type for node in after.graph] == ["MatMul"]
    assert set(after.graph.initializers) == {"r"}
    assert ties == ()


def test_arithmetic_on_weights_stays() -> None:
    """A scaled weight has two parameters on its channels; folded, one of them would be lost to later training."""
    _, after, _ = prepared("s = Mul(w, g) y = MatMul(x, s)", w=weights(6, 5), g=weights(5))
    assert [node.op_type for node in after.graph] == ["Mul", "MatMul"]


def test_a_tied_matrix_is_not_transposed_ahead_of_time() -> None:
    """There would be two of it in the file."""
    _, after, ties = prepared("t = Transpose<perm=[1,0]>(w) a = MatMul(x, w) y = MatMul(a, t)", w=weights(6, 5))
    assert [node.op_type for node in after.graph] == ["Transpose", "MatMul", "MatMul"]
    assert ties == (("w", "w_2"),)


def test_weights_that_are_constant_by_shape() -> None:
    _, after, _ = prepared(
        "w = ConstantOfShape<value = float[1] {0.5}>(z) y = MatMul(x, w)", z=np.array([6, 5], np.int64)
    )
    assert after.graph.initializers["w"].const_value.numpy().shape == (6, 5)


def test_initializers_are_no_inputs() -> None:
    model = graph("g (float[2,6] x) => (float[2,5] y) { y = MatMul(x, w) }", {"w": weights(6, 5)})
    model.graph.inputs.append(model.graph.initializers["w"])
    prepare(model)
    assert [value.name for value in model.graph.inputs] == ["x"]


def test_functions_are_inlined() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21, "local" : 1]>
    g (float[2,6] x) => (float[2,6] y) { a = local.twice(x) y = local.twice(a) }
    <opset_import: ["" : 21], domain: "local">
    twice (v) => (w) { one = Constant<value = float[1] {1.0}>() s = Add(v, one) w = Add(s, s) }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    before = run(model, X)
    prepare(model)
    np.testing.assert_array_equal(run(model, X)[0], before[0])
    assert not model.functions
    assert [node.op_type for node in model.graph] == ["Add"] * 4
    assert len({node.name for node in model.graph}) == 4
    assert len(model.graph.initializers) == 2


def test_the_interface_keeps_its_names_and_nodes_get_some() -> None:
    _, after, _ = prepared("a = Relu(x) y = Relu(a)")
    assert [value.name for value in (*after.graph.inputs, *after.graph.outputs)] == ["x", "y"]
    assert len({node.name for node in after.graph}) == 2


@pytest.mark.parametrize("position", ["then", "else"])
def test_what_a_body_reads_is_a_use_like_any_other(position: str) -> None:
    branches = {"then": "x", "else": "x", position: "c"}
    text = f"""
    g (float[2,6] x, bool choice) => (float[2,6] y) {{
        a = Add(x, c)
        b = If(choice) <
            then_branch = t () => (float[2,6] p) {{ p = Add(x, {branches["then"]}) }},
            else_branch = e () => (float[2,6] q) {{ q = Mul(x, {branches["else"]}) }}
        >
        y = Add(a, b)
    }}
    """
    model = graph(text, {"c": weights(6)})
    for choice in (True, False):
        feeds = {**X, "choice": np.array(choice)}
        before = run(model, feeds)
        after = model.clone()
        prepare(after)
        assert set(after.graph.initializers) == {"c", "c_2"}
        np.testing.assert_array_equal(run(after, feeds)[0], before[0])
