# SPDX-License-Identifier: Apache-2.0
"""How well a matrix is approximated at every rank, by the outputs that it gives.

Of all W' of rank r, the one with the least |X W - X W'|^2 is W V V' with V the r leading eigenvectors of (X W)'(X W):
the outputs are projected on their principal directions. The truncation of the whitened matrix S W with S'S = X'X, that
is SVD-LLM (2403.07378, section 3.1), has the same V and the same W', so that neither S nor its inverse is needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Principal directions of the outputs of a weight matrix.

    Attributes:
        directions: float64 [N, min(K, N)], orthonormal columns, the strongest first.
        energies: float64 [min(K, N)], squared outputs along each, not negative.
    """

    directions: Matrix
    energies: NDArray[np.float64]

    @classmethod
    def of(cls, weight: Matrix, xtx: Matrix | None = None) -> Spectrum:
        """Spectrum of a matrix [K, N], by the second moments [K, K] of its inputs; None counts all inputs alike."""
        outputs = weight.T @ (weight if xtx is None else xtx @ weight)
        energies, directions = np.linalg.eigh((outputs + outputs.T) / 2)
        strongest = slice(None, -min(weight.shape) - 1, -1)
        return cls(directions[:, strongest], np.maximum(energies[strongest], 0))

    def errors(self) -> NDArray[np.float64]:
        """Squared error at rank 0, 1, ..., min(K, N) over the energy of the outputs, float64, from 1 down to 0."""
        total = max(float(self.energies.sum()), np.finfo(np.float64).tiny)
        lost = np.cumsum(self.energies[::-1])[::-1] / total
        return np.append(lost, 0.0)

    def factors(self, weight: Matrix, rank: int) -> tuple[Matrix, Matrix]:
        """The matrix as a product [K, rank] [rank, N]; the second factor has orthonormal rows."""
        kept = self.directions[:, :rank]
        return weight @ kept, kept.T
