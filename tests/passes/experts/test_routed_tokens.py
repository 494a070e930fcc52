# SPDX-License-Identifier: Apache-2.0
"""Calibration and quantization where experts get other tokens than in the original, in each batch, or none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import Array, run, weights

from edgefold.calibration import Calibration
from edgefold.passes._layer_inputs import Rows, Targets
from edgefold.passes.base import Context
from edgefold.passes.experts.routing import routed_rows
from edgefold.passes.quantize import Quantize


def feeds() -> Iterator[dict[str, Array]]:
    """Random tokens."""
    for number in range(4):
        yield {"x": weights(12, 8, seed=number)}


def uneven() -> Iterator[dict[str, Array]]:
    """Batches whose tokens all go to two of the first three experts; none ever goes to the last one."""
    directions = np.linalg.pinv(weights(8, 4, seed=99)).astype(np.float32)
    for number in range(4):
        kind = 6 * directions[number % 3] + 3 * directions[(number + 1) % 3]
        yield {"x": weights(12, 8, seed=number) / 10 + kind}


def values(model: ir.Model, batches: Iterator[dict[str, Array]], *names: str) -> list[dict[str, Array]]:
    copy = model.clone()
    found = {value.name: value for node in copy.graph for value in node.outputs}
    for name in names:
        found[name].shape = ir.Shape([None])
        copy.graph.outputs.append(found[name])
    return [dict(zip(["y", *names], run(copy, one), strict=True)) for one in batches]


def nudged() -> ir.Model:
    """The same layer behind a router that decides some tokens otherwise."""
    model = dispatched(experts(4))
    router = model.graph.initializers["router"]
    assert router.const_value is not None
    changed = router.const_value.numpy() + weights(8, 4, seed=7) / 2
    router.const_value = ir.tensor(changed.astype(np.float32), name="router")
    return model


def test_the_values_inside_an_expert_are_known() -> None:
    routed = routed_rows(dispatched(experts(4)))
    assert routed["moe/experts.2/up"] == "moe/experts.2/rows"
    assert routed["moe/experts.2/share"] == "moe/experts.2/rows"
    assert "moe/experts.2/sum" not in routed
    assert "gates" not in routed


def test_targets_are_those_of_the_same_tokens() -> None:
    now, original = nudged(), dispatched(experts(4))
    request, target = Rows("moe/experts.1/tokens"), Targets("moe/experts.1/up")
    calibration = Calibration(now, feeds)
    found = calibration.regressions({request: [target]}, calibration.through(original))[request].whole
    xty, rows, moved = np.zeros((8, 6)), 0, False
    routed = [values(model, feeds(), "moe/experts.1/rows") for model in (now, original)]
    for mine, theirs, batch in zip(*routed, feeds(), strict=True):
        shared = np.intersect1d(mine["moe/experts.1/rows"], theirs["moe/experts.1/rows"])
        moved |= len(shared) < len(mine["moe/experts.1/rows"])
        x = batch["x"][shared]
        xty += x.T @ (x @ experts(4)[1].inputs[1].weight)
        rows += len(shared)
    assert moved
    assert found.count == rows
    np.testing.assert_allclose(found.xty[0], xty, atol=1e-4)


@pytest.mark.parametrize("activations", [4, "static8"])
def test_experts_without_tokens_are_quantized_too(activations: int | str) -> None:
    model = dispatched(experts(4, f=32))
    routed = values(model, uneven(), *(f"moe/experts.{number}/rows" for number in range(4)))
    counts = [[len(batch[f"moe/experts.{number}/rows"]) for batch in routed] for number in range(4)]
    assert counts == [[12, 0, 12, 12], [12, 12, 0, 12], [0, 12, 12, 0], [0, 0, 0, 0]]
    calibration = Calibration(model, uneven)
    quantize = Quantize(weights=4, method="shift-lut", rounding="gptq", activations=activations)
    original = model.clone()
    notes = quantize.rewrite(model, Context(calibration=calibration))
    assert len(notes.edits) == 12
    for batch in uneven():
        old, new = run(original, batch)[0], run(model, batch)[0]
        assert np.square(old - new).mean() < 0.1 * np.square(old).mean()
