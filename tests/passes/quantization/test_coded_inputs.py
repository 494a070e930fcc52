# SPDX-License-Identifier: Apache-2.0
"""What calibration takes for the inputs of a quantized layer is what its operator multiplies."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Array, graph, run, weights

from edgefold.ops import add_functions
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs, weighted_node
from edgefold.passes.quantization.coded_inputs import Coded
from edgefold.passes.quantization.codes import quantize_matrix
from edgefold.passes.quantization.shift_nodes import Activation, replace_node, store_matrix

LINEAR = "g (float[N, 20] x) => (float[N, 6] y) { [n] y = MatMul(x, w) }"
LEFT = "g (float[20, N] x) => (float[6, N] y) { [n] y = MatMul(w, x) }"
CONV = "g (float[B, 8, 5, 5] x) => (float[B, 6, 5, 5] y) { [n] y = Conv<group = 2, pads = [1, 1, 1, 1]>(x, w) }"
SHIFTS = tuple(k % 5 for k in range(20))


def replaced(text: str, weight: Array, activation: Activation) -> tuple[object, Coded, Array]:
    model = graph(text, {"w": weight})
    [node] = model.graph
    site = weighted_node(node)
    assert isinstance(site, WeightedNode)
    inputs = layer_inputs(site)
    assert inputs is not None
    matrix = quantize_matrix(site.matrix(), 8, "rtn")
    store = InitializerStore(model.graph)
    replace_node(store, site, store_matrix(store, "w", matrix), 8, activation)
    add_functions(model)
    return model, Coded(inputs, activation), matrix.dequantize()


@pytest.mark.parametrize("text", [LINEAR, LEFT])
@pytest.mark.parametrize("scale", [0.0, 0.07])
@pytest.mark.parametrize("shifts", [(), SHIFTS])
def test_products_of_rows(text: str, scale: float, shifts: tuple[int, ...]) -> None:
    left = text == LEFT
    weight = weights(6, 20) if left else weights(20, 6)
    model, coded, matrix = replaced(text, weight, Activation(-7, 7, scale, shifts))
    x = weights(20, 9, seed=1) if left else weights(9, 20, seed=1)
    got = run(model, {"x": x})[0]  # type: ignore[arg-type]
    rows = coded.gather(x, np.arange(coded.count(x.shape)))[0]
    np.testing.assert_allclose(rows @ matrix, got.T if left else got, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shifts", [(), SHIFTS[:8]])
def test_convolutions_in_groups(shifts: tuple[int, ...]) -> None:
    model, coded, matrix = replaced(CONV, weights(6, 4, 3, 3), Activation(0, 15, 0.05, shifts))
    x = np.maximum(weights(2, 8, 5, 5, seed=1), 0)
    got = run(model, {"x": x})[0]  # type: ignore[arg-type]
    rows = coded.gather(x, np.arange(coded.count(x.shape)))
    wanted = np.concatenate([part @ matrix[:, run * 3 : run * 3 + 3] for run, part in enumerate(rows)], axis=1)
    np.testing.assert_allclose(wanted.reshape(2, 5, 5, 6).transpose(0, 3, 1, 2), got, rtol=1e-5, atol=1e-5)


def test_rows_of_zeros_stay_zero() -> None:
    _, coded, _ = replaced(LINEAR, weights(20, 6), Activation(-7, 7, 0.0))
    assert not coded.gather(np.zeros((3, 20), np.float32), np.arange(3)).any()


def test_values_that_are_not_finite_are_refused() -> None:
    _, coded, _ = replaced(LINEAR, weights(20, 6), Activation(-7, 7, 0.0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        coded.gather(np.full((3, 20), np.nan, np.float32), np.arange(3))
