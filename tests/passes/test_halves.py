# SPDX-License-Identifier: Apache-2.0
"""How far moments of few batches are believed: rows that repeat each other count once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._halves import Halves
from edgefold.passes._moments import Moments

Batches = list[tuple[NDArray[np.float64], NDArray[np.float64]]]

K, N = 12, 3


def halves(batches: Batches) -> Halves:
    found = Halves(Moments.zeros(1, K, N), Moments.zeros(1, K, N))
    for number, (x, y) in enumerate(batches):
        (found.odd if number % 2 else found.even).add(x[None], y[None])
    return found


def drawn(rng: np.random.Generator, count: int, *, copies: int, noise: float = 0.0) -> Batches:
    """Batches of 60 rows, of which so many at a time are the same; targets are the first inputs plus noise."""
    spread = np.geomspace(0.5, 2, K)
    batches = []
    for _ in range(count):
        x = np.repeat(rng.standard_normal((60 // copies, K)) * spread + 5, copies, axis=0)
        y = x[:, :N] + noise * np.repeat(rng.standard_normal((60 // copies, N)), copies, axis=0)
        batches.append((x, y))
    return batches


def true_weights() -> NDArray[np.float64]:
    return np.eye(K + 1, N)[None]


def test_shrinkage_counts_observations_not_rows(rng: np.random.Generator) -> None:
    independent, copied = halves(drawn(rng, 20, copies=1)), halves(drawn(rng, 20, copies=60))
    assert independent.whole.count == copied.whole.count
    assert independent.shrinkage_ridge() < 0.05
    assert copied.shrinkage_ridge() > 5 * independent.shrinkage_ridge()


def test_shrinkage_brings_the_covariance_nearer_to_the_truth(rng: np.random.Generator) -> None:
    truth = np.diag(np.geomspace(0.5, 2, K) ** 2)
    before, after = 0.0, 0.0
    for _ in range(30):
        found = halves(drawn(rng, 8, copies=60))
        covariance = found.whole.covariance(found.whole.mean())[0]
        ridge = found.shrinkage_ridge()
        shrunk = (covariance + ridge * np.trace(covariance) / K * np.eye(K)) / (1 + ridge)
        before += float(np.square(covariance - truth).sum())
        after += float(np.square(shrunk - truth).sum())
    assert after < 0.9 * before


def test_covariance_about_the_mean_is_that_of_all_rows(rng: np.random.Generator) -> None:
    batches = drawn(rng, 3, copies=1)
    found = halves(batches)
    rows = np.concatenate([x for x, _ in batches])
    expected = np.cov(rows, rowvar=False, bias=True)
    np.testing.assert_allclose(found.whole.covariance(found.whole.mean())[0], expected, atol=1e-10)


def test_damping_is_strong_only_where_the_data_say_less_than_the_prior(rng: np.random.Generator) -> None:
    assert halves(drawn(rng, 20, copies=1, noise=0.1)).best_damping(true_weights() + 1) == 1e-3
    assert halves(drawn(rng, 10, copies=60, noise=1.0)).best_damping(true_weights()) >= 1.0


def test_one_batch_says_nothing_of_its_own_chance(rng: np.random.Generator) -> None:
    found = halves(drawn(rng, 1, copies=1))
    assert found.shrinkage_ridge() == 0
    assert found.best_damping(true_weights()) == 1e-3
    assert found.whole.count == 60
