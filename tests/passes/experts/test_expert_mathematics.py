# SPDX-License-Identifier: Apache-2.0
"""Grouping, alignment, averages, budgets and refits of experts, against definitions and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from dispatched_models import experts, forward
from graphs import weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes.experts.activation import named
from edgefold.passes.experts.alignment import match_activations, match_weights
from edgefold.passes.experts.assignment import best_assignment
from edgefold.passes.experts.budget import allocate, uniform
from edgefold.passes.experts.feed_forward import FeedForward, average, layer_output
from edgefold.passes.experts.grouping import at_random, by_dominance, by_k_means, by_linkage, points_of, spread_within
from edgefold.passes.experts.refit import gated, joint, plain
from edgefold.passes.experts.router import membership
from edgefold.passes.experts.statistics import statistics

SILU = named("silu", gated=True)
GELU = named("gelu")


def functions(count: int, *, bias: bool = False, f: int = 6) -> list[FeedForward]:
    return [FeedForward(one, SILU) for one in experts(count, f=f, bias=bias)]


def gates(rows: int, count: int, top: int = 2, seed: int = 0) -> np.ndarray:
    """Softmax gates, normalized over the `top` largest."""
    scores = np.exp(weights(rows, count, seed=seed))
    kept = np.argsort(-scores, axis=1)[:, :top]
    found = np.zeros_like(scores)
    np.put_along_axis(found, kept, np.take_along_axis(scores, kept, 1), 1)
    return found / found.sum(axis=1, keepdims=True)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_the_best_assignment_is_that_of_all_permutations(size: int, seed: int) -> None:
    profit = np.random.default_rng(seed).integers(-3, 4, (size, size)).astype(float)  # ties included
    order = best_assignment(profit)
    assert sorted(order) == list(range(size))
    everyone = (sum(profit[i, p] for i, p in enumerate(one)) for one in itertools.permutations(range(size)))
    assert profit[np.arange(size), order].sum() == max(everyone)


def test_an_assignment_needs_finite_profits() -> None:
    with pytest.raises(ValueError, match="finite square"):
        best_assignment(np.array([[np.nan]]))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_every_grouping_puts_each_expert_into_one_of_so_many_groups(count: int, groups: int, seed: int) -> None:
    groups = min(groups, count)
    random = np.random.default_rng(seed)
    points = random.integers(0, 3, (count, 2)).astype(float)  # often equal ones
    found = (
        by_k_means(points, groups, seed),
        by_linkage(points, groups),
        by_dominance(points @ points.T, random.random(count), groups),
        at_random(count, groups, seed),
    )
    for one in found:
        assert len(one) == groups
        assert sorted(expert for group in one for expert in group) == list(range(count))


def test_groups_of_points_in_clusters_are_the_clusters() -> None:
    points = np.array([[0, 0], [5, 5], [0, 0.1], [5, 5.1], [9, 0]])
    clusters = ((0, 2), (1, 3), (4,))
    assert by_k_means(points, 3, seed=1) == by_linkage(points, 3) == clusters
    assert by_dominance(-np.square(points[:, None] - points).sum(2), np.array([3, 2, 1, 1, 2]), 3) == clusters
    assert spread_within(points, clusters) == pytest.approx(0.01)


def test_points_have_the_inner_products_that_they_are_made_of() -> None:
    gram = (rows := weights(5, 3).astype(np.float64)) @ rows.T
    points = points_of(gram)
    np.testing.assert_allclose(points @ points.T, gram, atol=1e-12)


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_a_permuted_copy_is_the_same_function_and_is_put_in_order_again(by: str) -> None:
    [one] = functions(1, bias=True)
    order = np.random.default_rng(3).permutation(one.width)
    x = weights(50, 8, seed=7)
    other = one.permuted(order)
    np.testing.assert_allclose(other(x), one(x), atol=1e-5)
    found = (
        match_weights(one.units(), other.units())
        if by == "weights"
        else match_activations(one.hidden(x), other.hidden(x))
    )
    back = other.permuted(found)
    np.testing.assert_array_equal(back.units(), one.units())


def test_an_average_weighs_by_shares_and_counts_all_alike_without_any() -> None:
    first, second = functions(2, bias=True)
    mean = average([first, second], np.array([3.0, 1.0])).weights
    expected = 0.75 * first.weights.down.weight + 0.25 * second.weights.down.weight
    np.testing.assert_allclose(mean.down.weight, expected, rtol=1e-6)
    even = average([first, second], np.zeros(2)).weights
    assert first.weights.inputs[1].bias is not None
    assert second.weights.inputs[1].bias is not None
    np.testing.assert_allclose(
        even.inputs[1].bias, (first.weights.inputs[1].bias + second.weights.inputs[1].bias) / 2, rtol=1e-6
    )


def test_joining_matrices_in_one_basis_of_full_rank_is_averaging_them() -> None:
    """Why there is no joint decomposition here: without truncation that of Sub-MoE (section 3.3) is the mean."""
    members = functions(3)
    shares = np.array([0.5, 0.3, 0.2])
    downs = [one.weights.down.weight.T.astype(np.float64) for one in members]
    basis, values, right = np.linalg.svd(np.hstack(downs), full_matrices=False)
    parts = np.split(right, 3, axis=1)
    merged = basis @ np.diag(values) @ sum(share * part for share, part in zip(shares, parts, strict=True))
    np.testing.assert_allclose(average(members, shares).weights.down.weight, merged.T, atol=1e-6)


def test_statistics_are_what_they_are_called() -> None:
    members, x, g = functions(3), weights(40, 8, seed=5), gates(40, 3)
    found = statistics(members, x, g)
    outputs = np.stack([one(x) for one in members]).astype(np.float64)
    lengths = np.linalg.norm(outputs, axis=2)
    np.testing.assert_allclose(found.usage, (g > 0).sum(0) / (g > 0).sum())
    np.testing.assert_allclose(found.saliency, [(g[:, e] * lengths[e])[g[:, e] > 0].mean() for e in range(3)])
    cosines = np.einsum("etn,ftn->ef", outputs / lengths[..., None], outputs / lengths[..., None]) / 40
    np.testing.assert_allclose(found.similarity, cosines, atol=1e-6)
    np.testing.assert_allclose(found.mean_outputs, outputs.mean(1), atol=1e-6)


def test_an_expert_that_no_row_chooses_has_no_saliency() -> None:
    g = gates(40, 3)
    g[:, 1] = 0
    found = statistics(functions(3), weights(40, 8), g)
    assert found.usage[1] == found.saliency[1] == 0


@pytest.mark.parametrize("bias", [False, True])
def test_refits_recover_last_matrices_that_were_damaged(bias: bool) -> None:
    members, x, g = functions(3, bias=bias), weights(600, 8, seed=5), gates(600, 3)
    wanted = layer_output(members, g, x)
    np.testing.assert_allclose(wanted, forward([one.weights for one in members], SILU, x, g), atol=1e-5)
    damaged = [one.with_last(one.last() + weights(*one.last().shape, seed=8) / 3) for one in members]
    whole = joint(damaged, g, x, wanted)
    turns = joint(damaged, g, x, wanted, most=1)
    alone = [gated(bad, [good], g[:, [e]], x) for e, (bad, good) in enumerate(zip(damaged, members, strict=True))]
    before = np.abs(layer_output(damaged, g, x) - wanted).max()
    for fitted, share in ((whole, 0.02), (turns, 0.1), (alone, 0.02)):
        assert np.abs(layer_output(fitted, g, x) - wanted).max() < share * before


def test_a_group_is_refitted_to_what_its_members_give_together() -> None:
    members, x, g = functions(2, f=40), weights(2000, 8, seed=5), gates(2000, 3)[:, :2]
    merged = average(members, np.ones(2))
    total = g.sum(axis=1, keepdims=True)
    wanted = layer_output(members, g, x)

    def error(expert: FeedForward) -> float:
        return float(np.square(layer_output([expert], total, x) - wanted).sum())

    refitted = gated(merged, members, g, x)
    assert error(refitted) < 0.6 * error(merged)
    assert error(refitted) < error(plain(merged, members, np.ones(2), x))


def test_a_refit_without_rows_changes_nothing() -> None:
    members, x = functions(2), weights(30, 8)
    nobody = np.zeros((30, 2), np.float32)
    assert gated(members[0], members, nobody, x) is members[0]
    kept = joint(members, nobody, x, np.zeros((30, 8), np.float32))
    np.testing.assert_array_equal(kept[0].weights.down.weight, members[0].weights.down.weight)


def test_membership_keeps_the_sum_of_the_gates() -> None:
    g = gates(50, 5)
    summed = g @ membership(((0, 3), (1,), (2, 4)))
    np.testing.assert_array_equal(summed[:, 0], g[:, 0] + g[:, 3])
    np.testing.assert_array_equal(summed[:, 1], g[:, 1])
    np.testing.assert_allclose(summed.sum(1), 1, rtol=1e-6)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(0, 8))
@settings(deadline=None)
def test_an_allocation_is_the_best_of_all(errors: list[list[float]], spare: int) -> None:
    total = len(errors) + spare
    found = allocate(errors, total)
    everyone = itertools.product(*(range(1, len(curve) + 1) for curve in errors))
    affordable = (counts for counts in everyone if sum(counts) <= total)
    best = min(sum(curve[n - 1] for curve, n in zip(errors, counts, strict=True)) for counts in affordable)
    assert sum(found) <= total
    assert sum(curve[n - 1] for curve, n in zip(errors, found, strict=True)) == pytest.approx(best)


def test_too_few_experts_for_all_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="too few for 2 layers"):
        allocate([[1.0], [1.0]], 1)


def test_uniform_numbers_leave_every_layer_one() -> None:
    assert uniform([8, 2], 4, None) == [4, 2]
    assert uniform([8, 2], None, 0.1) == [1, 1]
    assert uniform([8, 6], None, None) == [4, 3]
