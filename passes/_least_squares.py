# SPDX-License-Identifier: Apache-2.0
"""Damped least squares on second moments, block inverses and downdates: the repair step of every lossy pass.

All functions take leading batch axes, so that a MatMul [K, N], the groups of a convolution [P, K, N/P] and stacked
experts [E, K, N] go the same way. K is the number of inputs; a convolution's K runs over kernel positions and channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

DAMPING = 1e-4  # of the mean diagonal
_SMALL = 64  # triangular blocks up to this size are inverted by LAPACK
_BLOCK_ELEMENTS = 1 << 22  # weights of blocks that are solved for together
_CUTOFF = 1e-12  # eigenvalues below this fraction of the largest count as zero


def least_squares(
    xtx: Matrix, xty: Matrix, *, damping: float = DAMPING, prior: Matrix | None = None, bias_row: bool = False
) -> Matrix:
    """The W that minimizes |X W - Y|^2 + ridge * |W - prior|^2, from moments alone.

    Args:
        xtx: float64 [..., K, K], X'X.
        xty: float64 [..., K, N], X'Y. With Y from the original model and X from the changed one this is the asymmetric
            form, which also repairs what earlier layers lost.
        damping: ridge as a fraction of the mean diagonal of X'X; 0 gives the solution nearest to `prior` where X'X is
            singular.
        prior: float64 [..., K, N], what the ridge pulls towards; None for zero.
        bias_row: the last input is the constant one and is not damped (`Moments.with_bias`).

    Returns:
        W, float64 [..., K, N].

    Raises:
        ValueError: negative damping, or moments that are not finite or do not fit.
    """
    _check(xtx, damping)
    if xty.shape[:-1] != xtx.shape[:-1]:
        raise ValueError(f"X'Y of shape {xty.shape} does not fit X'X of shape {xtx.shape}")
    residual = xty if prior is None else xty - xtx @ prior
    step = _solve(_damped(xtx, damping, bias_row), residual)
    return step if prior is None else prior + step


def damped_inverse(xtx: Matrix, damping: float = DAMPING) -> Matrix:
    """Inverse of X'X + damping * mean(diag X'X) * I, float64 [..., K, K].

    Raises:
        ValueError: negative damping, moments that are not finite, or a singular matrix with damping 0.
    """
    _check(xtx, damping)
    try:
        factor = triangular_inverse(_cholesky(_damped(xtx, damping, bias_row=False)))
    except np.linalg.LinAlgError as error:
        raise ValueError("the second moments are singular; use a positive damping") from error
    return np.swapaxes(factor, -1, -2) @ factor


def damped(xtx: Matrix, damping: float) -> Matrix:
    """X'X + damping * mean(diag X'X) * I, float64 [..., K, K]; with the identity's ridge where X is all zero."""
    _check(xtx, damping)
    return _damped(xtx, damping, bias_row=False)


def triangular_inverse(lower: Matrix) -> Matrix:
    """Inverse of a lower triangular matrix, float64 [..., K, K], by halves: its cost is that of matrix products."""
    size = lower.shape[-1]
    if size <= _SMALL:
        inverse: Matrix = np.tril(np.linalg.inv(lower))
        return inverse
    half = size // 2
    result = np.zeros_like(lower)
    first = result[..., :half, :half] = triangular_inverse(lower[..., :half, :half])
    last = result[..., half:, half:] = triangular_inverse(lower[..., half:, half:])
    result[..., half:, :half] = -last @ (lower[..., half:, :half] @ first)
    return result


def downdate(inverse: Matrix, removed: Sequence[int] | NDArray[np.intp]) -> Matrix:
    """The inverse of H without some rows and columns, from the inverse of H (Optimal Brain Compression, 2208.11580).

    Args:
        inverse: float64 [..., K, K], inverse of a positive definite H.
        removed: the r inputs that go.

    Returns:
        float64 [..., K - r, K - r], the kept inputs in their order.
    """
    gone = np.unique(np.asarray(removed, dtype=np.intp))
    kept = np.setdiff1d(np.arange(inverse.shape[-1]), gone)
    result: Matrix = inverse[..., kept[:, None], kept]
    if len(gone):
        cross = inverse[..., kept[:, None], gone]
        result = result - cross @ np.linalg.solve(inverse[..., gone[:, None], gone], np.swapaxes(cross, -1, -2))
    return (result + np.swapaxes(result, -1, -2)) / 2


def removal_errors(weight: Matrix, inverse: Matrix, blocks: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    """Least squared output error of removing each block of inputs when all others may be refitted.

    It is tr(W_P' ([H^-1]_PP)^-1 W_P), exact for a block P of any size; the diagonal shortcut underestimates blocks of
    correlated inputs, such as the taps of one channel.

    Args:
        weight: float64 [K, N], least-squares optimal for H.
        inverse: float64 [K, K], H^-1 = (X'X)^-1, damped.
        blocks: the inputs of each block.

    Returns:
        float64 [len(blocks)].
    """
    errors = np.zeros(len(blocks))
    sizes = np.array([len(block) for block in blocks], dtype=np.intp)
    for size in np.unique(sizes[sizes > 0]):
        numbers = np.flatnonzero(sizes == size)
        for some in np.array_split(numbers, -(-len(numbers) * size * weight.shape[1] // _BLOCK_ELEMENTS)):
            rows = np.stack([blocks[number] for number in some])
            part = weight[rows]
            errors[some] = np.sum(
                part * np.linalg.solve(inverse[rows[:, :, None], rows[:, None, :]], part), axis=(1, 2)
            )
    return errors


def _cholesky(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)


def _check(xtx: Matrix, damping: float) -> None:
    if damping < 0:
        raise ValueError(f"damping is at least 0, not {damping}")
    if xtx.ndim < 2 or xtx.shape[-1] != xtx.shape[-2] or not np.isfinite(xtx).all():
        raise ValueError(f"second moments are finite square matrices, not this one of shape {xtx.shape}")


def _damped(xtx: Matrix, damping: float, bias_row: bool) -> Matrix:
    """X'X with the ridge on its diagonal; the identity's ridge where X is all zero."""
    size = xtx.shape[-1]
    damped_rows = size - 1 if bias_row and size > 1 else size
    diagonal = np.diagonal(xtx, axis1=-2, axis2=-1)[..., :damped_rows]
    mean = diagonal.mean(axis=-1)
    ridge = np.zeros((*xtx.shape[:-2], size))
    ridge[..., :damped_rows] = (damping * np.where(mean > 0, mean, 1))[..., None]
    return xtx + ridge[..., None] * np.eye(size)


def _solve(matrix: Matrix, right: Matrix) -> Matrix:
    """Solves a positive semidefinite system; where it is singular, the solution of least norm."""
    try:
        _cholesky(matrix)  # refuses a singular matrix, which the next line may not
        solution = np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
        if np.isfinite(solution).all():
            return solution
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(matrix)
    largest = values[..., -1:]
    usable = values > _CUTOFF * largest
    reciprocal = np.where(usable, 1 / np.where(usable, values, 1), 0)
    return vectors @ (reciprocal[..., None] * (np.swapaxes(vectors, -1, -2) @ right))
