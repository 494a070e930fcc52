# SPDX-License-Identifier: Apache-2.0
"""Means taken out of residual streams: the same outputs, and only where nothing else reads the stream."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import Examined, assert_oracle
from graphs import graph, run, weights

from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.groups import Exactness
from edgefold.passes.pruning.norms import fold_means
from edgefold.passes.pruning.prepare import prepare
from edgefold.probing import probe

NORM = "LayerNormalization <axis = -1, epsilon = 0.001>"
DECOMPOSED = """m{i} = ReduceMean <keepdims = 1> ({x}, last)  d{i} = Sub({x}, m{i})  q{i} = Pow(d{i}, two)
  v{i} = ReduceMean <keepdims = 1> (q{i}, last)  e{i} = Add(v{i}, eps)  r{i} = Sqrt(e{i})  z{i} = Div(d{i}, r{i})
  k{i} = Mul(z{i}, g{i})  {y} = Add(k{i}, h{i})"""

PRE_NORM = """pre (float[B, 3, 8, 8] x) => (float[B, 5] y)
{ patches = Conv <strides = [4, 4]> (x, wp, bp)
  flat = Reshape(patches, shape)  tokens = Transpose <perm = [0, 2, 1]> (flat)
  batch = Shape <start = 0, end = 1> (x)  size = Concat <axis = 0> (batch, rest)  cls = Expand(token, size)
  all = Concat <axis = 1> (cls, tokens)  s0 = Add(all, position)
  {FIRST}
  a = MatMul(n0, w0)  b = Add(b0, a)  c = Gelu(b)  p = MatMul(c, w1)  o = Add(p, b1)  s1 = Add(s0, o)
  {SECOND}
  head = Gather <axis = 1> (n1, zero)  y = Gemm <transB = 1> (head, wh, bh) }"""


def vit(decomposed: bool) -> ir.Model:
    text = PRE_NORM
    for place, (x, y, i) in {"{FIRST}": ("s0", "n0", "0"), "{SECOND}": ("s1", "n1", "1")}.items():
        norm = DECOMPOSED.replace("{x}", x).replace("{y}", y).replace("{i}", i)
        text = text.replace(place, norm if decomposed else f"{y} = {NORM} ({x}, g{i}, h{i})")
    stored = {
        "wp": weights(16, 3, 4, 4), "bp": weights(16), "shape": np.array([0, 16, 4]), "rest": np.array([1, 16]),
        "token": weights(1, 1, 16), "position": weights(1, 5, 16, seed=1), "w0": weights(16, 12), "b0": weights(12),
        "w1": weights(12, 16), "b1": weights(16), "wh": weights(5, 16), "bh": weights(5), "zero": np.array(0),
        "g0": weights(16, seed=2), "h0": weights(16, seed=3), "g1": weights(16, seed=4), "h1": weights(16, seed=5),
        "last": np.array([-1]), "two": np.float32([2.0])[0], "eps": np.float32([1e-3])[0],
    }  # fmt: skip
    used = {
        name: np.asarray(array) for name, array in stored.items() if decomposed or name not in ("last", "two", "eps")
    }
    return graph(text, used)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_pre_norm_network_needs_no_mean_any_more(decomposed: bool) -> None:
    model = vit(decomposed)
    feeds = {"x": weights(3, 3, 8, 8, seed=7) + 1}
    expected = run(model, feeds)[0]
    prepare(model)
    edits = fold_means(model, probe(model, feeds))
    assert len(edits) == 2
    assert not {"LayerNormalization", "Sub"} & {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=1e-4, atol=1e-5)
    stored = model.graph.initializers
    for name, axis in {"wp": 0, "w1": 1, "b1": 0, "token": 2, "position": 2}.items():
        assert np.abs(stored[name].const_value.numpy().mean(axis=axis)).max() < 1e-6  # type: ignore[union-attr]


@pytest.mark.parametrize("decomposed", [False, True])
def test_the_channels_of_a_centred_stream_go_exactly(decomposed: bool) -> None:
    model = vit(decomposed)
    ties = prepare(model)
    trace = probe(model)
    before = analyse(model, trace, ties)
    fold_means(model, trace)
    trace = probe(model)
    after = analyse(model, trace, ties)
    stream, centred = (
        next(one for one in found.groups if any((s.parameter, s.axis) == ("w1", 1) for s in one.slices))
        for found in (before, after)
    )
    assert (stream.size, centred.size) == (16, 16)
    assert (stream.exactness, centred.exactness) == (Exactness.STATISTICS, Exactness.EXACT)
    assert_oracle(Examined(model, trace, after), {centred.name: np.array([0, 3, 4, 9, 15])})


POST_NORM = f"""post (float[B, 4, 6] x) => (float[B, 4, 8] y)
{{ a = MatMul(x, w0)  n0 = {NORM} (a, g, h)  p = MatMul(n0, w1)  s = Add(n0, p)  n1 = {NORM} (s, g2, h2)
  y = MatMul(n1, w2) }}"""


def test_a_stream_that_passes_through_a_normalization_keeps_its_mean() -> None:
    stored = {"w0": weights(6, 8), "w1": weights(8, 8), "w2": weights(8, 8)}
    model = graph(POST_NORM, {**stored, **{name: weights(8, seed=i) for i, name in enumerate(("g", "h", "g2", "h2"))}})
    feeds = {"x": weights(2, 4, 6, seed=9)}
    expected = run(model, feeds)[0]
    prepare(model)
    edits = fold_means(model, probe(model, feeds))
    assert len(edits) == 1  # the first reads a layer's output, which may be centred; the second a sum with a norm
    np.testing.assert_allclose(run(model, feeds)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "reader",
    ["z = MatMul(s, w1)", "z = Relu(s)", "z = Mul(s, g)", "z = Softmax(s)"],
)
def test_a_stream_that_something_else_reads_keeps_its_mean(reader: str) -> None:
    text = f"""read (float[B, 4, 6] x) => (float[B, 4, 8] y, float[B, 4, 8] z)
    {{ s = MatMul(x, w0)  y = {NORM} (s, g, h)  {reader} }}"""
    stored = {"w0": weights(6, 8), "g": weights(8), "h": weights(8, seed=1)}
    model = graph(text, {**stored, **({"w1": weights(8, 8)} if "w1" in reader else {})})
    prepare(model)
    assert not fold_means(model, probe(model))


def test_a_stream_that_is_an_output_or_an_input_keeps_its_mean() -> None:
    stored = {"w0": weights(6, 8), "g": weights(8), "h": weights(8, seed=1)}
    text = f"out (float[B, 6] x) => (float[B, 8] y, float[B, 8] s) {{ s = MatMul(x, w0)  y = {NORM} (s, g, h) }}"
    model = graph(text, stored)
    prepare(model)
    assert not fold_means(model, probe(model))
    model = graph(
        f"into (float[B, 8] x) => (float[B, 8] y) {{ y = {NORM} (x, g, h) }}", {"g": stored["g"], "h": stored["h"]}
    )
    prepare(model)
    assert not fold_means(model, probe(model))
