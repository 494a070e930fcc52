# SPDX-License-Identifier: Apache-2.0
"""The label algebra: whatever goes, every stated fact still holds."""

from __future__ import annotations

import dataclasses

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.pruning.classes import NEVER, Classes
from edgefold.passes.pruning.labels import Labels


def gone_with(classes: Classes, unit: int, labels: np.ndarray) -> list[bool]:
    gone = classes.gone(np.array([unit]))
    return [label >= 0 and bool(gone[classes.of[label]]) for label in labels]


def units(classes: Classes, labels: np.ndarray) -> set[int]:
    return {int(unit) for _, found in classes.units(labels) for unit in found if unit >= 0}


def test_union_is_transitive_and_keeps_the_rest_apart() -> None:
    labels = Labels()
    a, b, c = (labels.fresh(3) for _ in range(3))
    labels.union(a, b)
    labels.union(b[::-1], c)
    classes = labels.solve()
    assert classes.of[a].tolist() == classes.of[c[::-1]].tolist()
    assert len(units(classes, a)) == 3


def test_a_frozen_label_freezes_what_it_meets_and_nothing_else() -> None:
    labels = Labels()
    a = labels.fresh(3)
    labels.union(a, np.array([~7, *labels.fresh(2)]))
    classes = labels.solve()
    assert classes.reasons(a).tolist() == [7, NEVER, NEVER]


def test_the_first_of_two_reasons_counts() -> None:
    labels = Labels()
    a = labels.fresh(1)
    labels.freeze(a, 5)
    labels.freeze(a, 3)
    assert labels.solve().reasons(a).tolist() == [3]


def test_a_product_goes_with_either_factor() -> None:
    labels = Labels()
    heads, dims = labels.fresh(2), labels.fresh(3)
    whole = labels.product([heads, dims])
    classes = labels.solve()
    assert gone_with(classes, int(classes.of[heads[1]]), whole) == [False] * 3 + [True] * 3
    assert gone_with(classes, int(classes.of[dims[0]]), whole) == [True, False, False] * 2
    assert [place for place, _ in classes.units(whole)] == ["L", "R"]


def test_a_split_undoes_a_product() -> None:
    labels = Labels()
    parts = [labels.fresh(2), labels.fresh(3), labels.fresh(4)]
    again = labels.split(labels.product(parts), [2, 3, 4])
    classes = labels.solve()
    for part, same in zip(parts, again, strict=True):
        assert classes.of[part].tolist() == classes.of[same].tolist()
        assert len(units(classes, part)) == len(part)


def test_two_ways_to_split_agree_on_the_coarser_units() -> None:
    labels = Labels()
    whole = labels.fresh(12)
    halves = labels.split(whole, [2, 6])
    quarters = labels.split(whole, [4, 3])
    classes = labels.solve()
    assert units(classes, halves[0]) == units(classes, quarters[0])
    assert len(units(classes, halves[0])) == 2


def test_a_frozen_factor_leaves_the_decision_to_the_other() -> None:
    labels = Labels()
    channels = labels.fresh(2)
    whole = labels.product([channels, labels.frozen(3, 1)])
    assert whole.tolist() == np.repeat(channels, 3).tolist()
    back, space = labels.split(whole, [2, 3])
    assert back.tolist() == channels.tolist()
    assert (space < 0).all()


def test_a_factor_frozen_later_does_too() -> None:
    labels = Labels()
    heads, dims = labels.fresh(2), labels.fresh(3)
    whole = labels.product([heads, dims])
    labels.freeze(dims, 4)
    classes = labels.solve()
    assert classes.of[whole].tolist() == np.repeat(classes.of[heads], 3).tolist()
    assert units(classes, whole) == units(classes, heads) != set()


def test_freezing_a_product_freezes_its_factors() -> None:
    labels = Labels()
    heads, dims = labels.fresh(2), labels.fresh(3)
    whole = labels.product([heads, dims])
    labels.freeze(whole[:1], 4)
    classes = labels.solve()
    assert classes.reasons(heads).tolist() == [4, NEVER]
    assert classes.reasons(dims).tolist() == [4, NEVER, NEVER]


