# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefold.errors import UsageError
from edgefold.goals import RESOLUTION, ROUNDS, Attempt, Drop, meets, parse_drop, parse_size, search


def build(bits: float) -> Attempt:
    """A model whose every bit costs bytes and takes away a part of the loss."""
    return Attempt(bits, round(1000 * bits), 32 * 2.0 ** -(2 * bits - 4), payload=bits)


def run(max_loss: float | None, max_bytes: int | None) -> tuple[Attempt, list[Attempt]]:
    return search(build(4.0), build, max_loss=max_loss, max_bytes=max_bytes)


def test_a_goal_already_met_costs_nothing() -> None:
    best, attempts = run(100.0, 10_000)
    assert best is attempts[0]
    assert len(attempts) == 1


def test_a_loss_too_large_gets_as_many_bits_as_it_needs() -> None:
    best, attempts = run(0.1, None)
    assert meets(best, 0.1, None)
    assert build(best.bits - RESOLUTION).loss > 0.1  # type: ignore[operator]
    assert len(attempts) <= 6


def test_a_file_too_large_loses_no_more_bits_than_it_must() -> None:
    best, _ = run(None, 3700)
    assert meets(best, None, 3700)
    assert best.bytes > 3700 - 1000 * RESOLUTION


def test_goals_that_exclude_each_other_end_at_once() -> None:
    best, attempts = run(1.0, 3000)
    assert len(attempts) == 1
    assert best is attempts[0]


def test_an_impossible_goal_ends_and_returns_the_nearest() -> None:
    best, attempts = run(-1.0, None)
    assert len(attempts) <= ROUNDS + 1
    assert best.loss == min(a.loss for a in attempts if a.loss is not None)


@given(st.floats(0, 20), st.integers(1500, 9000))
def test_what_is_returned_meets_the_goals_if_anything_tried_did(max_loss: float, max_bytes: int) -> None:
    best, attempts = run(max_loss, max_bytes)
    assert meets(best, max_loss, max_bytes) == any(meets(a, max_loss, max_bytes) for a in attempts)


def test_drop_is_relative_in_per_cent_and_absolute_in_points() -> None:
    assert parse_drop("1%") == Drop(1.0, relative=True)
    assert parse_drop("0.5pt") == Drop(0.5, relative=False)
    assert parse_drop("1%").loss("top1", 80.0, 79.2, lower_is_worse=True) == pytest.approx(1.0)
    assert parse_drop("1pt").loss("top1", 80.0, 79.0, lower_is_worse=True) == pytest.approx(1.0)
    assert parse_drop("1pt").loss("spearman_cosine", 0.87, 0.86, lower_is_worse=True) == pytest.approx(1.0)
    assert parse_drop("1%").loss("perplexity", 5.0, 5.1, lower_is_worse=False) == pytest.approx(2.0)


@pytest.mark.parametrize(("text", "size"), [("4MB", 4_000_000), ("500kB", 500_000), ("2MiB", 2 << 20), ("123", 123)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 bananas", "-1MB", "0", "MB"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1", "one", "-1%", "1pp"])
def test_a_drop_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        parse_drop(text)
