# SPDX-License-Identifier: Apache-2.0
"""The best approximation at each rank, against the whitened singular value decomposition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.factoring.spectra import Spectrum


def problem(rows: int, k: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((rows, k)) * np.exp(random.standard_normal(k))
    return inputs, random.standard_normal((k, n))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_factors_are_the_truncated_whitened_decomposition(k: int, n: int, seed: int) -> None:
    inputs, weight = problem(40, k, n, seed)
    rank = 1 + seed % min(k, n)
    spectrum = Spectrum.of(weight, inputs.T @ inputs)
    whitening = np.linalg.cholesky(inputs.T @ inputs).T
    u, s, v = np.linalg.svd(whitening @ weight, full_matrices=False)
    expected = np.linalg.solve(whitening, (u[:, :rank] * s[:rank]) @ v[:rank])
    first, second = spectrum.factors(weight, rank)
    assert first.shape == (k, rank)
    np.testing.assert_allclose(first @ second, expected, atol=1e-6 * np.abs(expected).max())
    error = np.square(inputs @ (weight - first @ second)).sum() / np.square(inputs @ weight).sum()
    np.testing.assert_allclose(spectrum.errors()[rank], error, atol=1e-9)


def test_plain_is_the_singular_value_decomposition_of_the_weights() -> None:
    _, weight = problem(1, 7, 5, 0)
    s = np.linalg.svd(weight, compute_uv=False)
    np.testing.assert_allclose(Spectrum.of(weight).energies, s**2)


def test_errors_run_from_all_to_nothing() -> None:
    inputs, weight = problem(30, 6, 8, 1)
    errors = Spectrum.of(weight, inputs.T @ inputs).errors()
    assert len(errors) == 7
    assert errors[0] == pytest.approx(1)
    assert errors[-1] == 0
    assert (np.diff(errors) <= 0).all()


def test_a_matrix_that_gives_nothing_has_no_error() -> None:
    assert Spectrum.of(np.zeros((3, 2))).errors().tolist() == [0, 0, 0]
