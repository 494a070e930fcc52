# SPDX-License-Identifier: Apache-2.0
"""Gradients and Hessian-gradient products against finite differences of the loss as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from torch_graphs import graph, in_ort, weights  # noqa: E402

from edgefold.errors import ModelError  # noqa: E402
from edgefold.heal.differentiation import differentiator  # noqa: E402
from edgefold.heal.gradients import gradients  # noqa: E402
from edgefold.heal.graph_module import GraphModule  # noqa: E402
from edgefold.scoring.task import Batch, load_task  # noqa: E402

# Double precision, so that differences of the loss are exact enough to be compared with.
NETWORK = """net (double[N, 3] x) => (double[N, 2] y) {
    h = MatMul(x, w)
    b = Add(h, bias)
    t = Tanh(b)
    y = Gemm(t, v)
}"""


def network(**changed: np.ndarray) -> ir.Model:
    arrays = {"w": weights(3, 4), "bias": weights(4, seed=1), "v": weights(4, 2, seed=2)} | changed
    return graph(NETWORK, **{name: array.astype(np.float64) for name, array in arrays.items()})


def data(sizes: tuple[int, ...] = (5, 3)) -> Callable[[], Iterator[Batch]]:
    def batches() -> Iterator[Batch]:
        start = 0
        for number, size in enumerate(sizes):
            yield Batch({"x": weights(size, 3, seed=10 + number).astype(np.float64)}, None, start, size)
            start += size

    return batches


def loss_in_ort(model: ir.Model) -> float:
    outputs = np.concatenate([in_ort(model, batch.feeds)[0] for batch in data()()])
    return float(np.square(outputs).sum() / 2 / len(outputs))


def stored(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def test_gradients_are_those_of_finite_differences() -> None:
    found, arrays, step = gradients(network(), data()), stored(network()), 1e-5
    assert list(found) == ["w", "bias", "v"]
    for name, array in arrays.items():
        expected = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            moved = np.zeros_like(array)
            moved[place] = step
            above, below = (loss_in_ort(network(**{name: array + sign * moved})) for sign in (1, -1))
            expected[place] = (above - below) / (2 * step)
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
        assert found[name].dtype == np.float32


def test_products_with_the_hessian_are_differences_of_gradients() -> None:
    arrays, g, step = stored(network()), gradients(network(), data()), 1e-4
    found = gradients(network(), data(), times_hessian=True)
    above, below = (
        gradients(network(**{name: array + sign * step * g[name] for name, array in arrays.items()}), data())
        for sign in (1, -1)
    )
    for name in arrays:
        expected = (above[name].astype(np.float64) - below[name]) / (2 * step)
        np.testing.assert_allclose(found[name], expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def test_the_mean_is_over_samples_not_over_batches() -> None:
    whole = gradients(network(), lambda: [joined(data()())])
    for name, gradient in gradients(network(), data()).items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-5)


def joined(batches: Iterator[Batch]) -> Batch:
    return Batch({"x": np.concatenate([batch.feeds["x"] for batch in batches])}, None, 0, 8)


def test_padded_rows_do_not_count() -> None:
    x = weights(2, 3).astype(np.float64)
    exact = gradients(network(), lambda: [Batch({"x": x}, None, 0, 2)])
    padded = gradients(network(), lambda: [Batch({"x": np.concatenate([x, x[-1:]])}, None, 0, 2)])
    for name, gradient in exact.items():
        np.testing.assert_allclose(padded[name], gradient, rtol=1e-6)


def test_a_weight_that_the_loss_ignores_has_zeros() -> None:
    model = graph(
        "net (float[N, 3] x) => (float[N, 3] y, int64[N] k) { y = Mul(x, a) z = Mul(x, b) k = ArgMax<axis = 1, "
        "keepdims = 0>(z) }",
        a=weights(3),
        b=weights(3, seed=1),
    )
    found = gradients(model, lambda: [Batch({"x": weights(2, 3)}, None, 0, 2)])
    assert found["a"].any()
    assert not found["b"].any()


def test_integer_outputs_alone_and_no_data_are_errors() -> None:
    model = graph("net (float[N, 3] x) => (int64[N] k) { z = Mul(x, a) k = ArgMax<axis = 1>(z) }", a=weights(3))
    with pytest.raises(ModelError, match="the outputs k are integers"):
        gradients(model, lambda: [Batch({"x": weights(2, 3)}, None, 0, 2)])
    with pytest.raises(ModelError, match="no samples"):
        gradients(network(), list)


def test_rounding_lets_gradients_pass_and_clipping_stops_them() -> None:
    model = graph(
        """net (float[N] x) => (float[N] y) {
            q = QuantizeLinear(x, s, z)
            y = DequantizeLinear(q, s, z)
        }""",
        s=np.float32(0.1),
        z=np.int8(0),
    )
    module = GraphModule(model)
    x = torch.tensor([0.24, -0.5, 99.0], requires_grad=True)
    module({"x": x})["y"].sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0]
    (scale,) = module.parameters()
    # Learned step size quantization (1902.08153, equation 3): round(v) - v inside, the largest code outside.
    expected = (2 - 2.4) + (-5 + 5.0) + 127
    assert scale.grad.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_loss_of_a_task_is_that_of_its_labels_where_there_are_any(tmp_path: Path, labelled: bool) -> None:
    x, labels = weights(6, 3), np.int64([0, 1, 1, 0, 1, 0])
    np.savez(tmp_path / "eval.npz", x=x, y=labels)
    np.savez(tmp_path / "calib.npz", x=x, **({"y": labels} if labelled else {}))
    (tmp_path / "task.yaml").write_text(
        "data: eval.npz\ninputs: {x: {array: x}}\nmetric: {name: top1, labels: y}\n"
        "calibration: {data: calib.npz}\nbatch: 4\n"
    )
    model = graph("net (float[N, 3] x) => (float[N, 2] y) { y = MatMul(x, w) }", w=weights(3, 2))
    found = differentiator(load_task(tmp_path / "task.yaml"))(model, False)
    logits = x.astype(np.float64) @ weights(3, 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slopes = probabilities - np.eye(2)[labels] if labelled else logits
    np.testing.assert_allclose(found["w"], x.T @ slopes / 6, rtol=1e-4, atol=1e-6)
