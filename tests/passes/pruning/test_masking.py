# SPDX-License-Identifier: Apache-2.0
"""The oracle itself: it must refuse what is wrong, or it proves nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cut_oracle import Examined, assert_oracle, examine, outputs, sized_feeds, some_units
from graphs import graph, weights

from edgefold.passes.pruning.groups import IntArray
from edgefold.passes.pruning.masking import masked

TEXT = "g (float[N,6] x) => (float[N,K] y) { h = MatMul(x, w1) r = Relu(h) b = Add(r, c) y = MatMul(b, w2) }"
UNITS = np.array([1, 4])


def network() -> Examined:
    return examine(graph(TEXT, {"w1": weights(6, 8), "c": weights(8, seed=1), "w2": weights(8, 5, seed=2)}))


def test_a_masked_unit_is_zero_where_it_is_read() -> None:
    found = network()
    (group,) = found.dependencies.groups
    whole = masked(found.model, found.dependencies, found.trace, {group.name: UNITS})
    x = sized_feeds(found.model)[0]
    hidden = np.maximum(x["x"] @ weights(6, 8), 0) + weights(8, seed=1)
    hidden[:, UNITS] = 0
    np.testing.assert_allclose(outputs(whole, x)["y"], hidden @ weights(8, 5, seed=2), rtol=1e-4, atol=1e-5)


def test_the_model_itself_is_left_alone() -> None:
    found = network()
    before = found.model.graph.num_nodes()
    masked(found.model, found.dependencies, found.trace, {found.dependencies.groups[0].name: UNITS})
    assert found.model.graph.num_nodes() == before
    np.testing.assert_array_equal(found.model.graph.initializers["w1"].const_value.numpy(), weights(6, 8))


def test_nothing_is_masked_where_nothing_is_pruned() -> None:
    found = network()
    assert masked(found.model, found.dependencies, found.trace, {}).graph.num_nodes() == found.model.graph.num_nodes()


@pytest.mark.parametrize("lost", ["w1", "c", "w2"])
def test_a_parameter_cut_at_other_indices_is_noticed(lost: str) -> None:
    """As if the analysis had mixed up two channels of one parameter."""
    found = network()
    kept = found.dependencies.kept

    def mixed(pruned: dict[str, IntArray]) -> dict[tuple[str, int], IntArray]:
        others = np.setdiff1d(np.arange(8), [2, 5])
        return {key: others if key[0] == lost else indices for key, indices in kept(pruned).items()}

    wrong = dataclasses.replace(found, dependencies=dataclasses.replace(found.dependencies, kept=mixed))
    with pytest.raises(AssertionError):
        assert_oracle(wrong, {found.dependencies.groups[0].name: UNITS})


def test_a_normalization_taken_for_exact_is_noticed() -> None:
    text = TEXT.replace("r = Relu(h)", "r = LayerNormalization(h, g)")
    arrays = {"w1": weights(6, 8), "g": weights(8), "c": weights(8, seed=1), "w2": weights(8, 5, seed=2)}
    found = examine(graph(text, arrays))
    assert some_units(found.dependencies, 0.5) == {}
    with pytest.raises(AssertionError):
        assert_oracle(found, {found.dependencies.groups[0].name: UNITS})
