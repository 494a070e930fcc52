# SPDX-License-Identifier: Apache-2.0
"""Layers that train in integers: their codes, their gradients, and that what they learnt is what ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'heal'")

from edgefold.errors import ModelError  # noqa: E402
from edgefold.heal.integer.codes import InputCodes, weight_codes  # noqa: E402
from edgefold.heal.integer.layers import IntegerConv2d, IntegerLinear, Precision  # noqa: E402
from edgefold.heal.integer.normalization import L1BatchNorm2d  # noqa: E402
from edgefold.heal.integer.packing import frozen, store_codes  # noqa: E402
from edgefold.session import make_session  # noqa: E402


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_step_has_the_gradient_of_lsq() -> None:
    inputs = InputCodes(2, unsigned=True)
    x = torch.tensor([[-1.0, 0.24, 0.26], [0.76, 1.1, 9.0]], requires_grad=True)
    inputs.started.fill_(True)
    inputs.step.data.fill_(0.5)
    codes, step = inputs(x)
    assert codes.flatten().tolist() == [0, 0, 1, 2, 2, 3]
    (codes * step).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 1, 0]
    # Equation 3: q - x / step inside the range, the bound outside; and the factor of section 2.2 for 3 features.
    expected = sum([0, -0.48, 0.48, 0.48, -0.2, 3]) / (3 * 3) ** 0.5
    assert inputs.step.grad.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_never_clipped_and_all_have_a_gradient(bits: int) -> None:
    weight = drawn(6, 3, 3, 3).requires_grad_()
    codes, scales = weight_codes(weight, bits)
    assert torch.equal(codes, codes.round())
    assert torch.equal(codes.abs().amax((1, 2, 3)), torch.full((6,), 2.0 ** (bits - 1) - 1))
    assert ((codes * scales.reshape(-1, 1, 1, 1) - weight).abs() <= scales.reshape(-1, 1, 1, 1) * 0.5001).all()
    codes.sum().backward()
    assert torch.allclose(weight.grad, (1 / scales).reshape(-1, 1, 1, 1).expand_as(weight))
    assert not weight_codes(torch.zeros(2, 4), bits)[0].any()


def test_the_first_batch_chooses_the_step() -> None:
    inputs = InputCodes(4, unsigned=True)
    x = drawn(4, 8, 8, 8).relu()
    codes, step = inputs(x)
    errors = [((x / s).clamp(0, 15).round() * s - x).square().sum() for s in (step / 2, step, step * 2)]
    assert errors[1] < min(errors[0], errors[2])
    assert (codes.min(), codes.max()) == (0, 15)
    inputs(100 * x)
    assert torch.equal(inputs.step, step.detach())


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    signed, unsigned = Precision(weights=8, inputs=8, unsigned=False), Precision()
    return torch.nn.Sequential(
        torch.nn.Sequential(IntegerConv2d(3, 8, 3, precision=signed, stride=2), L1BatchNorm2d(8), torch.nn.ReLU()),
        torch.nn.Sequential(IntegerConv2d(8, 6, 3, precision=unsigned, groups=2), torch.nn.BatchNorm2d(6)),
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten(), IntegerLinear(96, 5, precision=unsigned)),
    )


def exported(plain: torch.nn.Module) -> ir.Model:
    """What torch's exporter makes of the frozen network, without the seconds that it takes."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        network (float[n, 3, 8, 8] x) => (float[n, 5] y) {
            a = Conv<strides = [2, 2], pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(x, w0, b0)
            b = Relu(a)
            c = Conv<group = 2, pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(b, w1, b1)
            d = Relu(c)
            e = Flatten(d)
            y = Gemm<transB = 1>(e, w2, b2)
        }""")
    for number, name in enumerate(("0.0", "1.0", "2.2")):
        for letter, kind in (("w", "weight"), ("b", "bias")):
            array = plain.state_dict()[f"{name}.{kind}"].numpy()
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}.{kind}"))
            for node in model.graph.node:
                node.input[:] = [f"{name}.{kind}" if i == f"{letter}{number}" else i for i in node.input]
    found = ir.from_proto(model)
    assert isinstance(found, ir.Model)
    return found


def trained() -> torch.nn.Module:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for step in range(30):
        x = drawn(16, 3, 8, 8, seed=step % 3)
        loss = torch.nn.functional.cross_entropy(module(x), torch.arange(16) % 5)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    return module.eval()


@pytest.mark.parametrize("library", [False, True])
def test_what_is_stored_is_what_was_trained(library: bool) -> None:
    module = trained()
    plain, layers = frozen(module)
    model = exported(plain)
    store_codes(model, layers)
    assert [node.op_type for node in model.graph if node.domain] == ["ShiftConv", "ShiftConv", "ShiftMatMul"]
    assert [node.attributes["bits"].as_int() for node in model.graph if node.domain] == [8, 4, 4]
    x = drawn(9, 3, 8, 8, seed=9)
    found = make_session(model, threads=1, library=library).run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, module(x).numpy(), rtol=1e-5, atol=1e-5)


def test_freezing_leaves_the_network_alone() -> None:
    module = trained()
    x = drawn(3, 3, 8, 8)
    before = module(x)
    frozen(module)
    assert torch.equal(module(x), before)


def test_a_weight_that_the_export_lacks_is_named() -> None:
    plain, layers = frozen(trained())
    model = exported(plain)
    with pytest.raises(ModelError, match=r"reads 7\.weight"):
        store_codes(model, {**layers, "7.weight": layers["0.0.weight"]})
