# SPDX-License-Identifier: Apache-2.0
"""Hidden units have no order: before experts are averaged, those that do the same must stand in the same place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.experts.assignment import best_assignment

Array = NDArray[np.floating]
_TINY = 1e-30


def match_weights(reference: Array, other: Array) -> NDArray[np.intp]:
    """The order of an expert's hidden units that brings its weights nearest to those of a reference.

    Args:
        reference, other: [f, n], all weights of each hidden unit in a row (`FeedForward.units`).

    Returns:
        p, intp [f]: unit p[i] of the other expert goes to place i (M-SMoE, arXiv 2310.01334, section 3.2).
    """
    return best_assignment(reference @ other.T)


def match_activations(reference: Array, other: Array) -> NDArray[np.intp]:
    """The order of an expert's hidden units in which each correlates most with the reference's unit in its place.

    Args:
        reference, other: [rows, f], what the hidden units give on the same rows.

    Returns:
        p, intp [f]: unit p[i] of the other expert goes to place i.
    """
    return best_assignment(_standardized(reference).T @ _standardized(other))


def _standardized(hidden: Array) -> Array:
    centred = hidden - hidden.mean(axis=0)
    return np.asarray(centred / np.maximum(np.linalg.norm(centred, axis=0), _TINY))
