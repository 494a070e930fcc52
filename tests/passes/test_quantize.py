# SPDX-License-Identifier: Apache-2.0
"""What quantize makes of each kind of weighted node: the graph as text, and outputs within the rounding of weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, nodes, run, weights

from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.quantize import Override, Quantize

EIGHT_BITS = Quantize(weights=8, method="shift", activations="float")


def quantize(model: ir.Model, options: Quantize = EIGHT_BITS, context: Context | None = None) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    notes = options.rewrite(changed, context or Context())
    return changed.clone(), notes  # a clone fails where a node reads a value that is not in the graph


def assert_close(before: ir.Model, after: ir.Model, feeds: Mapping[str, Array], reach: float) -> None:
    """Outputs differ by at most ``reach``: the most that weights one 8-bit step off can do."""
    for wanted, got in zip(run(before, feeds), run(after, feeds), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        assert np.abs(got.astype(np.float64) - wanted).max() <= reach


def step(weight: Array, x: Array, products: int) -> float:
    """Bound of the change of a sum of products when each weight moves by one 8-bit step."""
    return float(np.abs(weight).max() / 127 * np.abs(x).max() * products)


X = weights(3, 64, seed=1)
W = weights(64, 48)
PACKED = "w.codes, edgefold.one_table, w.table, w.scales"
DYNAMIC = "edgefold.zero, edgefold.zero_shift"
LINEAR = {
    "matmul": (
        "y = MatMul(x, w)",
        {"w": W},
        [f"y = ShiftMatMul(x, {PACKED}, edgefold.zero, {DYNAMIC})"],
    ),
    "bias add": (
        "p = MatMul(x, w)\n y = Add(b, p)",
        {"w": W, "b": weights(48, seed=2)},
        [f"y = ShiftMatMul(x, {PACKED}, y.bias, {DYNAMIC})"],
    ),
    "scalar add": (
        "p = MatMul(x, w)\n y = Add(p, b)",
        {"w": W, "b": np.array(0.5, np.float32)},
        [f"y = ShiftMatMul(x, {PACKED}, y.bias, {DYNAMIC})"],
    ),
    "gemm": (
        "y = Gemm<alpha = 0.5, beta = 2.0, transB = 1>(x, w, b)",
        {"w": weights(48, 64), "b": weights(1, 48, seed=2)},
        [f"y = ShiftMatMul(x, {PACKED}, y.bias, {DYNAMIC})"],
    ),
    "behind views": (
        "i = Identity(w)\n t = Transpose<perm = [1, 0]>(i)\n s = Constant<value_ints = [0, -1]>()\n"
        "r = Reshape(t, s)\n y = MatMul(x, r)",
        {"w": weights(48, 64)},
        [
            "s = Constant()",
            f"y = ShiftMatMul(x, {PACKED}, edgefold.zero, {DYNAMIC})",
        ],
    ),
    "leading ones": (
        "q = Unsqueeze(x, zero)\n p = MatMul(q, w)\n y = Squeeze(p, zero)",
        {"w": W[None], "zero": np.zeros(1, np.int64)},
        [
            "q = Unsqueeze(x, zero)",
            f"p = ShiftMatMul(q, {PACKED}, edgefold.zero, {DYNAMIC})",
            "y = Squeeze(p, zero)",
        ],
    ),
}


@pytest.mark.parametrize("case", LINEAR)
def test_linear_layers(case: str) -> None:
    body, initializers, expected = LINEAR[case]
    rank3 = "float[1, N, 64] q, float[1, N, 48] p" if case == "leading ones" else "float[N, 48] p"
    declared = f"<{rank3}>" if "p =" in body else ""
    header = "g (float[N, 64] x) => (float[N, 48] y)"
    before = graph(f"{header} {declared} {{ {body} }}", initializers)
    after, notes = quantize(before)
    assert nodes(after) == expected
    assert [edit.what for edit in notes.edits] == ["8 bits, shift"]
    alpha = 0.5 if case == "gemm" else 1.0
    assert_close(before, after, {"x": X}, step(initializers["w"], X, 64) * alpha)
    assert "w" not in after.graph.initializers


def test_constant_on_the_left_is_turned_around() -> None:
    before = graph("g (float[B, 64, 5] x) => (float[B, 48, 5] y) { y = MatMul(w, x) }", {"w": weights(48, 64)})
    after, _ = quantize(before)
    assert [node.op_type for node in after.graph] == ["Transpose", "ShiftMatMul", "Transpose"]
    x = weights(2, 64, 5, seed=1)
    assert_close(before, after, {"x": x}, step(weights(48, 64), x, 64))


def test_float16_gets_casts() -> None:
    initializers = {"w": W.astype(np.float16)}
    before = graph("g (float16[N, 64] x) => (float16[N, 48] y) { y = MatMul(x, w) }", initializers)
    after, _ = quantize(before)
    assert [node.op_type for node in after.graph] == ["Cast", "ShiftMatMul", "Cast"]
    x = X.astype(np.float16)
    half = 2**-10 * float((np.abs(x.astype(np.float32)) @ np.abs(W)).max())
    assert_close(before, after, {"x": x}, step(W, x, 64) + half)


CONVOLUTIONS = {
    "1d": ((32, 16, 5), (16, 20), ""),
    "2d strided": ((32, 16, 3, 3), (16, 9, 8), "strides = [2, 1], pads = [1, 0, 1, 2], dilations = [1, 2]"),
    "3d": ((16, 8, 2, 3, 2), (8, 5, 6, 5), ""),
    "grouped": ((32, 8, 3, 3), (16, 7, 7), "group = 2"),
    "depthwise": ((64, 1, 3, 3), (64, 7, 7), "group = 64"),
    "same upper": ((32, 16, 3, 4), (16, 9, 8), 'auto_pad = "SAME_UPPER", strides = [2, 3]'),
    "same lower": ((32, 16, 2, 2), (16, 9, 8), 'auto_pad = "SAME_LOWER"'),
    "valid": ((32, 16, 3, 3), (16, 9, 8), 'auto_pad = "VALID"'),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str) -> None:
    shape, image, attributes = CONVOLUTIONS[case]
    weight, x = weights(*shape), weights(2, *image, seed=1)
    initializers = {"w": weight, "b": weights(shape[0], seed=2)}
    sizes = ", ".join(map(str, image))
    output = ", ".join(["M", *"DHW"[: len(image) - 1]])
    text = f"g (float[B, {sizes}] x) => (float[B, {output}] y) {{ y = Conv<{attributes}>(x, w, b) }}".replace("<>", "")
    before = graph(text, initializers)
    after, _ = quantize(before)
    assert nodes(after) == [f"y = FloatConv(x, {PACKED}, y.bias)"]
    assert_close(before, after, {"x": x}, step(weight, x, int(np.prod(shape[1:]))))


def test_embedding_and_transposed_head_are_stored_once() -> None:
    text = """g (int64[N] ids) => (float[N, 90] y) {
        e = Gather(w, ids)
        t = Transpose<perm = [1, 0]>(w)
        y = MatMul(e, t)
    }"""
    table = weights(90, 64)
    before = graph(text, {"w": table})
    after, notes = quantize(
        before, Quantize(weights=4, method="shift", embeddings=8, first_last=4, activations="float")
    )
    assert nodes(after) == [
        "e = ShiftGather(ids, w.codes, edgefold.one_table, w.table, w.scales)",
        f"y = ShiftMatMul(e, {PACKED}, edgefold.zero, {DYNAMIC})",
    ]
    assert [edit.what for edit in notes.edits] == ["8 bits, shift"] * 2
    assert [skip.detail for skip in notes.skips] == ["embedding, 8 bits", "shares its matrix with a wider node, 8 bits"]
    ids = np.array([0, 89, -1, 7])
    reach = step(table, table, 64) * 2 + step(table, table, 64) / 127
    assert_close(before, after, {"ids": ids}, reach)


def test_equal_matrices_are_stored_once_also_transposed() -> None:
    text = "g (float[N, 64] x) => (float[N, 64] y) { p = MatMul(x, w)\n y = Gemm<transB = 1>(p, v) }"
    square = weights(64, 64)
    before = graph(text, {"w": square, "v": np.ascontiguousarray(square.T)})
    after, _ = quantize(before)
    assert [name for name in after.graph.initializers if name.endswith(".codes")] == ["w.codes"]
    assert "v" not in after.graph.initializers


def test_weights_that_two_nodes_share_stay_shared() -> None:
    text = (
        "g (float[N, 64] x, float[N, 64] z) => (float[N, 48] y, float[N, 48] u) { y = MatMul(x, w)\n u = MatMul(z, w) }"
    )
    after, notes = quantize(graph(text, {"w": W}))
    assert [node.inputs[1].name for node in after.graph if node.inputs[1]] == ["w.codes", "w.codes"]
    assert len(notes.edits) == 2


def test_product_that_is_a_graph_output_keeps_its_add() -> None:
    text = "g (float[N, 64] x) => (float[N, 48] p, float[N, 48] y) { p = MatMul(x, w)\n y = Add(p, b) }"
    after, _ = quantize(graph(text, {"w": W, "b": weights(48, seed=2)}))
    assert [node.op_type for node in after.graph] == ["ShiftMatMul", "Add"]
    assert [value.name for value in after.graph.outputs] == ["p", "y"]


def test_bias_of_two_readers_is_not_taken_in() -> None:
    text = "g (float[N, 64] x) => (float[N, 48] y) { p = MatMul(x, w)\n q = Add(p, b)\n y = Mul(p, q) }"
    after, _ = quantize(graph(text, {"w": W, "b": weights(48, seed=2)}))
    assert [node.op_type for node in after.graph] == ["ShiftMatMul", "Add", "Mul"]


THREE_LAYERS = """g (float[N, 64] x) => (float[N, 64] y) {
    [a] p = MatMul(x, u)
    [ra] q = Relu(p)
    [b] r = MatMul(q, v)
    [rb] s = Relu(r)
    [c] t = MatMul(s, w)
    [end] y = Softmax(t)
}"""


def three_layers() -> ir.Model:
    return graph(THREE_LAYERS, {name: weights(64, 64, seed=i) for i, name in enumerate("uvw")})


def test_first_and_last_layer_stay_wider_and_it_is_said() -> None:
    after, notes = quantize(three_layers(), Quantize(weights=4, method="shift-lut"))
    bits = {node.name: node.attributes["bits"].as_int() for node in after.graph if node.domain == "ai.edgefold"}
    assert bits == {"a": 8, "b": 4, "c": 8}
    assert [(skip.node, skip.reason) for skip in notes.skips] == [
        ("a", SkipReason.KEPT_WIDER),
        ("c", SkipReason.KEPT_WIDER),
    ]
    assert notes.stats["nodes.8-bit shift"] == 2
    assert notes.stats["nodes.4-bit shift-lut"] == 1


def test_a_residual_sum_is_no_last_layer() -> None:
    text = "g (float[N, 64] x) => (float[N, 64] y) { [a] p = MatMul(x, u)\n [b] q = MatMul(p, v)\n [s] y = Add(p, q) }"
    after, _ = quantize(graph(text, {"u": weights(64, 64), "v": weights(64, 64, seed=1)}), Quantize(weights=4))
    bits = {node.name: node.attributes["bits"].as_int() for node in after.graph if node.domain == "ai.edgefold"}
    assert bits == {"a": 8, "b": 4}


def test_the_last_matching_override_holds() -> None:
    overrides = (Override(match="*", weights=6), Override(match="b", weights=3, method="rtn", activations="float"))
    after, _ = quantize(three_layers(), Quantize(weights=4, overrides=overrides))
    found = {
        node.name: (node.attributes["bits"].as_int(), node.attributes["activation_high"].as_int())
        for node in after.graph
        if node.domain == "ai.edgefold"
    }
    assert found == {"a": (6, 127), "b": (3, 0), "c": (6, 127)}


def test_an_override_that_fits_nothing_is_told() -> None:
    overrides = (Override(match="?", weights=6), Override(match="B", weights=3), Override(match="b1", weights=8))
    _, notes = quantize(three_layers(), Quantize(weights=4, overrides=overrides))
    assert [skip.node for skip in notes.skips if skip.reason is SkipReason.NO_MATCH] == ["B", "b1"]


def test_nodes_say_where_they_come_from() -> None:
    text = "g (float[N, 64] x) => (float[N, 48] y) { [m] p = MatMul(x, w)\n [a] y = Add(p, b) }"
    after, _ = quantize(graph(text, {"w": W, "b": weights(48, seed=2)}))
    [node] = after.graph
    assert node.name == "m"
    assert node.metadata_props == {"edgefold.pass": "quantize", "edgefold.from": "m,a"}


def test_tensors_of_the_model_are_never_written_to() -> None:
    model = three_layers()
    before = {
        name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items() if value.const_value
    }
    quantize(model, Quantize(weights=4))
    for name, array in before.items():
        value = model.graph.initializers[name].const_value
        assert value is not None
        assert np.array_equal(value.numpy(), array)


def test_the_same_model_gives_the_same_bytes() -> None:
    first, second = (ir.to_proto(quantize(three_layers(), Quantize(weights=4))[0]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
