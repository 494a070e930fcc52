# SPDX-License-Identifier: Apache-2.0
"""Criteria that look at the weights alone: L1, L2, and the share of a layer's energy; and the random baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import Group, Role, Slice
from edgefold.passes.pruning.importance import SliceScore, Vector, along, gather_units

Weights = Mapping[str, NDArray[np.floating]]
"""Name of a parameter -> its elements."""

Elementwise = Callable[[str], NDArray[np.floating] | None]
"""Name of a parameter -> the criterion of each of its elements; None where there is none."""


def elementwise(criterion: Elementwise) -> SliceScore:
    """The score of a slice is the sum of a criterion over its elements.

    Channelwise vectors (biases, running statistics, masks) do not tell: they say where a channel sits, not how much of
    it is used. Channelwise kernels (depthwise) and the slices of writers and readers do.
    """

    def score(one: Slice, size: int) -> Vector | None:
        elements = criterion(one.parameter)
        if elements is None or (one.role == Role.CHANNELWISE and elements.size == len(one.units)):
            return None
        return gather_units(along(elements, one.axis), one.units, size)

    return score


def l1(weights: Weights) -> SliceScore:
    """Sum of absolute weights."""
    return elementwise(lambda name: np.abs(weights[name]))


def l2(weights: Weights) -> SliceScore:
    """Sum of squared weights."""
    return elementwise(lambda name: np.square(weights[name]))


def energy(weights: Weights) -> SliceScore:
    """Share of a parameter's squared weights: the relative error of removal if inputs were white and unrepaired."""

    def share(name: str) -> NDArray[np.floating]:
        squares = np.square(weights[name], dtype=np.float64)
        return np.asarray(squares / max(float(squares.sum()), 1e-30))

    return elementwise(share)


def random(groups: Sequence[Group], seed: int) -> dict[str, Vector]:
    """Uniform in [0, 1): the baseline of every other criterion. Group name -> float64 [size]."""
    stream = np.random.default_rng(seed)
    return {group.name: stream.random(group.size) for group in groups}
