# SPDX-License-Identifier: Apache-2.0
"""L1LayerNormalization in torch: the values that ship, the gradient of the real form, parameters that are trained."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from torch_graphs import assert_same, graph, in_torch, weights  # noqa: E402

from edgefold.heal.graph_module import GraphModule  # noqa: E402
from edgefold.heal.operators.l1_normalization import l1_normalize  # noqa: E402
from edgefold.passes import Context  # noqa: E402
from edgefold.passes.l1_normalization import L1Normalization  # noqa: E402

NORM = "net (float[N, 24] x) => (float[N, 24] y) { y = LayerNormalization(x, gamma, beta) }"


def normalization() -> ir.Model:
    model = graph(NORM, gamma=weights(24, seed=1), beta=weights(24, seed=2))
    L1Normalization().rewrite(model, Context())
    return model


def real(x: torch.Tensor, *, centred: bool) -> torch.Tensor:
    differences, scale = l1_normalize(x, torch.zeros(1, dtype=x.dtype), centred=centred)
    return differences * scale


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradient_is_that_of_finite_differences(centred: bool) -> None:
    x = torch.from_numpy(weights(4, 9).astype(np.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: real(value, centred=centred), x, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_the_gradient_is_the_formula_of_its_page() -> None:
    x = torch.from_numpy(weights(3, 17).astype(np.float64)).requires_grad_()
    g = torch.from_numpy(weights(3, 17, seed=1).astype(np.float64))
    real(x, centred=True).backward(g)
    d = (x - x.mean(-1, keepdim=True)).detach()
    a, s = d.abs().mean(-1, keepdim=True), d.sign()
    mean = lambda value: value.mean(-1, keepdim=True)  # noqa: E731
    want = (g - mean(g) - (s - mean(s)) * mean(g * d / a)) / a
    torch.testing.assert_close(x.grad, want, rtol=1e-12, atol=1e-12)


def test_values_are_those_of_the_operator() -> None:
    x = weights(5, 24)
    x[1], x[2] = 3, 0
    assert_same(normalization(), {"x": x}, rtol=1e-6, atol=1e-6)


def test_integers_pass_the_gradient_of_the_real_form() -> None:
    text = "net (float[N, 24] x) => (float[N, 24] y) { h = MatMul(x, w)\n y = LayerNormalization(h, gamma, beta) }"
    model = graph(text, w=weights(24, 24), gamma=weights(24, seed=1), beta=weights(24, seed=2))
    L1Normalization().rewrite(model, Context())
    module, x = GraphModule(model), weights(5, 24)
    in_torch(module, {"x": x})["y"].square().sum().backward()
    parameters = dict(module.named_parameters())
    w = parameters["w"].detach().clone().requires_grad_()
    gamma, beta = (parameters[f"y.{name}"].detach() for name in ("gamma", "beta"))
    (real(torch.from_numpy(x) @ w, centred=True) * gamma + beta).square().sum().backward()
    assert w.grad is not None
    torch.testing.assert_close(parameters["w"].grad, w.grad, rtol=1e-2, atol=1e-3 * float(w.grad.abs().max()))


def test_gamma_and_beta_are_trained() -> None:
    module = GraphModule(normalization())
    assert [name for name, _ in module.named_parameters()] == ["y.gamma", "y.beta"]
    in_torch(module, {"x": weights(5, 24)})["y"].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
