# SPDX-License-Identifier: Apache-2.0
"""Matrices of several blocks as mixtures of a few that they share, and what comes of them in the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import run, weights
from residual_stacks import context_of, stack

from edgefold.passes import Context, Notes, ShareWeights, SkipReason
from edgefold.passes.depth.sharing.atoms import affordable, mixtures
from edgefold.passes.quantize import Quantize

KEEP = 0.7


def shared(model: ir.Model, **options: object) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, ShareWeights(form="atoms", **options).rewrite(changed, context_of(model))  # type: ignore[arg-type]


def error(model: ir.Model, changed: ir.Model) -> float:
    feeds = {"x": weights(512, 32, seed=999)}
    wanted, got = run(model, feeds)[0], run(changed, feeds)[0]
    return float(np.square(wanted - got).sum() / np.square(wanted).sum())


def layers(count: int, atoms: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Mixtures of so many matrices, and moments of inputs that differ from layer to layer."""
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((atoms, 12, 20))
    shares = rng.standard_normal((count, atoms))
    inputs = [rng.standard_normal((200, 12)) @ np.diag(np.exp(rng.normal(size=12))) for _ in range(count)]
    return list(np.einsum("ls,skn->lkn", shares, parts)), [x.T @ x for x in inputs]


def test_mixtures_of_as_many_atoms_are_found() -> None:
    matrices, moments = layers(5, 2)
    found = mixtures(matrices, moments, 0.6)
    assert found is not None
    assert len(found.atoms) == 2
    assert max(found.errors) < 1e-4
    for matrix, shares, (down, up) in zip(matrices, found.shares, found.own, strict=True):
        made = np.einsum("s,skn->kn", shares, found.atoms) + down @ up
        assert np.abs(made - matrix).max() < 0.05 * np.abs(matrix).max()


def test_errors_are_those_of_the_outputs_for_each_layers_own_inputs() -> None:
    matrices, moments = layers(4, 4)
    found = mixtures(matrices, moments, 0.6)
    assert found is not None
    for matrix, gram, shares, (down, up), told in zip(
        matrices, moments, found.shares, found.own, found.errors, strict=True
    ):
        lost = matrix - np.einsum("s,skn->kn", shares, found.atoms) - down @ up
        assert told == pytest.approx(np.vdot(lost, gram @ lost) / np.vdot(matrix, gram @ matrix), rel=0.02, abs=1e-6)


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9])
def test_budgets_are_kept(keep: float) -> None:
    for count, rank in affordable(5, 12, 20, keep):
        assert count * (12 * 20 + 5) + 5 * rank * (12 + 20) <= keep * 5 * 12 * 20
        assert rank >= 1
    assert not list(affordable(2, 12, 20, 0.4))


def test_atoms_are_stored_once_and_read_by_every_block_of_the_group() -> None:
    model = stack(5)
    changed, notes = shared(model, keep=KEEP, refits=0)
    atoms = {name: list(value.uses()) for name, value in changed.graph.initializers.items() if ".atom" in name}
    assert len(atoms) == notes.stats["atoms"] >= 2
    assert {len(uses) for uses in atoms.values()} == {4}  # block 0 is private: factors of its own
    assert not {f"up{number}" for number in range(5)} & set(changed.graph.initializers)
    before, after = (
        sum(
            value.const_value.nbytes
            for value in one.graph.initializers.values()
            if value.const_value is not None and len(value.const_value.shape) > 1
        )
        for one in (model, changed)
    )
    matrices = 5 * 2 * 32 * 48 * 4
    assert after <= before - (1 - KEEP) * matrices
    assert error(model, changed) < 0.3


def test_a_refit_of_the_products_helps() -> None:
    model = stack(5)
    assert error(model, shared(model, keep=KEEP, refits=1)[0]) < error(model, shared(model, keep=KEEP, refits=0)[0])


def test_where_no_atom_fits_blocks_get_factors_and_the_report_says_so() -> None:
    model = stack(3)
    changed, notes = shared(model, keep=0.45, refits=0)
    assert not [name for name in changed.graph.initializers if ".atom" in name]
    assert [skip.reason for skip in notes.skips] == [SkipReason.FALLBACK] * 2
    assert "no room for an atom" in notes.skips[0].detail


def test_without_calibration_nothing_changes() -> None:
    notes = ShareWeights(form="atoms").rewrite(stack(4), Context())
    assert notes.edits == ()
    assert [str(skip) for skip in notes.skips] == ["model: needs calibration data (atoms need calibration data)"]


def test_quantize_packs_an_atom_once() -> None:
    model = stack(5)
    changed, _ = shared(model, keep=KEEP, refits=0)
    small = changed.clone()
    Quantize(weights=8, method="shift", activations="float").rewrite(small, Context())
    packed = [node.inputs[1] for node in small.graph if node.op_type == "ShiftMatMul" and "_atom" in str(node.name)]
    assert len(packed) == 4 * len(set(packed))
    assert error(changed, small) < 0.01
