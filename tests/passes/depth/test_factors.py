# SPDX-License-Identifier: Apache-2.0
"""A basis that layers share: the singular value decomposition for one, better than added moments for more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.depth.sharing import factors
from edgefold.passes.depth.sharing.factors import affordable_rank, relative_error, shared_basis

Matrix = np.ndarray


def layer(seed: int, inputs: int = 20, outputs: int = 30) -> tuple[Matrix, Matrix]:
    """A matrix, and the second moments of inputs that are strong in some directions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, inputs)) @ (rng.standard_normal((inputs, inputs)) * np.exp(rng.normal(size=inputs)))
    return rng.standard_normal((inputs, outputs)), x.T @ x


def errors(layers: list[tuple[Matrix, Matrix]], rank: int) -> list[float]:
    basis, coefficients = shared_basis([w for w, _ in layers], [g for _, g in layers], rank)
    return [relative_error(w, g, basis, c) for (w, g), c in zip(layers, coefficients, strict=True)]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 19))
def test_one_layer_has_its_whitened_truncated_svd(seed: int, rank: int) -> None:
    matrix, gram = layer(seed)
    values = np.linalg.svd(np.linalg.cholesky(gram).T @ matrix, compute_uv=False)
    [error] = errors([(matrix, gram)], rank)
    assert error == pytest.approx(np.square(values[rank:]).sum() / np.square(values).sum(), rel=0.05, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_layers_whitened_apart_lose_less_than_with_their_moments_added_up(seed: int) -> None:
    layers = [layer(seed + number) for number in range(3)]
    ours = errors(layers, 8)
    rounds, factors._ROUNDS = factors._ROUNDS, 0
    try:
        added = errors(layers, 8)
    finally:
        factors._ROUNDS = rounds
    assert sum(ours) < 0.97 * sum(added)


def test_layers_of_one_subspace_share_their_basis_without_loss() -> None:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((20, 5))
    layers = [(basis @ rng.standard_normal((5, 30)), layer(number)[1]) for number in range(2)]
    assert max(errors(layers, 5)) < 1e-6


def test_full_rank_loses_nothing() -> None:
    assert max(errors([layer(1), layer(2)], 20)) < 1e-6


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    matrix, gram = layer(3)
    gram[:5] = gram[:, :5] = 0
    assert errors([(matrix, gram), layer(4)], 10)[0] < 0.6


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.lists(st.integers(1, 64), min_size=1, max_size=4), st.floats(0.05, 1))
def test_the_rank_fits_the_budget(inputs: int, outputs: list[int], keep: float) -> None:
    rank = affordable_rank(inputs, outputs, keep)
    budget = keep * inputs * sum(outputs)
    assert rank * (inputs + sum(outputs)) <= budget < (rank + 1) * (inputs + sum(outputs)) * (1 + 1e-9)
