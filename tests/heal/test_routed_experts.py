# SPDX-License-Identifier: Apache-2.0
"""Experts in dispatch form are trained: also where a batch sends no token to some of them, and with packed weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

_PASSES = Path(__file__).parents[1] / "passes"
sys.path[:0] = [str(_PASSES), str(_PASSES / "experts")]

from dispatched_models import dispatched, experts  # noqa: E402
from torch_graphs import assert_same, in_torch  # noqa: E402

from edgefold.heal.graph_module import GraphModule  # noqa: E402
from edgefold.passes.base import Context  # noqa: E402
from edgefold.passes.quantize import Quantize  # noqa: E402

X = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)


@pytest.mark.parametrize("tokens", [0, 7])
@pytest.mark.parametrize("packed", [False, True])
def test_forward(tokens: int, packed: bool) -> None:
    model = dispatched(experts(4, f=32, bias=True))
    if packed:
        assert len(Quantize(weights=4, rounding="nearest").rewrite(model, Context()).edits) == 12
    assert_same(model, {"x": X[:tokens]})


@pytest.mark.parametrize("packed", [False, True])
def test_backward(packed: bool) -> None:
    model = dispatched(experts(4, f=32))
    if packed:
        Quantize(weights=4, rounding="nearest").rewrite(model, Context())
    module = GraphModule(model)
    in_torch(module, {"x": X[:1]})["y"].square().sum().backward()
    moved = {
        number
        for name, weight in module.named_parameters()
        for number in range(4)
        if f"experts.{number}." in name.replace("/", ".") and weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert len(moved) == 2  # the two experts that the token goes to
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in module.parameters())
