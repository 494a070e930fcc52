# SPDX-License-Identifier: Apache-2.0
"""The kind linear: a layer takes in the activation and the addition behind it, unless something else reads them."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from linear_blocks import HIDDEN, WIDTH, quantized

from edgefold.passes import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.cost import Device, Level
from edgefold.probing import probe

WIDE = f"float[n,{HIDDEN}] x, float[n,{WIDTH}] z"
LAYER = "u = MatMul(x, down) v = Add(u, c)"
TAKEN = {
    "activation": (f"{LAYER} y = Relu(v)", WIDE, ("clip", 1)),
    "activation of two nodes": (f"{LAYER} s = Sigmoid(v) y = Mul(v, s)", WIDE, ("swish", 1)),
    "addition": (f"{LAYER} y = Add(v, z)", WIDE, ("none", 1)),
    "activation and addition": (f"{LAYER} h = Tanh(v) y = Add(z, h)", WIDE, ("tanh", 1)),
    "an activation behind the addition stays": (f"{LAYER} h = Add(v, z) y = Relu(h)", WIDE, ("none", 2)),
}


def fuse(model: ir.Model, context: Context | None = None) -> Notes:
    feeds = {"x": graphs.weights(5, HIDDEN), "z": graphs.weights(5, WIDTH, seed=7)}
    there = {value.name for value in model.graph.inputs}
    known = {name: array for name, array in feeds.items() if name in there}
    return FuseBlocks(kinds=("linear",)).rewrite(model, context or Context(probe=lambda one: probe(one, feeds=known)))


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("activations", ["dynamic8", "static8", "float"])
def test_a_layer_takes_in_what_follows_it(name: str, activations: str) -> None:
    text, inputs, (activation, nodes) = TAKEN[name]
    model = quantized(text, inputs=inputs, activations=activations)
    feeds = {"x": graphs.weights(5, HIDDEN), "z": graphs.weights(5, WIDTH, seed=7)}
    [before] = graphs.run(model, feeds)
    notes = fuse(model)
    assert operators(model) == ["FusedLinear", "Relu"][:nodes]
    assert [row["activation"] for row in notes.table] == [activation]
    assert all(value.uses() for value in model.graph.initializers.values()), "constants of what is gone are gone"
    [after] = graphs.run(model, feeds)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * np.abs(before).max())


def test_of_two_layers_whose_sum_is_read_one_takes_the_other_in() -> None:
    model = quantized("u = MatMul(x, up) v = MatMul(x, up) h = Relu(v) y = Add(u, h)", inputs="float[n,{width}] x")
    model.graph.outputs[0].shape = ir.Shape([None, HIDDEN])
    feeds = {"x": graphs.weights(5, WIDTH)}
    [before] = graphs.run(model, feeds)
    context = Context(probe=lambda one: probe(one, feeds=feeds))
    assert len(fuse(model, context).edits) == 2
    assert operators(model) == ["FusedLinear", "FusedLinear"]
    np.testing.assert_array_equal(graphs.run(model, feeds)[0], before)


NEAR_MISSES = {
    "the product is read beside": f"{LAYER} h = Relu(v) e = ReduceMax(v) y = Add(h, e)",
    "a residual that is broadcast": f"{LAYER} e = ReduceMax(z) y = Add(v, e)",
    "not a function of one number": f"{LAYER} y = Softmax(v)",
    "the sum of a value with itself": f"{LAYER} y = Add(v, v)",
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_misses_are_left_alone(name: str) -> None:
    model = quantized(NEAR_MISSES[name], inputs=WIDE)
    before = graphs.nodes(model)
    assert not fuse(model).edits
    assert "FusedLinear" not in operators(model)
    assert graphs.nodes(model) == before


def test_what_the_user_excludes_stays() -> None:
    model = quantized(f"{LAYER} y = Relu(v)", inputs=WIDE)
    relu = next(node for node in model.graph if node.op_type == "Relu")
    relu.name = "relu"
    notes = fuse(model, Context(exclude=("relu",)))
    assert [str(skip.reason) for skip in notes.skips] == ["excluded by the user"]
    assert not notes.edits


def test_the_table_says_what_either_way_moves() -> None:
    device = Device("small", (Level("L1", 64 << 10, 100.0), Level("memory", np.inf, 1.0)))
    model = quantized(f"{LAYER} h = Relu(v) y = Add(h, z)", inputs=WIDE.replace("n", "2000"))
    context = Context(device=lambda _: device, probe=lambda one: probe(one, feeds={}, shapes={}))
    [row] = fuse(model, context).table
    moved = "result 625 KB in L1 (51%) and memory", "result 125 KB in L1 (51%) and memory, result at once 250 KB in L1"
    assert row["why"] == f"unfused {moved[0]}; fused {moved[1]}"
    assert row["fused_us"] < row["unfused_us"]
