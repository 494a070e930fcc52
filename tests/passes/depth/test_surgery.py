# SPDX-License-Identifier: Apache-2.0
"""Parts are cut out without a trace, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import graph, nodes, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_chains import blocks, chain, feeds, part

from edgefold.passes import PreconditionError
from edgefold.passes.depth.parts import unlike
from edgefold.passes.depth.surgery import cut_out


@settings(max_examples=12, deadline=None)
@given(gone=st.sets(st.integers(0, 4)), shuffled=st.randoms(use_true_random=False))
def test_any_blocks_in_any_order_leave_the_chain_of_the_others(gone: set[int], shuffled: object) -> None:
    model = chain(5, last="y")
    order = sorted(gone)
    shuffled.shuffle(order)  # type: ignore[attr-defined]
    found = blocks(model)
    removed = cut_out(model, *(found[i] for i in order))
    assert len(removed) == 4 * len(gone)
    assert {name for name in model.graph.initializers if name[0] in "wu"} == {
        f"{kind}{i}" for kind in "wu" for i in set(range(5)) - gone
    }
    kept = chain(5, silent=tuple(gone), last="y")
    np.testing.assert_array_equal(run(model, feeds())[0], run(kept, feeds())[0])


def test_names_that_stay_are_the_names_of_before() -> None:
    model = chain(3, last="y")
    cut_out(model, blocks(model)[1])
    assert "d0 = MatMul(r0, u0)" in nodes(model)
    assert "a2 = MatMul(h1, w2)" in nodes(model)
    assert "h3 = Add(h1, d2)" in nodes(model)


def test_a_graph_output_keeps_its_name_and_readers_go_to_the_start() -> None:
    model = chain(3, last="h3, y")
    cut_out(model, blocks(model)[2])
    assert nodes(model)[-2:] == ["h3 = Identity(h2)", "y = MatMul(h2, v)"]
    assert [value.name for value in model.graph.outputs] == ["h3", "y"]
    silent = chain(3, silent=(2,), last="h3, y")
    for got, wanted in zip(run(model, feeds()), run(silent, feeds()), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_whole_of_a_stack_may_go() -> None:
    model = chain(2, last="h2")
    cut_out(model, *blocks(model))
    assert nodes(model) == ["h0 = MatMul(x, v)", "h2 = Identity(h0)"]


def test_what_others_read_stays() -> None:
    model = graph(
        """g (float[n, 32] x) => (float[n, 32] y, float[n, 32] z) {
            a = MatMul(x, w) s = Sigmoid(b) c = Mul(a, s) h = Add(x, c) y = Mul(h, s) z = MatMul(h, w)
        }""",
        {"w": weights(32, 32), "b": weights(32)},
    )
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    cut_out(model, part(model.graph.inputs[0], values["h"]))
    assert nodes(model) == ["s = Sigmoid(b)", "y = Mul(x, s)", "z = MatMul(x, w)"]
    assert set(model.graph.initializers) == {"w", "b"}


def test_what_was_dead_before_is_not_touched() -> None:
    model = graph("g (float[n, 32] x) => (float[n, 32] y) { a = Relu(x) dead = Abs(x) h = Add(x, a) y = Neg(h) }", {})
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    cut_out(model, part(model.graph.inputs[0], values["h"]))
    assert nodes(model) == ["dead = Abs(x)", "y = Neg(x)"]


def test_branches_in_a_part_let_go_of_what_they_captured() -> None:
    model = graph(
        """g (float[n, 32] x, bool c) => (float[n, 32] y) {
            a = Relu(x)
            b = If (c) <then_branch = t () => (float[n, 32] p) {
                    p = If (c) <then_branch = i () => (float[n, 32] r) { r = Mul(a, w) },
                                else_branch = j () => (float[n, 32] s) { s = Abs(a) }> },
                        else_branch = e () => (float[n, 32] q) { q = Neg(a) }>
            h = Add(x, b)
            y = If (c) <then_branch = t2 () => (float[n, 32] p2) { p2 = Abs(h) },
                        else_branch = e2 () => (float[n, 32] q2) { q2 = Identity(h) }>
        }""",
        {"w": weights(32)},
    )
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    cut_out(model, part(model.graph.inputs[0], values["h"]))
    assert nodes(model) == ["y = If(c)"]
    assert not model.graph.initializers
    x = weights(2, 32)
    np.testing.assert_array_equal(run(model, {"x": x, "c": np.array(True)})[0], np.abs(x))


def test_weights_that_are_listed_as_inputs_go_from_both_lists() -> None:
    model = chain(2, last="y")
    for name in ("w0", "w1"):  # as IR 3 has it
        model.graph.inputs.append(model.graph.initializers[name])
    cut_out(model, blocks(model)[0])
    assert [value.name for value in model.graph.inputs] == ["x", "w1"]
    assert "w0" not in model.graph.initializers


def test_obstacles_are_refused() -> None:
    model = chain(2, last="y")
    before = nodes(model)
    first = dataclasses.replace(blocks(model)[0], obstacle="k is read outside")
    with pytest.raises(PreconditionError, match="h1: k is read outside"):
        cut_out(model, first)
    assert nodes(model) == before


def test_values_of_other_shapes_or_types_are_unlike() -> None:
    body = "{ h = MatMul(x, w) y = Relu(h) z = Cast<to = 10>(x) same = Relu(x) }"
    outputs = "float[n, 16] y, float16[n, 32] z, float[m, 32] same"
    model = graph(f"g (float[n, 32] x) => ({outputs}) {body}", {"w": weights(32, 16)})
    x, (y, z, same) = model.graph.inputs[0], model.graph.outputs
    assert unlike(x, y) == "'x' has shape [n, 32] but 'y' has [n, 16]"
    assert unlike(x, z) == "'x' is FLOAT but 'z' is FLOAT16"
    assert unlike(x, same) is None  # the names of open sizes say nothing
