# SPDX-License-Identifier: Apache-2.0
"""Quantized graphs trained with integer products in the backward pass: ``edgefold heal --gradient-bits``."""

from __future__ import annotations

import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'heal'")

from damaged import healed, original, same  # noqa: E402
from packed_layers import FLOAT, SIGNED, convolution, linear, matrix  # noqa: E402
from torch_graphs import weights  # noqa: E402

from edgefold.heal.graph_module import GraphModule  # noqa: E402
from edgefold.heal.integer.shift_quantizer import ShiftQuantizer  # noqa: E402
from edgefold.passes import Context, Quantize  # noqa: E402


def gradients(model: ir.Model, bits: int | None, x: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    module, x = GraphModule(model, bits), x.clone().requires_grad_()
    y = module({"x": x})["y"]
    spread = torch.linspace(0.1, 3, y.shape[1]).reshape(-1, *[1] * (y.dim() - 2))
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(5)) * spread)
    return {"x": x.grad, **{name: parameter.grad for name, parameter in module.named_parameters()}}


MODELS = {
    "linear": (linear(matrix(40, 12), (-7, 7), 0.3), (6, 40)),
    "dynamic": (linear(matrix(40, 12), SIGNED), (6, 40)),
    "convolution": (convolution(matrix(36, 12), 2, (0, 15), 0.2), (3, 12, 9, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_the_float_backward_pass_in_the_mean(name: str) -> None:
    model, shape = MODELS[name]
    x = torch.from_numpy(weights(*shape, seed=3))
    exact = gradients(model, None, x)
    drawn = [gradients(model, 4, x, seed) for seed in range(60)]
    for key in ("x", "w_codes"):
        values = torch.stack([draw[key] for draw in drawn])
        assert not torch.equal(values[0], values[1])
        error = (values.mean(0) - exact[key]).norm() / exact[key].norm()
        single = (values[0] - exact[key]).norm() / exact[key].norm()
        assert 0.02 < single < 0.5
        assert error < 2 * single / 60**0.5
    assert torch.equal(drawn[0]["bias"], exact["bias"])


def test_the_outputs_do_not_depend_on_it() -> None:
    for model, shape in MODELS.values():
        x = torch.from_numpy(weights(*shape, seed=3))
        assert torch.equal(GraphModule(model, 4)({"x": x})["y"], GraphModule(model)({"x": x})["y"])


def test_layers_of_float_activations_keep_float_gradients() -> None:
    model, x = linear(matrix(40, 12), FLOAT), torch.from_numpy(weights(6, 40, seed=3))
    exact, ours = gradients(model, None, x), gradients(model, 4, x)
    assert all(torch.equal(exact[name], ours[name]) for name in exact)


@pytest.mark.parametrize(("bits", "expected"), [(4, 4), (8, 8)])
def test_wider_layers_have_wider_gradients(monkeypatch: pytest.MonkeyPatch, bits: int, expected: int) -> None:
    seen = []
    plain = ShiftQuantizer.__call__

    def recorded(self: ShiftQuantizer, gradient: torch.Tensor, channel: int = 1) -> object:
        seen.append(self.bits)
        return plain(self, gradient, channel)

    monkeypatch.setattr(ShiftQuantizer, "__call__", recorded)
    gradients(linear(matrix(40, 12, bits, "rtn")), 4, torch.from_numpy(weights(6, 40, seed=3)))
    assert seen == [expected]


def test_a_healing_in_integers_learns_and_repeats() -> None:
    models = []
    for bits in (4, 4, None):
        model = original()
        Quantize(weights=2, method="rtn").rewrite(model, Context())
        found = healed(model, steps=12, patience=0, learning_rate=3e-3, gradient_bits=bits)
        assert found.best_step
        assert found.stats()["held_out_loss_after"] < 0.9 * found.stats()["held_out_loss_before"]
        models.append(model)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
