# SPDX-License-Identifier: Apache-2.0
"""fuse-blocks: which linear layers become one operator, that it means the same, and what decides."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from edgefold import nodewise, verification
from edgefold.errors import VerificationError
from edgefold.passes import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.cost import TYPICAL, Device, Level, Move, Plan, decide
from edgefold.pipeline import Inputs, run_step
from edgefold.probing import probe

sys.path.insert(0, str(Path(__file__).parent / "fusion"))
from linear_blocks import WIDTH, quantized

UP = "u = MatMul(x, up) v = Add(u, b)"
DOWN = "d = MatMul(h, down) y = Add(d, c)"
ERF_GELU = "p = Div(v, root2) q = Erf(p) r = Add(q, one) s = Mul(v, r) h = Mul(s, half)"
ACTIVATIONS = {
    "relu": ("h = Relu(v)", 0),
    "gelu": ("h = Gelu(v)", 6),
    "gelu-written-out": (ERF_GELU, 6),
    "silu": ("s = Sigmoid(v) h = Mul(v, s)", 4),
    "hard-swish": ("h = HardSwish(v)", 5),
}


def fuse(model: ir.Model, context: Context | None = None, **options: object) -> Notes:
    return FuseBlocks(**options).rewrite(model, context or Context(probe=lambda one: probe(one, feeds={}, shapes={})))  # type: ignore[arg-type]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_two_layers_and_their_activation_become_one_operator(name: str) -> None:
    text, kind = ACTIVATIONS[name]
    model = quantized(f"{UP} {text} {DOWN}")
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    notes = fuse(model)
    assert operators(model) == ["FusedFeedForward"]
    assert model.graph.node(0).attributes.get_int("function") == kind
    assert all(value.uses() for value in model.graph.initializers.values()), "constants of what is gone are gone"
    assert len(notes.edits) == 1
    assert not notes.skips
    # Both are functions of the same standard operators.
    [after] = graphs.run(model, {"x": x})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


@pytest.mark.parametrize(("name", "allowed"), [("gelu", True), ("relu", False)])
def test_codes_may_turn_where_a_kernel_approximates(name: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of portability knows from the node's attributes what the kernels compute to the last bit."""
    model = quantized(f"{UP} {ACTIVATIONS[name][0]} {DOWN}")
    fuse(model)
    feeds, [node] = {"x": graphs.weights(5, WIDTH)}, nodewise.custom_nodes(model)
    kernel = nodewise.run_node(model, node, feeds)
    body = kernel + np.float32(5e-4 * np.abs(kernel).mean())
    monkeypatch.setattr(nodewise, "run_outputs", lambda *_, library=True, **__: [kernel if library else body])
    with contextlib.nullcontext() if allowed else pytest.raises(VerificationError, match="as it is written"):
        nodewise.prove_portable(model, feeds)


def test_the_residual_is_taken_in() -> None:
    model = quantized(f"{UP} h = Relu(v) d = MatMul(h, down) e = Add(d, c) y = Add(e, x)")
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    fuse(model)
    assert operators(model) == ["FusedFeedForward"]
    assert model.graph.node(0).inputs[-1] is model.graph.inputs[0]
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], before)


def test_blocks_behind_one_another() -> None:
    """The residual of the second is what the first gives."""
    first = f"{UP} h = Relu(v) d = MatMul(h, down) e = Add(d, c) z = Add(e, x)"
    second = "u2 = MatMul(z, up) v2 = Add(u2, b) h2 = Relu(v2) d2 = MatMul(h2, down) e2 = Add(d2, c) y = Add(z, e2)"
    model = quantized(first + " " + second)
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    fuse(model)
    assert operators(model) == ["FusedFeedForward", "FusedFeedForward"]
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], before)


PERCEPTRONS = {
    "three": ("u = MatMul(x, down) v = Add(u, c) h = Relu(v) u2 = MatMul(h, up) v2 = Add(u2, b)", 40, ["ShiftMatMul"]),
    "four": (f"{UP} i = Relu(v) e = MatMul(i, down) f = Relu(e) v2 = MatMul(f, up)", WIDTH, ["FusedFeedForward"]),
}


