# SPDX-License-Identifier: Apache-2.0
"""Scores of units: aggregation, normalization, weight criteria, and second-order scores against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from chains import chain

from edgefold.passes._moments import Moments
from edgefold.passes.pruning.groups import Group, Role, Slice
from edgefold.passes.pruning.importance import Aggregate, Normalize, group_scores, normalized
from edgefold.passes.pruning.second_order import removal_scores, surgeons
from edgefold.passes.pruning.weight_scores import energy, l1, l2, random

GROUPS = chain(2, 3, 2)[0].groups
WEIGHTS = {
    "w0": np.array([[1.0, -2, 0], [3, 0, 0.5]], np.float32),
    "w1": np.array([[1.0, 1], [0, -2], [0, 0]], np.float32),
}


def test_l1_and_l2_sum_over_writers_and_readers() -> None:
    assert group_scores(GROUPS, l1(WEIGHTS))["w0:1"].tolist() == [4 + 2, 2 + 2, 0.5]
    assert group_scores(GROUPS, l2(WEIGHTS))["w0:1"].tolist() == [10 + 2, 4 + 4, 0.25]


def test_energy_is_a_share_of_each_parameter() -> None:
    assert group_scores(GROUPS, energy(WEIGHTS))["w0:1"].sum() == pytest.approx(2)


def test_biases_do_not_tell_but_depthwise_kernels_do() -> None:
    units = np.arange(2)
    bias = Slice("add", "b", 0, Role.CHANNELWISE, units)
    kernel = Slice("conv", "k", 0, Role.CHANNELWISE, units)
    weights = {"b": np.array([5.0, 5]), "k": np.array([[[1.0, 1]], [[2, 2]]])}
    assert group_scores([Group("g", 2, 1, (bias, kernel))], l1(weights))["g"].tolist() == [2, 4]
    assert group_scores([Group("g", 2, 1, (bias,))], l1(weights)) == {}


def test_heads_gather_their_channels_and_strangers_count_for_nobody() -> None:
    one = Slice("n", "w", 1, Role.WRITER, np.array([0, 0, -1, 1, 1]))
    scores = group_scores([Group("g", 2, 2, (one,))], l1({"w": np.array([[1.0, 2, 100, 3, 4]])}))
    assert scores["g"].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("sum", [6, 4]), ("mean", [3, 2]), ("max", [4, 2]), ("median", [3, 2]), ("prod", [8, 4]), ("first", [4, 2])],
)
def test_aggregates(aggregate: Aggregate, expected: list[float]) -> None:
    told = iter([np.array([4.0, 2.0]), np.array([2.0, 2.0])])
    group = Group("g", 2, 1, GROUPS[0].slices)
    assert group_scores([group], lambda one, size: next(told), aggregate)["g"].tolist() == expected


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", [1, 2, 6]),
        ("mean", [1 / 3, 2 / 3, 2]),
        ("sum", [1 / 9, 2 / 9, 6 / 9]),
        ("max", [1 / 6, 2 / 6, 1]),
        ("median", [0.5, 1, 3]),
        ("gaussian", [-2 / 14**0.5 * 3**0.5, -1 / 14**0.5 * 3**0.5, 3 / 14**0.5 * 3**0.5]),
    ],
)
def test_normalizations(normalize: Normalize, expected: list[float]) -> None:
    assert normalized(np.array([1.0, 2, 6]), normalize) == pytest.approx(expected)
    assert np.isfinite(normalized(np.zeros(3), normalize)).all()


def test_random_scores_follow_the_seed() -> None:
    assert random(GROUPS, 1)["w0:1"].tolist() == random(GROUPS, 1)["w0:1"].tolist()
    assert random(GROUPS, 1)["w0:1"].tolist() != random(GROUPS, 2)["w0:1"].tolist()


def layer(rng: np.random.Generator, inputs: int = 8, outputs: int = 5) -> tuple[np.ndarray, np.ndarray, Moments]:
    x = rng.standard_normal((400, inputs // 2)) @ rng.standard_normal((inputs // 2, inputs)) + 3
    x += 0.3 * rng.standard_normal(x.shape)
    moments = Moments.zeros(1, inputs)
    moments.add(x[None])
    return x, rng.standard_normal((inputs, outputs)), moments


def test_second_order_scores_are_the_errors_after_refitting(rng: np.random.Generator) -> None:
    x, weight, moments = layer(rng)
    units = np.array([0, 1, 2, 3, 0, 1, 2, 3])  # two taps of four channels
    scores = removal_scores(surgeons(weight[None], moments, units), 4, 3, rounds=1)
    centred = x - x.mean(axis=0)
    target = centred @ weight
    for unit in range(4):
        left = centred[:, units != unit]
        refitted = left @ np.linalg.lstsq(left, target, rcond=None)[0]
        error = np.square(target - refitted).sum() / np.square(target).sum()
        assert scores[unit] == pytest.approx(error, rel=0.02)


def test_updated_scores_know_what_went_before(rng: np.random.Generator) -> None:
    x, weight, _ = layer(rng)
    x = np.concatenate([x[:, :4], x[:, :4] + 0.01 * rng.standard_normal((400, 4))], axis=1)  # twins
    moments = Moments.zeros(1, 8)
    moments.add(x[None])
    alone = removal_scores(surgeons(weight[None], moments, np.arange(8)), 8, 7, rounds=1)
    in_turn = removal_scores(surgeons(weight[None], moments, np.arange(8)), 8, 7, rounds=7)
    assert alone.max() < 0.01  # each can be replaced by its twin
    first, last = np.argsort(in_turn)[:4] % 4, np.argsort(in_turn)[4:] % 4
    assert sorted(first) == sorted(last) == [0, 1, 2, 3]  # one of each pair goes before any second
    assert in_turn.max() > 0.1


def test_errors_of_two_readers_add_in_amplitude(rng: np.random.Generator) -> None:
    _, weight, moments = layer(rng)
    _, other, more = layer(rng)
    units = np.arange(8)
    both = removal_scores([*surgeons(weight[None], moments, units), *surgeons(other[None], more, units)], 8, 7, 1)
    apart = [removal_scores(surgeons(w[None], m, units), 8, 7, 1) for w, m in ((weight, moments), (other, more))]
    assert both == pytest.approx(np.square(np.sqrt(apart[0]) + np.sqrt(apart[1])))
