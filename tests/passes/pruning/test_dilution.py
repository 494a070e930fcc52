# SPDX-License-Identifier: Apache-2.0
"""Dilution: which sums a layer's output enters, and what they leave of its relative error."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph, weights

from edgefold.calibration import Calibration
from edgefold.passes._layer_inputs import Rows
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.pruning.dilution import dilution, sums_after

STREAM = """g (float[n, 4, 5, 5] x) => (float[n, 4, 5, 5] y) {
    [s] s = Neg(x)
    [c] a = Conv<kernel_shape = [1, 1]>(s, w)
    %s
}"""
WEIGHTS = {
    "w": weights(4, 4, 1, 1),
    "k": weights(1, 4, 1, 1, seed=1),
    "g": weights(4, seed=2),
    "v": np.ones(4, np.float32),
}


def site(text: str) -> WeightedNode:
    """The layer `c` of a graph."""
    model = graph(text, {name: array for name, array in WEIGHTS.items() if f", {name}" in text})
    found = weighted_node(next(node for node in model.graph if node.name == "c"))
    assert isinstance(found, WeightedNode)
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[r] y = Relu(a)", []),
        ("[add] y = Add(s, a)", [("a", "y")]),
        ("[bias] b0 = Add(a, k) [add] t = Add(b0, s) [r] y = Relu(t)", [("b0", "t")]),
        ("[bn] n0 = BatchNormalization(a, g, g, g, v) [add] y = Add(s, n0)", [("n0", "y")]),
        ("[one] t = Sub(a, s) [two] y = Sum(x, t)", [("a", "t"), ("t", "y")]),
        ("[gate] t = Mul(a, s) [add] y = Add(t, s)", [("t", "y")]),
        ("[shape] h = Shape(a) [again] q = Reshape(s, h) [add] y = Add(a, q)", [("a", "y")]),
        ("[pool] t = MaxPool<kernel_shape = [1, 1]>(a) [add] y = Add(t, s)", []),
        ("[r] t = Relu(a) [q] u = Neg(a) [add] y = Add(t, u)", []),
    ],
)
def test_the_sums_on_the_way_to_the_next_reader(body: str, expected: list[tuple[str, str]]) -> None:
    assert sums_after(site(STREAM % body)) == tuple((Rows(term, 1), Rows(whole, 1)) for term, whole in expected)


def test_channels_of_a_product_run_along_its_last_axis() -> None:
    text = "g (float[n, 5, 4] x, float[n, 5, 4] z) => (float[n, 5, 4] y) { [c] a = MatMul(x, v) [add] y = Add(a, z) }"
    node = next(iter(graph(text, {"v": weights(4, 4)}).graph))
    found = weighted_node(node)
    assert isinstance(found, WeightedNode)
    assert sums_after(found) == ((Rows("a", -1), Rows("y", -1)),)


def test_an_error_is_diluted_by_the_variance_of_the_sum_not_by_its_mean() -> None:
    text = """g (float[n, 3] x, float[n, 3] z) => (float[n, 3] y) {
        [c] a = MatMul(x, w)
        [add] s = Add(a, z)
        [r] y = Identity(s)
    }"""
    model = graph(text, {"w": np.eye(3, dtype=np.float32)})
    feeds = [{"x": weights(4000, 3, seed=1), "z": 3 * weights(4000, 3, seed=2) + 100}]
    found = weighted_node(next(iter(model.graph)))
    assert isinstance(found, WeightedNode)
    sums = sums_after(found)
    moments = Calibration(model, lambda: feeds, threads=1).moments([rows for one in sums for rows in one])
    assert dilution(sums, moments) == pytest.approx(1 / (1 + 9), rel=0.1)
    assert dilution((), moments) == 1