@pytest.mark.parametrize("layers", PERCEPTRONS)
def test_layers_in_a_row_pair_up_from_the_first(layers: str) -> None:
    """Each layer between could be the second of one block and the first of another."""
    text, width, last = PERCEPTRONS[layers]
    model = quantized(f"{text} h2 = Relu(v2) d = MatMul(h2, down) y = Add(d, c)", inputs=f"float[n,{width}] x")
    x = graphs.weights(5, width)
    [before] = graphs.run(model, {"x": x})
    notes = fuse(model)
    assert operators(model) == ["FusedFeedForward", *last]
    assert [model.graph.node(0).attributes.get_float(name, 7.0) for name in ("down_alpha", "down_beta")] == [0, np.inf]
    assert [skip.detail for skip in notes.skips] == ["it went with the layer before, and so begins no block itself"]
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], before)


def test_what_alone_reads_the_second_layer_is_taken_in() -> None:
    """A perceptron's activation, then the addition behind it."""
    model = quantized(f"{UP} h = Relu(v) d = MatMul(h, down) e = Add(d, c) f = HardSwish(e) y = Add(x, f)")
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    fuse(model)
    assert operators(model) == ["FusedFeedForward"]
    assert model.graph.node(0).attributes.get_int("down_function") == 5
    [after] = graphs.run(model, {"x": x})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


def test_an_activation_behind_an_addition_stays() -> None:
    model = quantized(f"{UP} h = Relu(v) d = MatMul(h, down) e = Add(d, c) f = Add(e, x) y = Relu(f)")
    fuse(model)
    assert operators(model) == ["FusedFeedForward", "Relu"]
    assert "down_function" not in model.graph.node(0).attributes


def test_of_two_blocks_whose_sum_is_taken_one_takes_it_in() -> None:
    other = "u2 = MatMul(x, up) v2 = Add(u2, b) h2 = HardSwish(v2) d2 = MatMul(h2, down)"
    model = quantized(f"{UP} h = Relu(v) d = MatMul(h, down) {other} y = Add(d, d2)")
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    fuse(model)
    assert operators(model) == ["FusedFeedForward", "FusedFeedForward"]
    [after] = graphs.run(model, {"x": x})
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


def test_a_residual_that_is_broadcast_stays_outside() -> None:
    text = f"{UP} h = Relu(v) d = MatMul(h, down) e = Add(d, c) y = Add(e, z)"
    model = quantized(text, inputs="float[n,{width}] x, float[1,{width}] z")
    fuse(model)
    assert operators(model) == ["FusedFeedForward", "Add"]


NEAR_MISSES = {
    "the hidden tensor is read beside": f"{UP} h = Relu(v) d = MatMul(h, down) e = ReduceMax(h) y = Add(d, e)",
    "no activation, and read beside": f"{UP} d = MatMul(v, down) e = ReduceMax(v) y = Add(d, e)",
    "not one function of the sum": f"{UP} w = Softmax(v) h = Mul(v, w) {DOWN}",
    "the sum is read beside": f"{UP} h = Relu(v) d = MatMul(h, down) e = ReduceMax(v) y = Add(d, e)",
    "one layer": "u = MatMul(x, up) h = Relu(u) y = ReduceMax(h)",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_left_alone(name: str) -> None:
    model = quantized(NEAR_MISSES[name])
    before = graphs.nodes(model)
    notes = fuse(model, kinds=("feed-forward",))
    assert graphs.nodes(model) == before
    assert not notes.edits


def test_layers_with_nothing_between_them_become_one_operator() -> None:
    """As the factors of a matrix of low rank."""
    model = quantized(f"{UP} d = MatMul(v, down) e = Add(d, c) y = Add(e, x)")
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    assert [row["activation"] for row in fuse(model).table] == ["none"]
    assert operators(model) == ["FusedFeedForward"]
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], before)


def test_without_an_activation_the_hidden_tensor_is_written_once_and_read_twice() -> None:
    device = Device("small", (Level("L1", np.inf, 100.0),))
    model = quantized(f"{UP} d = MatMul(v, down) y = Add(d, c)", inputs="float[64,{width}] x")
    context = Context(device=lambda _: device, probe=lambda one: probe(one, feeds={}, shapes={}))
    [row] = fuse(model, context).table
    assert row["why"].startswith("unfused hidden 30 KB in L1, "), "64 rows of 40 floats, three times"


