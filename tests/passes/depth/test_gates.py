# SPDX-License-Identifier: Apache-2.0
"""Gates change nothing while they are 1, and are the cut when they are 0."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from graphs import graph, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_chains import blocks, chain, feeds, part

from edgefold.passes.depth.gates import gated
from edgefold.passes.depth.surgery import cut_out
from edgefold.perturbing import perturb


@settings(max_examples=8, deadline=None)
@given(gone=st.sets(st.integers(0, 3)), backwards=st.booleans())
def test_closed_gates_are_the_cut_and_open_ones_the_original(gone: set[int], backwards: bool) -> None:
    model = chain(4, last="h2, y")
    found = blocks(model)
    order = [3, 2, 1, 0] if backwards else [0, 1, 2, 3]
    copy, names = gated(model, [found[i] for i in order])
    for got, wanted in zip(run(copy, feeds()), run(model, feeds()), strict=True):
        np.testing.assert_array_equal(got, wanted)
    closed = {name: np.full(1, float(i not in gone), np.float32) for i, name in zip(order, names, strict=True)}
    cut_out(model, *(found[i] for i in gone))
    for got, wanted in zip(run(copy, {**feeds(), **closed}), run(model, feeds()), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_gate_half_open_mixes() -> None:
    model = chain(1, last="h1")
    copy, (name,) = gated(model, blocks(model))
    whole, none, half = (run(copy, {**feeds(), name: np.full(1, g, np.float32)})[0] for g in (1, 0, 0.5))
    np.testing.assert_allclose(half, (whole + none) / 2, rtol=1e-4, atol=1e-5)


def test_the_model_is_not_changed_and_names_stay_with_the_stream() -> None:
    model = chain(2, last="y")
    before = [str(node) for node in model.graph]
    copy, names = gated(model, blocks(model))
    assert [str(node) for node in model.graph] == before
    assert names == ("gate:h1", "gate:h2")
    assert [value.name for value in copy.graph.inputs] == ["x", *names]
    readers = {str(node.name): [str(value.name) for value in node.inputs] for node in copy.graph}
    assert readers["up1"] == ["h1", "w1"]
    assert readers["head"] == ["h2", "v"]


def test_one_session_scores_every_choice() -> None:
    model = chain(3, silent=(1,), last="y")
    copy, names = gated(model, blocks(model))
    off = np.zeros(1, np.float32)
    changes = [{name: off} for name in names]
    errors = list(perturb(copy, changes, functools.partial(iter, [feeds(64)])))
    assert errors[1] < 1e-12 < 1e-4 < min(errors[0], errors[2])


@pytest.mark.parametrize("declared", [True, False])
def test_half_precision_streams_get_gates_of_their_type(declared: bool) -> None:
    model = graph(
        "g (float16[n, 32] x) => (float16[n, 32] y) { a = Relu(x) h = Add(x, a) y = Mul(h, w) }",
        {"w": weights(32).astype(np.float16)},
    )
    end = next(value for node in model.graph for value in node.outputs if value.name == "h")
    if not declared:
        end.type = None
    copy, (name,) = gated(model, [part(model.graph.inputs[0], end)])
    x = weights(2, 32).astype(np.float16)
    np.testing.assert_array_equal(run(copy, {"x": x})[0], run(model, {"x": x})[0])
    closed = run(copy, {"x": x, name: np.zeros(1, np.float32)})[0]
    np.testing.assert_allclose(closed, x * weights(32).astype(np.float16), rtol=1e-2)
