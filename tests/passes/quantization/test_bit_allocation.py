# SPDX-License-Identifier: Apache-2.0
"""The search over widths: as good as trying everything, within its budget, and the same every time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.quantization.bit_allocation import allocate

WIDTHS = (2, 4, 8)
Layers = list[tuple[dict[int, float], int]]


@st.composite
def layers(draw: st.DrawFn) -> Layers:
    """Up to five layers whose errors fall with the width, by no rule."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        errors = sorted(draw(st.lists(st.integers(0, 1000), min_size=3, max_size=3)), reverse=True)
        found.append((dict(zip(WIDTHS, map(float, errors), strict=True)), draw(st.integers(1, 40))))
    return found


def total(errors: Sequence[Mapping[int, float]], widths: Sequence[int]) -> float:
    return sum(one[bits] for one, bits in zip(errors, widths, strict=True))


def cost(sizes: Sequence[int], widths: Sequence[int]) -> int:
    return sum(size * bits for size, bits in zip(sizes, widths, strict=True))


@settings(deadline=None)
@given(layers(), st.floats(2, 8))
def test_nothing_within_the_budget_is_better(given_layers: Layers, average: float) -> None:
    errors, sizes = [one for one, _ in given_layers], [size for _, size in given_layers]
    found = allocate(errors, sizes, average)
    assert cost(sizes, found) <= average * sum(sizes)
    affordable = (w for w in itertools.product(WIDTHS, repeat=len(sizes)) if cost(sizes, w) <= average * sum(sizes))
    assert total(errors, found) <= min(total(errors, widths) for widths in affordable)


@settings(deadline=None)
@given(layers(), st.floats(2, 7), st.floats(0, 1))
def test_a_larger_budget_never_adds_error(given_layers: Layers, average: float, more: float) -> None:
    errors, sizes = [one for one, _ in given_layers], [size for _, size in given_layers]
    assert total(errors, allocate(errors, sizes, average + more)) <= total(errors, allocate(errors, sizes, average))


def test_costs_above_the_units_are_rounded_up_and_what_is_left_is_spent() -> None:
    errors = [{2: 9.0, 4: 1.0 + i / 100, 8: 0.0} for i in range(50)]
    sizes = [1_000_003 + i for i in range(50)]
    found = allocate(errors, sizes, 4.0)
    assert cost(sizes, found) <= 4 * sum(sizes)
    assert cost(sizes, found) > 3.9 * sum(sizes)


def test_a_fixed_width_stays_and_uses_up_the_budget() -> None:
    errors = [{8: 0.0}, {2: 2.0, 4: 1.0, 8: 0.1}]
    assert allocate(errors, [10, 10], 6.0) == [8, 4]
    assert allocate(errors, [10, 10], 2.0) == [8, 2]


def test_no_bits_are_spent_where_they_gain_nothing() -> None:
    assert allocate([{2: 1.0, 4: 0.0, 8: 0.0}, {2: 1.0, 4: 0.5, 8: 0.2}], [1, 1], 6.0) == [4, 8]
