# SPDX-License-Identifier: Apache-2.0
"""Attention, recurrence, embeddings: axes that are products, and weights that several places share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import assert_oracle, examine, some_units
from graphs import graph, weights
from test_hard_cases import Case

TOKENS = "g (float[N,T,12] x) => (float[N,T,K] y) {"
SPLIT = {"split": [0, 0, 3, 4], "join": [0, 0, 12]}
QKV = (
    "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)"
    " q1 = Reshape(q0, split) k1 = Reshape(k0, split) v1 = Reshape(v0, split)"
    " q = Transpose<perm=[0,2,1,3]>(q1) k = Transpose<perm=[0,2,3,1]>(k1) v = Transpose<perm=[0,2,1,3]>(v1)"
)
MIX = (
    " l = MatMul(q, k) p = Softmax<axis=-1>(l) o0 = MatMul(p, v) o1 = Transpose<perm=[0,2,1,3]>(o0)"
    " o = Reshape(o1, join)"
)
W3 = {"wq": (12, 12), "wk": (12, 12), "wv": (12, 12)}

CASES = [
    Case(
        "separate projections: heads, dimensions of keys, dimensions of values",
        f"{QKV}{MIX} y = MatMul(o, wo)",
        {**W3, "wo": (12, 5)},
        {"wk.1 wo.0 wq.1 wv.1": 3, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        SPLIT,
        TOKENS,
    ),
    Case(
        "packed projection, three dimensions then heads",
        "q0 = MatMul(x, w) q1 = Reshape(q0, split) q2 = Transpose<perm=[2,0,3,1,4]>(q1) q = Gather(q2, i0)"
        " k0 = Gather(q2, i1) v = Gather(q2, i2) k = Transpose<perm=[0,1,3,2]>(k0)" + MIX + " y = MatMul(o, wo)",
        {"w": (12, 36), "wo": (12, 5)},
        {"w.1 wo.0": (3, 4)},
        {"split": [0, 0, 3, 3, 4], "join": [0, 0, 12], "i0": 0, "i1": 1, "i2": 2},
        TOKENS,
    ),
    Case(
        "batch and heads merged into one axis",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)"
        " q1 = Reshape(q0, merge) k1 = Reshape(k0, merge) v1 = Reshape(v0, merge)"
        " q = Transpose<perm=[1,0,2]>(q1) k = Transpose<perm=[1,2,0]>(k1) v = Transpose<perm=[1,0,2]>(v1)"
        " l = MatMul(q, k) p = Softmax<axis=-1>(l) o0 = MatMul(p, v) o1 = Transpose<perm=[1,0,2]>(o0)"
        " o = Reshape(o1, join) y = MatMul(o, wo)",
        {**W3, "wo": (12, 5)},
        {"wk.1 wo.0 wq.1 wv.1": 3, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        {"merge": [7, 6, 4], "join": [7, 2, 12]},
        "g (float[7,2,12] x) => (float[7,2,K] y) {",
    ),
    Case(
        "three query heads share one pair of keys and values",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, split) k1 = Reshape(k0, few)"
        " v1 = Reshape(v0, few) q = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v2 = Transpose<perm=[0,2,1,3]>(v1) l = MatMul(q, k2) p = Softmax<axis=-1>(l) o0 = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, join) y = MatMul(o, wo)",
        {"wq": (12, 12), "wk": (12, 4), "wv": (12, 4), "wo": (12, 5)},
        {"wo.0 wq.1": 3, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        {**SPLIT, "few": [0, 0, 1, 4]},
        TOKENS,
    ),
    Case(
        "two queries for each key head, repeated by Expand",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, split) k1 = Reshape(k0, few)"
        " v1 = Reshape(v0, few) q = Transpose<perm=[0,2,1,3]>(q1) k2 = Transpose<perm=[0,2,1,3]>(k1)"
        " v2 = Transpose<perm=[0,2,1,3]>(v1) k3 = Unsqueeze(k2, two) v3 = Unsqueeze(v2, two)"
        " k4 = Expand(k3, twice) v4 = Expand(v3, twice) k5 = Reshape(k4, all) v = Reshape(v4, all)"
        " k = Transpose<perm=[0,1,3,2]>(k5)" + MIX + " y = MatMul(o, wo)",
        {"wq": (12, 24), "wk": (12, 12), "wv": (12, 12), "wo": (24, 5)},
        {"wk.1 wo.0 wq.1 wv.1": 3, "wo.0 wq.1": 2, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        {
            "split": [0, 0, 6, 4],
            "few": [0, 0, 3, 4],
            "two": [2],
            "twice": [1, 1, 2, 1, 1],
            "all": [2, 6, -1, 4],
            "join": [0, 0, 24],
        },
        "g (float[2,T,12] x) => (float[2,T,K] y) {",
    ),
    Case(
        "einsum",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q = Reshape(q0, split) k = Reshape(k0, split)"
        ' v = Reshape(v0, split) l = Einsum<equation="bqhd,bkhd->bhqk">(q, k) p = Softmax<axis=-1>(l)'
        ' o1 = Einsum<equation="bhqk,bkhd->bqhd">(p, v) o = Reshape(o1, join) y = MatMul(o, wo)',
        {**W3, "wo": (12, 5)},
        {"wk.1 wo.0 wq.1 wv.1": 3, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        SPLIT,
        TOKENS,
    ),
    Case(
        "a bias for every head",
        f"{QKV} l0 = MatMul(q, k) l = Add(l0, bias) p = Softmax<axis=-1>(l) o0 = MatMul(p, v)"
        " o1 = Transpose<perm=[0,2,1,3]>(o0) o = Reshape(o1, join) y = MatMul(o, wo)",
        {**W3, "bias": (3, 1, 1), "wo": (12, 5)},
        {"bias.0 wk.1 wo.0 wq.1 wv.1": 3, "wk.1 wq.1": 4, "wo.0 wv.1": 4},
        SPLIT,
        TOKENS,
    ),
    Case(
        "normalized residual stream stays, hidden neurons go",
        "n = LayerNormalization(x, s, t) h = MatMul(n, w1) a = Add(h, b1) r = Relu(a) d = MatMul(r, w2) z = Add(x, d)"
        " y = MatMul(z, w3)",
        {"s": (12,), "t": (12,), "w1": (12, 20), "b1": (20,), "w2": (20, 12), "w3": (12, 5)},
        {"b1.0 w1.1 w2.0": 20},
        {},
        TOKENS,
    ),
    Case(
        "gate and value packed into one matrix",
        "h = MatMul(x, w1) g, v = Split<axis=-1, num_outputs=2>(h) s = Sigmoid(g) a = Mul(g, s) m = Mul(a, v)"
        " y = MatMul(m, w2)",
        {"w1": (12, 16), "w2": (8, 5)},
        {"w1.1 w2.0": 8},
        {},
        TOKENS,
    ),
    Case(
        "class token concatenated to the tokens, and a scale for each channel",
        "h = MatMul(x, w1) c = Concat<axis=1>(cls, h) a = Add(c, pos) m = Mul(a, gamma) y = MatMul(m, w2)",
        {"w1": (12, 8), "cls": (2, 1, 8), "pos": (1, 1, 8), "gamma": (8,), "w2": (8, 5)},
        {"cls.2 gamma.0 pos.2 w1.1 w2.0": 8},
        {},
        "g (float[2,T,12] x) => (float[2,T2,K] y) {",
    ),
    Case(
        "embedding tied to the head by its transpose",
        "e = Gather(table, ids) h = MatMul(e, w1) r = Relu(h) d = MatMul(r, w2) t = Transpose<perm=[1,0]>(table)"
        " y = MatMul(d, t)",
        {"table": (20, 6), "w1": (6, 10), "w2": (10, 6)},
        {"table.1 table_2.1 w1.0 w2.1": 6, "w1.1 w2.0": 10},
        {},
        "g (int64[N,T] ids) => (float[N,T,20] y) {",
    ),
    Case(
        "one weight for two pictures",
        "a = Conv(x, w1) b = Conv(z, w1) s = Sub(a, b) y = Conv(s, w2)",
        {"w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)},
        {"w1.0 w1_2.0 w2.1": 8},
        {},
        "g (float[N,3,8,8] x, float[N,3,8,8] z) => (float[N,K,H,W] y) {",
    ),
    Case(
        "one tower on two levels",
        "a = Conv(x, w0) b = Conv<strides=[2,2]>(x, w0) c = Conv(a, w1) d = Conv(b, w1)"
        " y = Conv(c, w2) z = Conv(d, w2)",
        {"w0": (6, 3, 1, 1), "w1": (8, 6, 1, 1), "w2": (5, 8, 1, 1)},
        {"w0.0 w0_2.0 w1.1 w1_2.1": 6, "w1.0 w1_2.0 w2.1 w2_2.1": 8},
        {},
        "g (float[N,3,8,8] x) => (float[N,K,H,W] y, float[N,K,H2,W2] z) {",
    ),
    Case(
        "LSTM, its cells, and what reads it",
        "h, hn, cn = LSTM<hidden_size=6>(x, w, r, b) s = Squeeze(h, one) y = MatMul(s, w2)",
        {"w": (1, 24, 12), "r": (1, 24, 6), "b": (1, 48), "w2": (6, 5)},
        {"b.1 r.1 r.2 w.1 w2.0": 6},
        {"one": [1]},
        "g (float[T,N,12] x) => (float[T,N,K] y) {",
    ),
    Case(
        "GRU in both directions",
        'h, hn = GRU<hidden_size=6, direction="bidirectional", linear_before_reset=1>(x, w, r, b)'
        " t = Transpose<perm=[0,2,1,3]>(h) s = Reshape(t, flat) y = MatMul(s, w2)",
        {"w": (2, 18, 12), "r": (2, 18, 6), "b": (2, 36), "w2": (12, 5)},
        {"b.1 r.1 r.2 w.1 w2.0": 6},
        {"flat": [0, 0, 12]},
        "g (float[T,N,12] x) => (float[T,N,K] y) {",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups_are_those_that_a_person_would_state(case: Case) -> None:
    assert examine(case.model()).places() == case.expected()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_cut_computes_what_the_masked_model_computes(case: Case) -> None:
    examined = examine(case.model())
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def test_rms_normalization_over_the_channels_is_exact() -> None:
    text = (
        TOKENS + "h = MatMul(x, w1) q = Mul(h, h) m = ReduceMean<keepdims=1>(q, last) e = Add(m, eps) d = Sqrt(e)"
        " i = Reciprocal(d) n = Mul(h, i) z = Mul(n, gamma) y = MatMul(z, w2)}"
    )
    arrays = {"w1": weights(12, 8), "gamma": weights(8, seed=1), "w2": weights(8, 5, seed=2)}
    model = graph(text, {**arrays, "last": np.array([-1]), "eps": np.float32(1e-5)})
    examined = examine(model)
    assert examined.places() == [("gamma.0 w1.1 w2.0", 8)]
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


def test_forest_comes_back_as_it_was() -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]> g (float[N,4] x) => (float[N,1] y) {'
        "y = ai.onnx.ml.TreeEnsembleRegressor<n_targets=1, nodes_falsenodeids=[0], nodes_featureids=[0],"
        'nodes_hitrates=[1.0], nodes_missing_value_tracks_true=[0], nodes_modes=["LEAF"], nodes_nodeids=[0],'
        "nodes_treeids=[0], nodes_truenodeids=[0], nodes_values=[0.0], target_ids=[0], target_nodeids=[0],"
        "target_treeids=[0], target_weights=[1.5]>(x)}"
    )
    examined = examine(ir.from_onnx_text(text))
    assert examined.places() == []
    assert_oracle(examined, {})
