# SPDX-License-Identifier: Apache-2.0
"""How large the factors are: between the range of a tensor's channels and that of the weights that meet them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from edgefold.passes.equalization.classes import ScaleClass
from edgefold.passes.equalization.constants import Array, WorkingConstants

_SWEEPS = 40  # the weights of a layer lie between two classes, which therefore go on changing one another a little
_BALANCED = 0.01  # factors within 2 ** this of 1 are not worth a change
_WIDEST = 2.0**12  # a channel that is almost never active gains nothing from more


@dataclasses.dataclass(frozen=True)
class Strength:
    """How far the ranges of activations migrate into weights.

    Attributes:
        alpha: 1 makes the ranges of all channels of an activation alike, 0 those of the weights that meet them.
        powers_of_two: round each factor to a power of two.
    """

    alpha: float
    powers_of_two: bool

    def factors(self, activations: Array, weights: Array) -> Array:
        """Factors to divide the channels by, from the peaks of activations [C] and of the weights that meet them [C].

        SmoothQuant (2211.10438), equation 4: max|x|^alpha / max|w|^(1 - alpha), here relative to their geometric mean,
        so that the tensor as a whole keeps its magnitude. A channel without activation or weight keeps the factor 1.
        """
        alive = (activations > 0) & (weights > 0)
        logarithms = np.zeros(len(activations))
        if alive.any():
            logarithms[alive] = self.alpha * np.log2(activations[alive]) - (1 - self.alpha) * np.log2(weights[alive])
            logarithms[alive] -= logarithms[alive].mean()
        if self.powers_of_two:
            logarithms = np.rint(logarithms)
        bound = np.log2(_WIDEST)
        result: Array = np.exp2(np.clip(logarithms, -bound, bound))
        return result


def migrate(
    classes: Sequence[ScaleClass], observed: Mapping[ScaleClass, Array], strength: Strength, constants: WorkingConstants
) -> dict[ScaleClass, Array]:
    """Multiplies factors into the constants of classes until they change no more; returns the factors of each [C].

    Args:
        classes: none of them stopped.
        observed: peaks of the activations of each [C]; for a class that is missing the peaks of the constants that its
            tensors are made with stand in, which is cross-layer equalization (1906.04721, section 4.1).
        strength: of the migration.
        constants: changed.
    """
    total = {one: np.ones(one.channels) for one in classes}
    for _ in range(_SWEEPS):
        changed = False
        for one in classes:
            seen = observed[one] / total[one] if one in observed else _peaks(one, constants, writers=True)
            factors = strength.factors(seen, _peaks(one, constants, writers=False))
            if np.abs(np.log2(factors)).max() < _BALANCED or not constants.finite(one.places, factors):
                continue
            for place in one.places:
                constants.multiply(place, one.extents, factors)
            total[one] = total[one] * factors
            changed = True
        if not changed:
            break
    return total


def _peaks(one: ScaleClass, constants: WorkingConstants, *, writers: bool) -> Array:
    """The largest magnitudes [C] among the constants that write, or read, the channels of a class."""
    chosen = [place for place in one.places if place.power < 0] if writers else one.readers
    peaks: Array = np.max([constants.peaks(place, one.extents) for place in chosen], axis=0)
    return peaks