def test_a_product_that_contains_itself_freezes_the_other_factor() -> None:
    labels = Labels()
    heads, dims = labels.fresh(2), labels.fresh(3)
    whole = labels.product([heads, dims])
    labels.union(whole, np.repeat(heads, 3))
    classes = labels.solve()
    assert (classes.reasons(dims) != NEVER).all()
    assert len(units(classes, heads)) == 2


def test_products_in_a_ring_are_frozen() -> None:
    labels = Labels()
    a, b, c, d = (labels.fresh(2) for _ in range(4))
    labels.union(labels.product([a, b]), np.repeat(c, 2))
    labels.union(labels.product([c, d]), np.repeat(a, 2))
    classes = labels.solve()
    for unit in set().union(*(units(classes, one) for one in (a, b, c, d))):
        assert gone_with(classes, unit, a) == gone_with(classes, unit, c)


@dataclasses.dataclass
class Facts:
    labels: Labels
    unions: list[tuple[np.ndarray, np.ndarray]]
    frozen: list[np.ndarray]
    products: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    """Axes of 12 indices, tied, frozen in part, merged and split at random."""
    labels = Labels()
    axes = [labels.fresh(12) for _ in range(draw(st.integers(2, 5)))]
    known = Facts(labels, [], [], [])
    choose = st.sampled_from
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(choose(("union", "shift", "freeze", "split", "transpose", "pick")))
        a = draw(choose(axes))
        if kind in ("union", "shift"):
            b = np.roll(draw(choose(axes)), draw(st.integers(0, 11)) if kind == "shift" else 0)
            labels.union(a, b)
            known.unions.append((a, b))
        elif kind == "freeze":
            part = a[draw(st.integers(0, 11)) :][: draw(st.integers(1, 2))]
            labels.freeze(part, draw(st.integers(0, 3)))
            known.frozen.append(part)
        elif kind == "pick":
            axes.append(a[draw(st.permutations(range(12)))])
        else:
            rows = draw(choose((2, 3, 4, 6)))
            left, right = labels.split(a, [rows, 12 // rows])
            known.products.append((a, np.repeat(left, 12 // rows), np.tile(right, rows)))
            if kind == "transpose":
                whole = labels.product([right, left])
                known.products.append((whole, np.repeat(right, rows), np.tile(left, 12 // rows)))
                axes.append(whole)
    return known


@settings(deadline=None)
@given(facts())
def test_whatever_goes_every_fact_holds(known: Facts) -> None:
    classes = known.labels.solve()
    everything = np.arange(len(classes.of))
    for unit in units(classes, everything):
        gone = classes.gone(np.array([unit]))

        def dead(labels: np.ndarray, gone: np.ndarray = gone) -> np.ndarray:
            return (labels >= 0) & gone[classes.of[np.maximum(labels, 0)]]

        assert gone[unit]
        for a, b in known.unions:
            assert (dead(a) == dead(b)).all()
        for labels in known.frozen:
            assert not dead(labels).any()
        for whole, left, right in known.products:
            assert (dead(whole) == (dead(left) | dead(right))).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29))))
def test_unions_alone_give_connected_components(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    all_of = labels.fresh(30)
    for a, b in pairs:
        labels.union(all_of[a : a + 1], all_of[b : b + 1])
    graph = nx.Graph(pairs)
    graph.add_nodes_from(range(30))
    classes = labels.solve()
    for component in nx.connected_components(graph):
        assert set(classes.of[list(component)].tolist()) == {min(component)}


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_long_chains_and_wide_stars_are_solved_in_vectors(shape: str) -> None:
    labels = Labels()
    axis = np.random.default_rng(0).permutation(labels.fresh(200_000))
    labels.union(np.roll(axis, 1) if shape == "chain" else np.full(len(axis), axis[7]), axis)
    assert (labels.solve().of == 0).all()
