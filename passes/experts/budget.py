# SPDX-License-Identifier: Apache-2.0
"""How many experts each layer keeps: the same share everywhere, or the numbers with the least sum of errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def uniform(sizes: Sequence[int], experts: int | None, keep: float | None) -> list[int]:
    """Numbers of experts, one a layer: at most `experts`, or the share `keep`, and at least one.

    Args:
        sizes: how many each layer has.
        experts: of a layer; None where `keep` says.
        keep: share that stays; a half where neither is given.
    """
    if experts is not None:
        return [min(experts, size) for size in sizes]
    return [max(1, round((0.5 if keep is None else keep) * size)) for size in sizes]


def allocate(errors: Sequence[Sequence[float]], total: int) -> list[int]:
    """Numbers of experts, one a layer, that add up to at most `total`, with the least sum of errors.

    Exact, by dynamic programming over the layers: the least error for every number of experts spent so far.

    Args:
        errors: of each layer with 1, 2, ... experts.
        total: at least one a layer.

    Raises:
        ValueError: fewer than one a layer.
    """
    if total < len(errors):
        raise ValueError(f"{total} experts are too few for {len(errors)} layers")
    least = np.zeros(1)
    choices: list[NDArray[np.intp]] = []
    for curve in errors:
        reached = np.full((len(curve), len(least) + len(curve)), np.inf)  # [experts here - 1, experts so far]
        for index, error in enumerate(curve):
            reached[index, index + 1 : index + 1 + len(least)] = least + error
        choices.append(reached.argmin(axis=0))
        least = reached.min(axis=0)
    spent = int(np.argmin(least[: total + 1]))
    found: list[int] = []
    for choice in reversed(choices):
        found.append(int(choice[spent]) + 1)
        spent -= found[-1]
    return found[::-1]
