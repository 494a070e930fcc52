# SPDX-License-Identifier: Apache-2.0
"""Counts that layers carry as attributes, and means over fewer channels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import Examined, assert_oracle, examine, outputs, sized_feeds, some_units
from graphs import weights

from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.groups import Exactness
from edgefold.passes.pruning.masking import masked

PICTURE = "(float[N,3,4,4] x) => (float[N,K,H,W] y)"
TOKENS = "(float[N,T,12] x) => (float[N,T,K] y)"


def examined(
    opset: int, head: str, text: str, integers: dict[str, list[int]] | None = None, **shapes: tuple[int, ...]
) -> Examined:
    arrays = {name: weights(*shape, seed=place) for place, (name, shape) in enumerate(shapes.items())}
    arrays |= {name: np.array(value, np.int64) for name, value in (integers or {}).items()}
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\ng {head} {{ {text} }}'
    return examine(
        ir.from_onnx_text(text, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()])
    )


def node_of(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def attributes(model: ir.Model, op_type: str) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node_of(model, op_type).attributes.items()}


def halves(found: Examined) -> dict[str, np.ndarray]:
    return some_units(found.dependencies, 0.5)


def test_whole_groups_of_a_grouped_convolution() -> None:
    text = "h = Conv(x, w1) a = Conv<group=4>(h, w2) y = Conv(a, w3)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), w2=(12, 2, 1, 1), w3=(5, 12, 1, 1))
    groups = next(group for group in found.dependencies.groups if group.size == 4)
    small = assert_oracle(found, {groups.name: np.array([0, 2])})
    assert [node.attributes["group"].as_int() for node in small.graph if "group" in node.attributes] == [2]


def test_channels_inside_every_group_leave_their_number() -> None:
    text = "h = Conv(x, w1) a = Conv<group=4>(h, w2) y = Conv(a, w3)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), w2=(12, 2, 1, 1), w3=(5, 12, 1, 1))
    inside = next(group for group in found.dependencies.groups if group.size == 3)
    small = assert_oracle(found, {inside.name: np.array([1])})
    assert [node.attributes["group"].as_int() for node in small.graph if "group" in node.attributes] == [4]


def test_grouped_transposed_convolution() -> None:
    text = "h = Conv(x, w1) a = ConvTranspose<group=4, strides=[2,2]>(h, w2) y = Conv(a, w3)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), w2=(8, 3, 2, 2), w3=(5, 12, 1, 1))
    assert_oracle(found, halves(found))
    groups = next(group for group in found.dependencies.groups if group.size == 4)
    small = assert_oracle(found, {groups.name: np.array([3])})
    assert attributes(small, "ConvTranspose")["group"] == 3


def test_group_normalization_loses_whole_groups() -> None:
    text = "h = Conv(x, w1) n = GroupNormalization<num_groups=4>(h, s, b) y = Conv(n, w2)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), s=(8,), b=(8,), w2=(5, 8, 1, 1))
    (groups,) = [one for one in found.dependencies.groups if one.exactness == Exactness.EXACT]
    assert groups.size == 4
    small = assert_oracle(found, {groups.name: np.array([1])})
    assert attributes(small, "GroupNormalization")["num_groups"] == 3


def test_group_normalization_with_one_scale_a_group() -> None:
    """The form of opset 18, which ONNX Runtime still runs and the checker refuses."""
    text = "h = Conv(x, w1) n = GroupNormalization<num_groups=4>(h, s, b) y = Conv(n, w2)"
    found = examined(18, PICTURE, text, w1=(8, 3, 1, 1), s=(4,), b=(4,), w2=(5, 8, 1, 1))
    small = assert_cut_equals_masked(found)
    assert attributes(small, "GroupNormalization")["num_groups"] == 2


@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_units_of_a_recurrent_layer(op_type: str, gates: int, direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    text = (
        f't = Transpose<perm=[1,0,2]>(x) h = {op_type}<hidden_size=6, direction="{direction}">(t, w, r, b)'
        " q = Transpose<perm=[2,0,1,3]>(h) j = Reshape(q, join) y = MatMul(j, w2)"
    )
    found = examined(
        21, TOKENS, text, {"join": [0, 0, -1]},
        w=(d, gates * 6, 12), r=(d, gates * 6, 6), b=(d, 2 * gates * 6), w2=(d * 6, 5),
    )  # fmt: skip
    small = assert_oracle(found, halves(found))
    assert attributes(small, op_type)["hidden_size"] == 3


def test_root_mean_square_normalization() -> None:
    text = "h = MatMul(x, w1) n = RMSNormalization<epsilon=0.5>(h, g) y = MatMul(n, w2)"
    found = examined(23, TOKENS, text, w1=(12, 8), g=(8,), w2=(8, 5))
    small = assert_oracle(found, halves(found))
    assert attributes(small, "RMSNormalization")["epsilon"] == pytest.approx(1.0)


def test_equal_gains_stay_two() -> None:
    text = "h = MatMul(x, w1) n = RMSNormalization(h, g) m = RMSNormalization(n, k) y = MatMul(m, w2)"
    found = examined(23, TOKENS, text, w1=(12, 8), g=(8,), k=(8,), w2=(8, 5))
    for name in ("g", "k"):
        found.model.graph.initializers[name].const_value = ir.tensor(np.ones(8, np.float32), name=name)
    small = assert_oracle(found, halves(found))
    assert {"g", "k"} <= set(small.graph.initializers)


def test_root_mean_square_normalization_in_parts() -> None:
    text = (
        "h = MatMul(x, w1) s = Mul(h, h) m = ReduceMean(s, last) e = Add(m, eps) r = Sqrt(e) d = Div(h, r)"
        " n = Mul(d, g) y = MatMul(n, w2)"
    )
    found = examined(21, TOKENS, text, {"last": [-1]}, w1=(12, 8), eps=(1,), g=(8,), w2=(8, 5))
    assert all(group.exactness == Exactness.EXACT for group in found.dependencies.groups)
    found.model.graph.initializers["eps"].const_value = ir.tensor(np.array([0.5], np.float32), name="eps")
    assert_oracle(found, halves(found))


def test_layer_normalization_runs_over_what_stays() -> None:
    """Its mean is no sum of products, so that there is nothing to correct: the near miss of the two above."""
    text = (
        "h = MatMul(x, w1) m = ReduceMean(h, last) c = Sub(h, m) s = Mul(c, c) v = ReduceMean(s, last) r = Sqrt(v)"
        " n = Div(c, r) y = MatMul(n, w2)"
    )
    found = examined(21, TOKENS, text, {"last": [-1]}, w1=(12, 8), w2=(8, 5))
    (group,) = found.dependencies.groups
    assert group.exactness == Exactness.STATISTICS
    small = found.model.clone()
    cut(small, found.dependencies, found.trace, {group.name: np.arange(4)})
    assert [node.op_type for node in small.graph] == [node.op_type for node in found.model.graph]


def test_pooling_over_channels_is_a_mean_too() -> None:
    text = "h = MatMul(x, w1) p = GlobalAveragePool(h) a = Mul(h, p) y = MatMul(a, w2)"
    found = examined(21, TOKENS, text, w1=(12, 8), w2=(8, 5))
    small = assert_oracle(found, halves(found))
    pool = node_of(small, "GlobalAveragePool")
    assert [use.node.op_type for use in pool.outputs[0].uses()] == ["Mul"]


ATTENTION = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) o = {} y = MatMul(o, wo)"
PROJECTIONS = {"wq": (12, 16), "wk": (12, 8), "wv": (12, 6), "wo": (12, 5)}


@pytest.mark.parametrize("opset", [23, 24])
def test_heads_of_an_attention_operator(opset: int) -> None:
    text = ATTENTION.format("Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)")
    found = examined(opset, TOKENS, text, **PROJECTIONS)
    assert found.dependencies.groups
    assert_oracle(found, halves(found))


def test_scale_of_attention_is_of_the_old_head_size() -> None:
    text = ATTENTION.format("Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)")
    found = examined(23, TOKENS, text, **PROJECTIONS)
    (sizes,) = [one for one in found.dependencies.groups if {part.parameter for part in one.slices} == {"wq", "wk"}]
    small = assert_oracle(found, {sizes.name: np.array([0])})
    assert attributes(small, "Attention")["scale"] == pytest.approx(0.5)


def test_rotary_embedding_counts_heads() -> None:
    text = (
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) s = Shape<start=0, end=2>(x) p = Expand(zero, s)"
        " a = RotaryEmbedding<num_heads=4>(q, c, t, p) b = RotaryEmbedding<num_heads=4>(k, c, t, p)"
        " o = Attention<q_num_heads=4, kv_num_heads=4>(a, b, v) y = MatMul(o, wo)"
    )
    shapes = {"wq": (12, 16), "wk": (12, 16), "wv": (12, 8), "wo": (8, 5), "c": (9, 2), "t": (9, 2)}
    found = examined(23, TOKENS, text, {"zero": [0]}, **shapes)
    heads = next(one for one in found.dependencies.groups if one.size == 4)
    small = assert_oracle(found, {heads.name: np.array([2])})
    assert attributes(small, "RotaryEmbedding")["num_heads"] == 3


def test_simplified_layer_normalization_of_onnx_runtime() -> None:
    """In the standard domain, where only ONNX Runtime knows it."""
    text = "h = MatMul(x, w1) n = SimplifiedLayerNormalization<axis=-1, epsilon=0.5>(h, g) y = MatMul(n, w2)"
    assert_cut_equals_masked(examined(21, TOKENS, text, w1=(12, 8), g=(8,), w2=(8, 5)))


def assert_cut_equals_masked(found: Examined) -> ir.Model:
    """Without the checker, which refuses some of what ONNX Runtime runs."""
    pruned = halves(found)
    assert pruned
    small = found.model.clone()
    cut(small, found.dependencies, found.trace, pruned)
    feeds = sized_feeds(found.model)[0]
    whole = outputs(masked(found.model, found.dependencies, found.trace, pruned), feeds)
    np.testing.assert_allclose(outputs(small, feeds)["y"], whole["y"], rtol=1e-5, atol=1e-5)
    return small


def test_depthwise_convolution_and_its_channels() -> None:
    text = "h = Conv(x, w1) a = Conv<group=8>(h, w2) y = Conv(a, w3)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), w2=(8, 1, 1, 1), w3=(5, 8, 1, 1))
    small = assert_oracle(found, halves(found))
    assert [node.attributes["group"].as_int() for node in small.graph if "group" in node.attributes] == [4]


def test_edits_name_the_node_and_both_shapes() -> None:
    text = "h = Conv(x, w1) y = Conv(h, w2)"
    found = examined(21, PICTURE, text, w1=(8, 3, 1, 1), w2=(5, 8, 1, 1))
    edits = cut(found.model, found.dependencies, found.trace, halves(found))
    assert [(edit.node, edit.what) for edit in edits] == [
        (next(iter(found.model.graph)).name, "w1 8x3x1x1 -> 4x3x1x1"),
        (list(found.model.graph)[1].name, "w2 5x8x1x1 -> 5x4x1x1"),
    ]
