# SPDX-License-Identifier: Apache-2.0
"""Budgets and selection on chains of layers whose costs can be counted by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from chains import chain
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.pruning.budget import Budget, Goal, macs, parameters
from edgefold.passes.pruning.groups import Dependencies, Group, Pruned, Role, Slice, Trace
from edgefold.passes.pruning.selection import Limits, classes_of, select


def half(dependencies: Dependencies, trace: Trace, share: float = 0.5) -> Budget:
    return Budget((Goal.of("flops", macs(dependencies, trace), share),), dependencies.kept)


def count(dependencies: Dependencies, trace: Trace, pruned: Pruned) -> float:
    return macs(dependencies, trace)(dependencies.kept(pruned))


def every(dependencies: Dependencies, floor: float = 0.1, multiple: int = 1) -> dict[str, Limits]:
    return {group.name: Limits(floor, multiple) for group in dependencies.groups}


def removed(pruned: Pruned) -> dict[str, list[int]]:
    return {name: units.tolist() for name, units in pruned.items()}


def test_costs_count_what_stays() -> None:
    dependencies, trace = chain(4, 8, 6, 2)
    cost = macs(dependencies, trace)
    assert cost({}) == 4 * 8 + 8 * 6 + 6 * 2
    pruned = {"w0:1": np.array([0, 1]), "w1:1": np.array([5])}
    assert cost(dependencies.kept(pruned)) == 4 * 6 + 6 * 5 + 5 * 2
    weights = parameters(["w0", "w1"], (), trace)
    assert weights({}) == 32 + 48
    assert parameters(["w0", "w1"], (("w0", "w1"),), trace)({}) == 32


def test_the_least_important_units_go() -> None:
    dependencies, trace = chain(4, 4, 4)
    scores = {"w0:1": np.array([3.0, 1.0, 4.0, 2.0])}
    selection = select(dependencies.groups, scores, half(dependencies, trace), every(dependencies))
    assert selection.met
    assert removed(selection.pruned) == {"w0:1": [1, 3]}


def test_equal_scores_go_in_order() -> None:
    dependencies, trace = chain(4, 4, 4, 4)
    scores = {group.name: np.ones(4) for group in dependencies.groups}
    first = select(dependencies.groups, scores, half(dependencies, trace), every(dependencies))
    assert removed(first.pruned) == {"w0:1": [0, 1, 2]}


def test_a_global_ranking_may_empty_one_group_a_uniform_one_takes_the_same_share() -> None:
    dependencies, trace = chain(4, 8, 8, 4)
    scores = {"w0:1": np.arange(8.0), "w1:1": np.arange(8.0) + 100}
    everywhere = select(dependencies.groups, scores, half(dependencies, trace), every(dependencies, floor=0))
    assert list(everywhere.pruned) == ["w0:1"]
    classes = classes_of(dependencies.groups, "uniform", {})
    alike = select(dependencies.groups, scores, half(dependencies, trace), every(dependencies), classes)
    assert abs(len(alike.pruned["w0:1"]) - len(alike.pruned["w1:1"])) <= 1


def test_isomorphic_groups_share_a_ranking_others_do_not() -> None:
    dependencies, _ = chain(4, 8, 8, 8, 4)
    groups = dependencies.groups
    types = {"fc0": "MatMul", "fc1": "MatMul", "fc2": "MatMul", "fc3": "Gemm"}
    classes = classes_of(groups, "isomorphic", types)
    assert classes is not None
    assert classes[0] == classes[1] != classes[2]
    assert classes_of(groups, "global", types) is None


def test_a_budget_out_of_reach_says_so_and_keeps_the_floor() -> None:
    dependencies, trace = chain(4, 20, 4)
    selection = select(
        dependencies.groups, {"w0:1": np.arange(20.0)}, half(dependencies, trace, 0.01), every(dependencies, floor=0.15)
    )
    assert not selection.met
    assert len(selection.pruned["w0:1"]) == 17


@pytest.mark.parametrize(
    ("size", "width", "floor", "multiple", "wanted", "expected"),
    [
        (16, 1, 0.1, 1, 3, 3),
        (16, 1, 0.1, 8, 3, 0),
        (16, 1, 0.1, 8, 8, 8),
        (16, 1, 0.1, 8, 16, 8),
        (12, 1, 0.1, 8, 12, 4),
        (6, 1, 0.1, 8, 6, 0),
        (4, 4, 0.1, 8, 3, 2),  # a kept count of one unit is 4 channels
        (16, 1, 1.0, 1, 9, 0),
        (1, 1, 0.0, 1, 1, 0),
    ],
)
def test_limits(size: int, width: int, floor: float, multiple: int, wanted: int, expected: int) -> None:
    units = np.repeat(np.arange(size), width)
    group = Group("g", size, width, (Slice("n", "p", 0, Role.WRITER, units),))
    assert Limits(floor, multiple).removed(group, wanted) == expected


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 24), min_size=3, max_size=6),
    share=st.floats(0.05, 0.99),
    multiple=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 99),
)
def test_the_budget_is_met_and_one_step_less_would_not_do(
    sizes: list[int], share: float, multiple: int, seed: int
) -> None:
    dependencies, trace = chain(*sizes)
    rng = np.random.default_rng(seed)
    scores = {group.name: rng.random(group.size) for group in dependencies.groups}
    budget, limits = half(dependencies, trace, share), Limits(multiple=multiple)
    selection = select(dependencies.groups, scores, budget, every(dependencies, multiple=multiple))
    whole = count(dependencies, trace, {})
    for group in dependencies.groups:
        left = group.size - len(selection.pruned.get(group.name, ()))
        assert left >= max(1, math.ceil(0.1 * group.size))
        assert left == group.size or left % multiple == 0
    if not selection.met:
        assert all(
            len(selection.pruned.get(group.name, ())) == limits.removed(group, group.size)
            for group in dependencies.groups
        )
        return
    assert count(dependencies, trace, selection.pruned) <= share * whole
    # Giving back the most important removed step of some group breaks the budget.
    tops = {name: max(scores[name][units]) for name, units in selection.pruned.items()}
    if tops:
        last = max(tops, key=lambda name: (tops[name], name))
        size = next(group.size for group in dependencies.groups if group.name == last)
        ranked = sorted(selection.pruned[last], key=lambda unit: (scores[last][unit], unit))
        step = next(
            s for s in range(1, size + 1) if limits.removed(_group(dependencies, last), len(ranked) - s) < len(ranked)
        )
        fewer = np.sort(
            np.array(ranked[: limits.removed(_group(dependencies, last), len(ranked) - step)], dtype=np.intp)
        )
        assert count(dependencies, trace, {**selection.pruned, last: fewer}) > share * whole


def _group(dependencies: Dependencies, name: str) -> Group:
    return next(group for group in dependencies.groups if group.name == name)


def test_thousands_of_units_in_well_under_a_second() -> None:
    dependencies, trace = chain(*[256] * 40)
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.size) for group in dependencies.groups}
    started = time.process_time()
    assert select(dependencies.groups, scores, half(dependencies, trace), every(dependencies)).met
    assert time.process_time() - started < 0.5
