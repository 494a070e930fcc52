# SPDX-License-Identifier: Apache-2.0
"""Ranks within a budget, against every combination."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.factoring.ranks import Choices, by_error, uniform


def choice(k: int, n: int, seed: int) -> Choices:
    energies = np.sort(np.random.default_rng(seed).random(min(k, n)))[::-1] ** 3
    errors = np.append(np.cumsum(energies[::-1])[::-1] / energies.sum(), 0)
    return Choices(float(k * n), float(k + n), errors)


def total(choices: list[Choices], ranks: list[int | None]) -> tuple[float, float]:
    error = sum(0.0 if rank is None else one.errors[rank] for one, rank in zip(choices, ranks, strict=True))
    return error, sum(one.cost(rank) for one, rank in zip(choices, ranks, strict=True))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.floats(0.3, 1.0))
def test_no_other_ranks_of_that_cost_or_less_have_a_smaller_error(seed: int, share: float) -> None:
    choices = [choice(6 + seed % 5, 8, seed), choice(9, 7, seed + 1), choice(8, 8, seed + 2)]
    budget = share * sum(one.whole for one in choices)
    chosen = by_error(choices, budget)
    error, cost = total(choices, chosen)
    if any(rank != 1 for rank in chosen):
        assert cost <= budget
    others = itertools.product(*([None, *range(1, one.most + 1)] for one in choices))
    assert all(
        total(choices, list(ranks))[0] >= error - 1e-9 for ranks in others if total(choices, list(ranks))[1] <= cost
    )


def test_a_matrix_of_little_rank_gives_way_to_one_of_full_rank() -> None:
    flat = Choices(64.0, 16.0, np.append(np.linspace(1, 0, 9)[:-1], 0))
    steep = Choices(64.0, 16.0, np.array([1, 0.01, 0, 0, 0, 0, 0, 0, 0.0]))
    assert by_error([flat, steep], 80.0) == [None, 1]
    assert uniform([flat, steep], 80.0) == [2, 2]


def test_a_matrix_that_no_rank_shrinks_stays_whole() -> None:
    thin = Choices(4.0, 5.0, np.array([1, 0.0]))
    assert thin.most == 0
    assert by_error([thin], 0.1) == uniform([thin], 0.1) == [None]


def test_a_budget_below_all_ranks_gives_rank_one() -> None:
    assert by_error([choice(8, 8, 3)] * 2, 1.0) == uniform([choice(8, 8, 3)] * 2, 1.0) == [1, 1]


def test_the_whole_budget_leaves_all_as_it_is() -> None:
    choices = [choice(8, 9, 3), choice(7, 7, 4)]
    assert by_error(choices, 56 + 72 + 1) == uniform(choices, 72 + 49.0) == [None, None]
