# SPDX-License-Identifier: Apache-2.0
"""A layer in dispatch form computes the mixture, and is read back as it was written."""

from __future__ import annotations

import numpy as np
import pytest
from dispatched_models import dispatched, experts, forward
from graphs import graph, nodes, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.base import Context
from edgefold.passes.experts.activation import Applied, Expression, Operand, Scalar, name_of, named
from edgefold.passes.experts.dispatch import write_dispatch
from edgefold.passes.experts.dispatched import find_dispatched, replace_dispatched
from edgefold.passes.low_rank import LowRank
from edgefold.passes.quantize import Quantize

FORMS = [("silu", True), ("gelu", False), ("gelu-tanh", True), ("relu", False), ("swiglu-clamped", True)]


@pytest.mark.parametrize(("kind", "gated"), FORMS)
@pytest.mark.parametrize("tokens", [0, 7])
def test_what_is_written_computes_the_mixture(kind: str, gated: bool, tokens: int) -> None:
    members = experts(4, gated=gated, bias=kind == "swiglu-clamped")
    activation = named(kind, gated=gated)
    model = dispatched(members, activation)
    model.graph.outputs.append(next(value for node in model.graph for value in node.outputs if value.name == "gates"))
    x = weights(tokens, 8, seed=3)
    y, gates = run(model, {"x": x})
    np.testing.assert_allclose(y, forward(members, activation, x, gates), atol=1e-5)


def test_axes_before_the_last_are_run_together() -> None:
    members = experts(4)
    x = weights(2, 3, 8, seed=3)
    (flat,) = run(dispatched(members), {"x": x.reshape(6, 8)})
    (whole,) = run(dispatched(members, axes="B, S, 8"), {"x": x})
    np.testing.assert_array_equal(whole, flat.reshape(2, 3, 8))


@pytest.mark.parametrize(("kind", "gated"), FORMS)
def test_what_is_written_is_read_back(kind: str, gated: bool) -> None:
    members = experts(4, gated=gated, bias=True)
    (layer,) = find_dispatched(dispatched(members, named(kind, gated=gated), axes="B, S, 8"))
    assert name_of(layer.activation) == kind
    assert (layer.name, layer.output.name, layer.x.name, layer.gates.name) == (
        "moe", "moe/experts.3/sum", "moe/tokens", "moe/gates",
    )  # fmt: skip
    assert [expert.index for expert in layer.experts] == [0, 1, 2, 3]
    for found, member in zip(layer.experts, members, strict=True):
        for product, written in zip((*found.inputs, found.down), (*member.inputs, member.down), strict=True):
            np.testing.assert_array_equal(product.value().weight, written.weight)
            np.testing.assert_array_equal(product.value().bias, written.bias)


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 5), tokens=st.integers(0, 6), seed=st.integers(0, 99), routed=st.sampled_from([0.0, 0.3, 1.0])
)
def test_any_gates(count: int, tokens: int, seed: int, routed: float) -> None:
    members = experts(count)
    model = graph("model (float[T, 8] x, float[T, M] gates) => (float[T, 8] y) { y = Identity(x) }", {})
    x, gates = model.graph.inputs
    output = write_dispatch(model.graph, "moe", x, gates, members, named("silu", gated=True))
    model.graph[0].replace_input_with(0, output)
    model.graph.sort()
    random = np.random.default_rng(seed)
    values = np.where(random.random((tokens, count)) < routed, random.standard_normal((tokens, count)), 0)
    feeds = {"x": weights(tokens, 8, seed=seed), "gates": values.astype(np.float32)}
    expected = forward(members, named("silu", gated=True), feeds["x"], feeds["gates"])
    np.testing.assert_allclose(run(model, feeds)[0], expected, atol=1e-4)


def test_tied_weights_stay_tied() -> None:
    first, second = experts(2)
    model = dispatched([first, second, first, first])
    assert sum(".up" in name for name in model.graph.initializers) == 2


def test_names_do_not_matter() -> None:
    model = dispatched(experts(4))
    for position, node in enumerate(model.graph):
        node.name = f"n{position}"
        node.outputs[0].name = f"v{position}"
    assert len(find_dispatched(model)[0].experts) == 4


def test_the_order_of_gate_and_up_is_found_by_arithmetic() -> None:
    members = experts(3)
    backwards = Applied("Mul", (Operand(0), Applied("Mul", (Operand(1), Applied("Sigmoid", (Operand(1),))))))
    (layer,) = find_dispatched(dispatched(members, backwards))
    assert name_of(layer.activation) == "silu"
    np.testing.assert_array_equal(layer.experts[0].inputs[0].value().weight, members[0].inputs[1].weight)


def test_an_activation_without_a_name_passes_through() -> None:
    strange: Expression = Applied("Mul", (Applied("Softplus", (Operand(0),)), Scalar(0.75)))
    model = dispatched(experts(3, gated=False), strange)
    (layer,) = find_dispatched(model)
    assert layer.activation == strange
    assert name_of(layer.activation) is None


@pytest.mark.parametrize("step", [LowRank(keep=0.5, weighting="none", repair=False), Quantize(rounding="nearest")])
def test_a_layer_is_read_after_other_passes(step: LowRank | Quantize) -> None:
    model = dispatched(experts(4, d=8, f=64))
    step.rewrite(model, Context())
    (layer,) = find_dispatched(model)
    assert [len(expert.inputs) for expert in layer.experts] == [2] * 4
    assert layer.experts[0].down.packed == isinstance(step, Quantize)


def test_experts_are_replaced_in_place() -> None:
    members = experts(4)
    model = dispatched(members)
    before = nodes(model)
    x = weights(7, 8, seed=3)
    (expected,) = run(model, {"x": x})
    (layer,) = find_dispatched(model)
    replace_dispatched(model.graph, layer, layer.gates, [one.value() for one in layer.experts])
    assert nodes(model) == before
    np.testing.assert_array_equal(run(model, {"x": x})[0], expected)
    (layer,) = find_dispatched(model)
    replace_dispatched(model.graph, layer, layer.gates, [one.value() for one in layer.experts[:2]])
    assert sum(".up" in name for name in model.graph.initializers) == 2


def test_a_column_of_other_gates_is_not_one_layer() -> None:
    model = dispatched(experts(4))
    lookups = [node for node in model.graph if node.op_type == "Gather" and node.inputs[0].name == "gates"]
    lookups[2].replace_input_with(0, next(v for n in model.graph for v in n.outputs if v.name == "scores"))
    assert find_dispatched(model) == ()


def test_a_sum_that_is_read_elsewhere_ends_the_layer() -> None:
    model = dispatched(experts(4))
    model.graph.outputs.append(find_dispatched(model)[0].experts[1].scatter.outputs[0])
    assert [len(layer.experts) for layer in find_dispatched(model)] == [2]
