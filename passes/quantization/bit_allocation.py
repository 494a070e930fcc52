# SPDX-License-Identifier: Apache-2.0
"""Which width each layer gets: the least error that a budget of bits can buy, exact and deterministic.

Errors of layers add up, as independent roundings do, so this is a multiple-choice knapsack. It is solved by dynamic
programming over the budget, divided into so many units that rounding costs up to them loses next to nothing, and what
that leaves over is spent on single layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_UNITS = 1 << 14


def allocate(errors: Sequence[Mapping[int, float]], sizes: Sequence[int], average: float) -> list[int]:
    """The width of each layer.

    Args:
        errors: of each layer, the error by width; more bits never cost more error.
        sizes: of each layer, what a bit of it counts for: weights, or multiply-accumulates.
        average: bits that a unit of size may have on average.

    Returns:
        Widths whose average by size is at most `average`; the narrowest where even those have more.
    """
    widths = [min(choices) for choices in errors]
    # Costs are relative to the narrowest widths, which everyone can afford.
    spare = int(average * sum(sizes)) - sum(size * bits for size, bits in zip(sizes, widths, strict=True))
    if spare > 0:
        widths = _solve(errors, sizes, widths, spare)
    return _spend(errors, sizes, widths, average)


def _solve(
    errors: Sequence[Mapping[int, float]], sizes: Sequence[int], narrowest: Sequence[int], spare: int
) -> list[int]:
    """The widths of least error when costs are rounded up to units of the budget."""
    unit = max(1, -(-spare // _UNITS))
    units = spare // unit
    best = np.zeros(units + 1)  # least error of the layers so far, by units spent at most
    choices: list[np.ndarray] = []
    for options, size, low in zip(errors, sizes, narrowest, strict=True):
        ordered = sorted(options)
        table = np.full((len(ordered), units + 1), np.inf)
        for row, bits in enumerate(ordered):
            cost = -(-size * (bits - low) // unit)
            if cost <= units:
                table[row, cost:] = best[: units + 1 - cost] + options[bits]
        choices.append(np.array(ordered)[np.argmin(table, axis=0)])
        best = table.min(axis=0)
    found = []
    left = units
    for chosen, size, low in zip(reversed(choices), reversed(sizes), reversed(narrowest), strict=True):
        bits = int(chosen[left])
        left -= -(-size * (bits - low) // unit)
        found.append(bits)
    return found[::-1]


def _spend(
    errors: Sequence[Mapping[int, float]], sizes: Sequence[int], widths: Sequence[int], average: float
) -> list[int]:
    """Widens single layers, by the error that each bit takes away, as long as the budget holds one of them."""
    chosen = list(widths)
    spare = average * sum(sizes) - sum(size * bits for size, bits in zip(sizes, chosen, strict=True))
    while True:
        gains = [
            ((errors[i][now] - error) / max(sizes[i] * (bits - now), 1), -i, bits)
            for i, now in enumerate(chosen)
            for bits, error in errors[i].items()
            if bits > now and sizes[i] * (bits - now) <= spare and error < errors[i][now]
        ]
        if not gains:
            return chosen
        _, negative, bits = max(gains)
        spare -= sizes[-negative] * (bits - chosen[-negative])
        chosen[-negative] = bits
