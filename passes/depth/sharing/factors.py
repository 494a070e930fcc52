# SPDX-License-Identifier: Apache-2.0
"""A basis that the matrices of several layers share: W_l ~ D C_l, D stored once, each layer whitened by its own inputs.

    min sum_l v_l |L_l (W_l - D C_l)|^2      L_l' L_l = X_l' X_l, v_l = 1 / |L_l W_l|^2

Basis Sharing (2410.03765, section 3) adds the moments of the layers up before it whitens, which is its main error;
GeoPair (2026) keeps them apart and solves the Sylvester equation for D of a pair. Here the same normal equation
is solved by conjugate gradients, so that groups may have any number of layers. D and the C_l are solved for in turn,
from the basis of Basis Sharing on; the error never rises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._least_squares import damped, least_squares

Matrix = NDArray[np.float64]

_ROUNDS = 12
_STEPS = 8  # of conjugate gradients a round; the next round goes on from there
_DAMPING = 1e-4
_TINY = 1e-30


def shared_basis(matrices: Sequence[Matrix], moments: Sequence[Matrix], rank: int) -> tuple[Matrix, list[Matrix]]:
    """The basis [K, rank] and, for each layer, its coefficients [rank, N_l].

    Args:
        matrices: float64 [K, N_l], one a layer; for a single one the result is its whitened truncated SVD
            (SVD-LLM, 2403.07378, section 3.1).
        moments: float64 [K, K] of the inputs of each layer.
        rank: of the basis.
    """
    factor, inverse, grams = whitening(matrices, moments)
    whitened = [factor @ matrix for matrix in matrices]
    basis = _leading(np.concatenate(whitened, axis=1), rank)
    coefficients = [_coefficients(basis, gram, matrix) for gram, matrix in zip(grams, whitened, strict=True)]
    for _ in range(_ROUNDS if len(matrices) > 1 else 0):
        basis = _basis(basis, grams, whitened, coefficients)
        coefficients = [_coefficients(basis, gram, matrix) for gram, matrix in zip(grams, whitened, strict=True)]
    return inverse @ basis, coefficients


def whitening(matrices: Sequence[Matrix], moments: Sequence[Matrix]) -> tuple[Matrix, Matrix, list[Matrix]]:
    """F, its inverse, and the moments for F W in the place of W, which add up to the identity: well conditioned.

    They are those for outputs of energy one, so that every layer counts alike.
    """
    grams = [_scaled(damped(gram, _DAMPING), matrix) for gram, matrix in zip(moments, matrices, strict=True)]
    factor = np.linalg.cholesky(np.add.reduce(grams)).T
    inverse = np.asarray(np.linalg.inv(factor), np.float64)
    return factor, inverse, [inverse.T @ gram @ inverse for gram in grams]


def relative_error(matrix: Matrix, moments: Matrix, basis: Matrix, coefficients: Matrix) -> float:
    """Squared error of a layer's outputs over their energy."""
    lost = matrix - basis @ coefficients
    energy = float(np.vdot(matrix, moments @ matrix))
    return float(np.vdot(lost, moments @ lost)) / max(energy, _TINY)


def affordable_rank(inputs: int, outputs: Sequence[int], keep: float) -> int:
    """The largest rank whose factors store ``keep`` of the layers' weights; 0 where none does."""
    return int(keep * inputs * sum(outputs) / (inputs + sum(outputs)))


def _scaled(gram: Matrix, matrix: Matrix) -> Matrix:
    """The moments for outputs of energy one, so that every layer of a group counts alike."""
    return gram / max(float(np.vdot(matrix, gram @ matrix)), _TINY)


def _leading(matrix: Matrix, rank: int) -> Matrix:
    """The first left singular vectors, [K, rank]."""
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    leading: Matrix = vectors[:, ::-1][:, :rank]
    return leading


def _coefficients(basis: Matrix, gram: Matrix, matrix: Matrix) -> Matrix:
    product = gram @ basis
    return least_squares(basis.T @ product, product.T @ matrix, damping=1e-9)


def _basis(
    start: Matrix, grams: Sequence[Matrix], matrices: Sequence[Matrix], coefficients: Sequence[Matrix]
) -> Matrix:
    """D of sum_l G_l D (C_l C_l') = sum_l G_l W_l C_l', by conjugate gradients from ``start``."""
    squares = [one @ one.T for one in coefficients]

    def applied(basis: Matrix) -> Matrix:
        result: Matrix = np.add.reduce([gram @ basis @ square for gram, square in zip(grams, squares, strict=True)])
        return result

    right: Matrix = np.add.reduce([g @ w @ c.T for g, w, c in zip(grams, matrices, coefficients, strict=True)])
    return conjugate_gradients(start, right, applied)


def conjugate_gradients(start: Matrix, right: Matrix, applied: Callable[[Matrix], Matrix]) -> Matrix:
    """A few steps from ``start`` towards the solution of ``applied(x) = right``, for a positive definite map."""
    found = start
    residual = right - applied(found)
    direction, energy = residual, float(np.vdot(residual, residual))
    for _ in range(_STEPS):
        if energy <= _TINY:
            break
        image = applied(direction)
        step = energy / max(float(np.vdot(direction, image)), _TINY)
        found, residual = found + step * direction, residual - step * image
        energy, before = float(np.vdot(residual, residual)), energy
        direction = residual + energy / before * direction
    return found
