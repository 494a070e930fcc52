# SPDX-License-Identifier: Apache-2.0
"""Real models cut at random units of every exact group, compared value by value, and cut again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import Array, Examined, assert_oracle, examine, sized_feeds, some_units

from edgefold.files.loading import load_model
from edgefold.passes.pruning.groups import Pruned
from edgefold.passes.pruning.masking import masked
from edgefold.session import make_session, run

SLOW = ("gpt_charlm/model_dynamo.onnx", "ultraface_slim320/model.onnx", "vit_mnist/model.onnx")
MODELS = ["cifar_resnet20/model.onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", MODELS)
def test_every_value_that_is_left_is_what_it_was(data_folder: Path, name: str) -> None:
    if not (data_folder / name).exists():
        pytest.skip(f"{name} is not among the real models")
    examined = examine(load_model(data_folder / name).model)
    pruned = some_units(examined.dependencies, 0.5)
    assert pruned
    small = assert_oracle(examined, pruned)
    compared = differences_inside(examined, small, pruned)
    assert len(compared) > 30
    assert max(compared.values()) < 1e-4
    again = examine(small)
    assert_oracle(again, some_units(again.dependencies, 0.3, seed=1))


def differences_inside(examined: Examined, small: ir.Model, pruned: Pruned) -> dict[str, float]:
    """For every float value of both models the largest difference, relative to its largest element."""
    whole = masked(examined.model, examined.dependencies, examined.trace, pruned)
    produced = [{value.name for node in model.graph for value in node.outputs} for model in (small, whole)]
    names = sorted(name for name in produced[0] & produced[1] if name and name not in examined.trace.values)
    kept = examined.dependencies.kept(pruned)
    feeds = sized_feeds(examined.model)[0]
    found = {}
    for name, got, wanted in zip(names, values(small, names, feeds), values(whole, names, feeds), strict=True):
        for axis in range(wanted.ndim):
            if (name, axis) in kept:
                wanted = np.take(wanted, kept[name, axis], axis)
        assert got.shape == wanted.shape, name
        if got.dtype.kind == "f" and got.size:
            found[name] = float(np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-6))
    return found


def values(model: ir.Model, names: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
    copy = model.clone()
    outputs = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs[name] for name in names)
    return run(make_session(copy, threads=1, optimize=False), None, feeds)
