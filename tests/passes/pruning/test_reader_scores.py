# SPDX-License-Identifier: Apache-2.0
"""Second-order and activation scores of real graphs: where the units lie on each reader, and what has no inputs."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph, weights

from edgefold.calibration import Calibration
from edgefold.passes.pruning import reader_scores
from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.reader_scores import activation_scores, second_order_scores
from edgefold.probing import probe

TEXT = """g (float[n, 3, 6, 6] x) => (float[n, 4, 4, 4] y, float[n, 5] z) {
    [one] a = Conv<pads = [1, 1, 1, 1]>(x, k1)
    [relu] r = Relu(a)
    [two] y = Conv(r, k2)
    [pool] p = GlobalAveragePool(r)
    [flat] f = Flatten(p)
    [fc] z = MatMul(f, w)
}"""
FEEDS = [{"x": weights(16, 3, 6, 6, seed=seed)} for seed in range(4)]


def known(dead: int = 3) -> tuple[Analysis, dict[str, np.ndarray]]:
    tensors = {"k1": weights(8, 3, 3, 3), "k2": weights(4, 8, 3, 3, seed=1), "w": weights(8, 5, seed=2)}
    tensors["k1"][dead] = 0  # a channel that is always zero
    found = Analysis.of(graph(TEXT, tensors), lambda model: probe(model, FEEDS[0]))
    stored = found.model.graph.initializers
    return found, {name: stored[name].const_value.numpy() for name in stored if stored[name].const_value is not None}


def test_a_dead_channel_costs_nothing_and_a_loud_one_shows() -> None:
    analysis, arrays = known()
    groups = analysis.dependencies.groups
    calibration = Calibration(analysis.model, lambda: FEEDS, threads=1)
    (name,) = (group.name for group in groups)
    scores = second_order_scores(groups, analysis.model, calibration, arrays, {name: 7})[name]
    assert (np.delete(scores, 3) > 5 * scores[3]).all()  # what few samples do not show may be there all the same
    told = activation_scores(groups, analysis.model, calibration, arrays)[name]
    assert [one.argmin() for one in told] == [3, 3]


def test_a_reader_that_is_added_to_a_loud_tensor_counts_little() -> None:
    text = """g (float[n, 6] x, float[n, 5] loud) => (float[n, 5] y) {
        [one] a = MatMul(x, w)
        [two] b = MatMul(a, v)
        [added] y = Add(b, loud)
    }"""
    tensors = {"w": weights(6, 8), "v": weights(8, 5, seed=1)}

    def score(factor: float) -> np.ndarray:
        feeds = [{"x": weights(64, 6, seed=2), "loud": np.float32(factor) * weights(64, 5, seed=3)}]
        analysis = Analysis.of(graph(text, tensors), lambda model: probe(model, feeds[0]))
        (group,) = analysis.dependencies.groups
        calibration = Calibration(analysis.model, lambda: feeds, threads=1)
        return second_order_scores([group], analysis.model, calibration, tensors, {group.name: 1})[group.name]

    assert score(1000) == pytest.approx(score(100) / 100, rel=0.02)


def test_a_reader_of_too_many_inputs_is_judged_as_white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_scores, "_MOST_MOMENT_BYTES", 8)
    analysis, arrays = known()
    groups = analysis.dependencies.groups
    calibration = Calibration(analysis.model, lambda: FEEDS, threads=1)
    scores = second_order_scores(groups, analysis.model, calibration, arrays, {groups[0].name: 1})[groups[0].name]
    by_channel = np.square(arrays["k2"]).sum(axis=(0, 2, 3)), np.square(arrays["w"]).sum(axis=1)
    assert np.sqrt(scores) == pytest.approx(sum(np.sqrt(one / one.sum()) for one in by_channel))
