# SPDX-License-Identifier: Apache-2.0
"""Experts in low rank: what fits the rank is kept exactly, the bytes fall as asked, and the layer stays readable."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import Array, run, weights

from edgefold.calibration import Calibration
from edgefold.passes.base import Context, SkipReason
from edgefold.passes.compress_experts import CompressExperts
from edgefold.passes.experts.dispatch import Expert, Product
from edgefold.passes.experts.dispatched import find_dispatched

FEEDS = {"x": weights(200, 8, seed=41)}


def batches() -> Iterator[dict[str, Array]]:
    yield from ({"x": part} for part in np.split(weights(1200, 8, seed=40), 4))


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration(model, batches, threads=1))


def error(model: ir.Model, original: ir.Model) -> float:
    wanted = run(original, FEEDS)[0]
    return float(np.square(run(model, FEEDS)[0] - wanted).sum() / np.square(wanted).sum())


def expert_weights(model: ir.Model) -> int:
    names = [name for name in model.graph.initializers if name.startswith("moe")]
    arrays = [model.graph.initializers[name].const_value for name in names]
    return sum(one.size for one in arrays if one is not None and len(one.shape) == 2)


def between_bases(count: int, rank: int) -> list[Expert]:
    """Experts that read `rank` directions of the tokens, the same for all, and write into `rank`."""
    first, last = weights(8, rank, seed=70), weights(rank, 8, seed=71)
    narrow = experts(count, d=rank, f=24)
    return [
        Expert(tuple(Product(first @ one.weight) for one in expert.inputs), Product(expert.down.weight @ last))
        for expert in narrow
    ]


def test_experts_that_share_bases_are_kept_exactly() -> None:
    original = dispatched(between_bases(4, 3))
    model = original.clone()
    keep = (3 * 16 + 4 * 24 * 9) / (4 * 24 * 24)
    notes = CompressExperts(keep=keep, basis="shared").rewrite(model, calibrated(original))
    assert "rank 3" in notes.edits[0].what
    assert error(model, original) < 1e-9
    (layer,) = find_dispatched(model)
    assert [one.down.value().weight.shape for one in layer.experts] == [(24, 3)] * 4
    assert expert_weights(model) == int(keep * expert_weights(original))


@pytest.mark.parametrize("basis", ["own", "shared"])
def test_half_of_the_weights_go(basis: str) -> None:
    original = dispatched(experts(4, f=32))
    model = original.clone()
    CompressExperts(keep=0.5, basis=basis).rewrite(model, calibrated(original))  # type: ignore[arg-type]
    assert expert_weights(model) <= 0.5 * expert_weights(original)
    assert 0 < error(model, original) < 0.95
    assert len(find_dispatched(model)) == 1


def test_more_weights_are_less_error() -> None:
    original = dispatched(experts(4, f=32))
    errors = []
    for keep in (0.3, 0.5, 0.7):
        model = original.clone()
        CompressExperts(keep=keep, basis="shared").rewrite(model, calibrated(original))
        errors.append(error(model, original))
    assert errors == sorted(errors, reverse=True)


def test_a_bias_behind_the_last_matrix_and_more_axes_are_kept() -> None:
    original = dispatched(experts(4, f=32, bias=True), axes="B, S, 8")
    model = original.clone()

    def texts() -> Iterator[dict[str, Array]]:
        yield from ({"x": weights(4, 50, 8, seed=seed)} for seed in range(4))

    CompressExperts(keep=0.7, basis="shared").rewrite(model, Context(calibration=Calibration(original, texts)))
    x = {"x": weights(3, 9, 8, seed=9)}
    wanted, got = run(original, x)[0], run(model, x)[0]
    assert got.shape == wanted.shape
    assert np.square(got - wanted).sum() < 0.5 * np.square(wanted).sum()


@pytest.mark.parametrize("basis", ["own", "shared"])
def test_what_cannot_be_compressed_is_named(basis: str) -> None:
    step = CompressExperts(keep=0.01, basis=basis)  # type: ignore[arg-type]
    model = dispatched(experts(4))
    assert step.rewrite(model.clone(), Context()).skips[0].reason == SkipReason.NO_CALIBRATION
    whole = CompressExperts(keep=1.0).rewrite(model.clone(), calibrated(model))
    assert [skip.reason for skip in whole.skips] == [SkipReason.NOTHING_TO_GAIN]
    if basis == "shared":
        notes = step.rewrite(model, calibrated(model.clone()))
        assert [skip.reason for skip in notes.skips] == [SkipReason.WOULD_GROW]
        assert not notes.edits
