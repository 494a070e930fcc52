# SPDX-License-Identifier: Apache-2.0
"""Models exported in half precision: their layers are recognised and compressed, and their weights stay float16."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.calibration import Calibration
from edgefold.passes import Pass
from edgefold.passes.base import Context, Effect
from edgefold.passes.compress_experts import CompressExperts
from edgefold.passes.dispatch_experts import DispatchExperts
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.merge_experts import MergeExperts
from edgefold.passes.prune_experts import PruneExperts
from edgefold.probing import probe
from edgefold.session import compute
from edgefold.verification import check_numerics, check_structure

X = weights(2, 20, 8, seed=7).astype(np.float16)


def half() -> ir.Model:
    """A residual layer of 4 experts of 24 hidden units, all float16, as one Einsum over all experts."""
    return graph(
        """model (float16[B, S, 8] x) => (float16[B, S, 8] y) {
            logits = MatMul(x, router)
            values, chosen = TopK <axis = -1>(logits, two)
            shares = Softmax <axis = -1>(values)
            size = Shape(logits)
            none = Expand(zero, size)
            gates = ScatterElements <axis = -1>(none, chosen, shares)
            up = Einsum <equation = "bsd,edf->bsef">(x, ups)
            hidden = Relu(up)
            mixed = Einsum <equation = "bsef,efd,bse->bsd">(hidden, downs, gates)
            y = Add(x, mixed)
        }""",
        {
            "router": weights(8, 4).astype(np.float16),
            "ups": weights(4, 8, 24, seed=1).astype(np.float16),
            "downs": (weights(4, 24, 8, seed=2) / 4).astype(np.float16),
            "zero": np.zeros(1, np.float16),
            "two": np.array([2], np.int64),
        },
    )


def context(model: ir.Model) -> Context:
    def batches() -> Iterator[dict[str, Array]]:
        yield from ({"x": weights(4, 50, 8, seed=seed).astype(np.float16)} for seed in range(4))

    return Context(
        calibration=Calibration(model, batches, threads=1),
        probe=lambda one: probe(one, {"x": X[:, :3]}),
        compute=compute,
    )


def stored(model: ir.Model) -> set[np.dtype[np.generic]]:
    """Types of the stored matrices."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return {one.numpy().dtype for one in tensors if one is not None and len(one.shape) == 2}


def error(model: ir.Model, original: ir.Model) -> float:
    wanted, got = (run(one, {"x": X})[0].astype(np.float64) for one in (original, model))
    assert got.shape == wanted.shape
    return float(np.square(got - wanted).sum() / np.square(wanted - X).sum())


def test_dispatch() -> None:
    original = half()
    model = original.clone()
    notes = DispatchExperts().rewrite(model, context(original))
    assert len(notes.edits) == 1
    assert len(find_dispatched(model)) == 1
    assert stored(model) == {np.dtype(np.float16)}
    check_structure(original, model, "dispatch-experts")
    check_numerics(original, model, DispatchExperts(), {"x": X})
    assert error(model, original) < 1e-5


STEPS = {
    "merge": MergeExperts(experts=2),
    "prune": PruneExperts(experts=3),
    "narrower": CompressExperts(keep=0.7),
    "own bases": CompressExperts(keep=0.7, basis="own", sparse=0.3),
    "shared bases": CompressExperts(keep=0.7, basis="shared"),
}


@pytest.mark.parametrize("name", STEPS)
def test_compression(name: str) -> None:
    step: Pass = STEPS[name]
    assert step.effect == Effect.LOSSY
    original = half()
    model = original.clone()
    notes = step.rewrite(model, context(original))
    assert len(notes.edits) > 1
    check_structure(original, model, name)
    assert stored(model) == {np.dtype(np.float16)}
    (layer,) = find_dispatched(model)
    assert layer.stored == ir.DataType.FLOAT16
    assert error(model, original) < 0.7
