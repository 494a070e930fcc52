# SPDX-License-Identifier: Apache-2.0
"""What blocks keep to themselves beside what they share: scales, low-rank products, and the second of two factors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import run, weights
from residual_stacks import context_of, stack

from edgefold.passes import Context, Notes, ShareWeights, SkipReason


def shared(model: ir.Model, **options: object) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, ShareWeights(**options).rewrite(changed, context_of(model))  # type: ignore[arg-type]


def error(model: ir.Model, changed: ir.Model) -> float:
    feeds = {"x": weights(512, 32, seed=999)}
    wanted, got = run(model, feeds)[0], run(changed, feeds)[0]
    return float(np.square(wanted - got).sum() / np.square(wanted).sum())


def stored(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def test_corrections_lower_the_error() -> None:
    """With the weights of the last block the first one has most to correct, and the last one sees it corrected."""
    model = stack(4)
    plain, scaled, low, high = (
        error(model, shared(model, groups=((1, 2),), refits=0, source="last", **more)[0])
        for more in ({}, {"scales": True}, {"delta_rank": 4}, {"delta_rank": 16, "scales": True})
    )
    assert scaled < plain
    assert low < plain
    assert high < 0.3 * low


def test_full_rank_gives_the_original_back() -> None:
    model = stack(4)
    changed, _ = shared(model, groups=((1, 2),), refits=0, delta_rank=32)
    assert error(model, changed) < 1e-3


def test_corrections_count_against_the_budget() -> None:
    model = stack(5)
    _, plain = shared(model, keep=0.8, refits=0)
    changed, notes = shared(model, keep=0.8, refits=0, delta_rank=2)
    matrices = 5 * 2 * 32 * 48 * 4
    assert float(notes.stats["stored"]) <= 0.8
    assert stored(changed) <= stored(model) - 0.2 * matrices
    assert len(str(notes.stats["groups"])) > len("1+2")  # which would leave nothing for the products
    assert plain.stats["groups"] in ("1+2", "2+3", "3+4")


def test_names_of_outputs_stay() -> None:
    model = stack(4)
    changed, _ = shared(model, groups=((1, 2, 3),), refits=1, scales=True, delta_rank=2)
    names = {str(value.name) for node in changed.graph for value in node.outputs}
    assert {str(value.name) for node in model.graph for value in node.outputs} - {"u1", "u2", "u3"} <= names


def test_factors_share_a_basis_by_pairs() -> None:
    model = stack(5)
    changed, notes = shared(model, form="factors", bases="shared", keep=0.8, refits=1)
    bases = {name: list(value.uses()) for name, value in changed.graph.initializers.items() if name.endswith(".basis")}
    assert sorted(len(uses) for uses in bases.values()) == [1, 1, 2, 2, 2, 2]
    assert stored(changed) < stored(model) - 0.19 * 5 * 2 * 32 * 48 * 4
    assert error(model, changed) < 0.2
    assert notes.stats["shared_bases"] == 4


def test_the_better_basis_is_taken() -> None:
    model = stack(5)
    found = {
        bases: shared(model, form="factors", bases=bases, keep=0.6, refits=0) for bases in ("shared", "own", "best")
    }
    losses = {bases: float(notes.stats["factor_error"]) for bases, (_, notes) in found.items()}
    assert losses["best"] <= min(losses["shared"], losses["own"])
    assert found["own"][1].stats["shared_bases"] == 0


def test_refits_of_the_second_factors_help() -> None:
    model = stack(5)
    without, refitted = (shared(model, form="factors", keep=0.5, refits=refits)[0] for refits in (0, 1))
    assert error(model, refitted) < error(model, without)


def test_factors_need_calibration() -> None:
    model = stack(4)
    notes = ShareWeights(form="factors").rewrite(model, Context())
    assert notes.edits == ()
    assert [skip.reason for skip in notes.skips] == [SkipReason.NO_CALIBRATION]


@pytest.mark.parametrize("keep", [0.01])
def test_factors_without_rank_are_left_out(keep: float) -> None:
    model = stack(4)
    _, notes = shared(model, form="factors", keep=keep)
    assert notes.edits == ()
    assert {skip.reason for skip in notes.skips} == {SkipReason.WOULD_GROW}