def test_layers_around_an_activation_come_before_layers_with_nothing_between_them() -> None:
    text = f"t = MatMul(x, down) {UP.replace('x', 't')} h = Relu(v) {DOWN}"
    model = quantized(text, inputs="float[n,40] x")
    table = fuse(model).table
    assert [row["activation"] for row in table] == ["clip"]
    assert operators(model) == ["ShiftMatMul", "FusedFeedForward"]


def test_a_hidden_tensor_that_is_an_output_is_a_skip() -> None:
    model = quantized(f"{UP} h = Relu(v) {DOWN}")
    hidden = next(node for node in model.graph if node.op_type == "Relu").outputs[0]
    model.graph.outputs.append(hidden)
    notes = fuse(model, kinds=("feed-forward",))
    assert "FusedFeedForward" not in operators(model)
    assert str(notes.skips[0]).endswith("the value is a graph output (the hidden tensor)")


def test_float_layers_are_left_alone_and_excluded_ones_skipped() -> None:
    model = quantized(f"{UP} h = Relu(v) {DOWN}")
    notes = fuse(model, Context(exclude=("d",)), kinds=("feed-forward",))
    assert [str(skip.reason) for skip in notes.skips] == ["excluded by the user"]
    assert not notes.edits


def test_the_pipeline_compares_what_the_operators_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not their kernels: integer layers make a whole step of a code of the last bit of a GELU."""
    asked = []
    original = verification.run_model

    def recorded(*arguments: Any, **options: Any) -> Any:
        asked.append(options["library"])
        return original(*arguments, **options)

    monkeypatch.setattr(verification, "run_model", recorded)
    model = quantized(f"{UP} h = Gelu(v) {DOWN}")
    feeds = {"x": graphs.weights(5, WIDTH)}
    context = Context(probe=lambda one: probe(one, feeds=feeds))
    _, record = run_step(model, FuseBlocks(), Inputs(probe=feeds, calibration=None, shapes={}), context)
    assert asked == [False, False]
    assert record.difference is not None
    assert record.difference.relative <= 1e-6


@pytest.mark.parametrize("activations", ["static8", "float", "dynamic4"])
def test_every_kind_of_activations(activations: str) -> None:
    model = quantized(f"{UP} h = Relu(v) {DOWN}", activations=activations)
    x = graphs.weights(5, WIDTH)
    [before] = graphs.run(model, {"x": x})
    fuse(model)
    assert operators(model) == ["FusedFeedForward"]
    np.testing.assert_array_equal(graphs.run(model, {"x": x})[0], before)


@pytest.mark.parametrize(("cache", "fused"), [(2 << 10, True), (48 << 10, False), (90 << 10, True)])
def test_the_decision_is_taken_by_the_devices_caches(cache: int, fused: bool) -> None:
    """A cache that holds the weights of one layer (39 KB) but half of both loses the rest in turns, fused."""
    device = Device("small", (Level("L1", cache, 100.0), Level("memory", np.inf, 1.0)))
    model = quantized(f"{UP} h = Relu(v) {DOWN}", inputs="float[200,{width}] x", width=1600)
    context = Context(device=lambda _: device, probe=lambda one: probe(one, feeds={}, shapes={"x": (200, 1600)}))
    notes = fuse(model, context, kinds=("feed-forward",))
    assert (operators(model) == ["FusedFeedForward"]) == fused
    assert [row["fuse"] for row in notes.table] == [fused]
    if not fused:
        assert "weights 78 KB in L1; fused" in notes.skips[0].detail


def test_costs() -> None:
    device = Device("d", (Level("L1", 10, 2.0), Level("memory", np.inf, 0.5)))
    inside, outside = Plan(1, (Move("a", 1000, 10),)), Plan(1, (Move("a", 1000, 40),))
    assert inside.seconds(device) == pytest.approx(3e-7 + 500e-9)
    assert outside.seconds(device) == pytest.approx(3e-7 + 250 / 2.0 * 1e-9 + 750 / 0.5 * 1e-9)  # 10 of 40 stay in L1
    assert decide(outside, inside, device).fuse
    assert not decide(inside, outside, device).fuse
    assert decide(inside, outside, device).why == "unfused a 1 KB in L1; fused a 1 KB in L1 (25%) and memory"
    assert [level.name for level, _ in TYPICAL.shares(0)] == ["L1"]
    assert [level.name for level, _ in TYPICAL.shares(33 << 10)] == ["L1", "L2"]
