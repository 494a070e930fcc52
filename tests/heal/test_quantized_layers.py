# SPDX-License-Identifier: Apache-2.0
"""Quantized layers are trained in the integers that ship: what a module gives, what it trains, and what it stores."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from damaged import damaged, healed, original, training, weights_of  # noqa: E402
from packed_layers import (  # noqa: E402
    FLOAT,
    SIGNED,
    UNSIGNED,
    convolution,
    float_convolution,
    layers,
    linear,
    lookup,
    matrix,
    packed,
)
from torch_graphs import assert_same, in_ort, in_torch, weights  # noqa: E402

from edgefold.errors import ModelError, UsageError  # noqa: E402
from edgefold.files.serialization import serialize  # noqa: E402
from edgefold.heal.graph_module import SPACINGS, GraphModule  # noqa: E402
from edgefold.heal.hidden import paired_hidden  # noqa: E402
from edgefold.heal.operators.learned_step import Levels, activation_codes  # noqa: E402
from edgefold.heal.optimizer import make_optimizer  # noqa: E402
from edgefold.heal.packed_weights import PackedWeights, packed_weights  # noqa: E402
from edgefold.heal.training import Training  # noqa: E402
from edgefold.passes import Context, Heal, Quantize  # noqa: E402
from edgefold.passes.heal import DEFAULT_RATE, DEFAULT_RATE_OF_QUANTIZED  # noqa: E402

EXACT = {"rtol": 1e-6, "atol": 1e-6}


@pytest.mark.parametrize(("bits", "method"), [(2, "rtn"), (3, "shift-lut"), (4, "shift"), (6, "shift-lut"), (8, "rtn")])
@pytest.mark.parametrize(("codes", "x_scale"), [(SIGNED, 0.0), (SIGNED, 0.02), ((-7, 7), 0.3), (FLOAT, 0.0)])
def test_a_product_is_that_of_the_shipped_integers(bits: int, method: str, codes: tuple, x_scale: float) -> None:
    x = weights(5, 75, seed=2)
    x[1] = 0  # a dynamic row of zeros
    tolerance = {} if codes == FLOAT else EXACT
    assert_same(linear(matrix(75, 20, bits, method), codes, x_scale), {"x": x}, **tolerance)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize(("codes", "x_scale"), [(UNSIGNED, 0.01), ((0, 15), 0.2), ((-7, 7), 0.4), (FLOAT, 0.0)])
def test_a_convolution_is_that_of_the_shipped_integers(group: int, codes: tuple, x_scale: float) -> None:
    model = convolution(matrix(36, 12, method="shift-lut"), group, codes, x_scale)
    tolerance = {} if codes == FLOAT else EXACT
    assert_same(model, {"x": weights(2, 6 * group, 9, 8)}, **tolerance)


@pytest.mark.parametrize("group", [1, 3])
def test_a_float_convolution_is_that_of_the_shipped_weights_and_they_are_trained(group: int) -> None:
    model = float_convolution(matrix(36, 12, method="shift-lut"), group)
    x = weights(2, 6 * group, 9, 8)
    assert_same(model, {"x": x})
    module = GraphModule(model)
    in_torch(module, {"x": x})["y"].square().sum().backward()
    trained = {name: parameter.grad.abs().max() > 0 for name, parameter in module.named_parameters()}
    assert trained == {"w_codes": True, "w_scales": True, "bias": True}


@pytest.mark.parametrize(("codes", "x_scale"), [((-7, 7), 0.0), ((-7, 7), 0.1), ((0, 15), 0.1)])
def test_channels_have_the_steps_of_their_shifts(codes: tuple, x_scale: float) -> None:
    rising = np.geomspace(0.1, 4, 36).astype(np.float32)
    product = linear(matrix(36, 12), codes, x_scale, np.arange(36) % 5)
    assert_same(product, {"x": weights(5, 36) * rising}, **EXACT)
    if x_scale:
        across = convolution(matrix(36, 12), 1, codes, x_scale, (0, 1, 2, 3, 4, 2))
        assert_same(across, {"x": weights(2, 6, 9, 8)}, **EXACT)


def test_codes_of_a_quantizing_producer_are_taken_as_they_are_and_their_scale_is_trained() -> None:
    model = linear(matrix(36, 12), x_scale=0.1)
    model.graph.node(0).attributes["x_codes"] = ir.AttrInt64("x_codes", 1)
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.INT8)
    x = np.round(40 * weights(5, 36)).clip(-127, 127).astype(np.int8)
    assert_same(model, {"x": x}, **EXACT)
    module = GraphModule(model)
    in_torch(module, {"x": x})["y"].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


def test_rows_of_an_embedding_are_looked_up_from_both_ends() -> None:
    assert_same(lookup(matrix(40, 20, 8), 4), {"ids": np.int64([3, 0, -1, -20])}, **EXACT)


def test_codes_scales_and_steps_are_trained_and_dynamic_steps_are_not() -> None:
    static = linear(matrix(40, 8), x_scale=0.1)
    assert {name for name, _ in GraphModule(static).named_parameters()} == {"w_codes", "w_scales", "bias", "x_scale"}
    dynamic = linear(matrix(40, 8))
    assert {name for name, _ in GraphModule(dynamic).named_parameters()} == {"w_codes", "w_scales", "bias"}


@pytest.mark.parametrize("method", ["rtn", "shift", "shift-lut"])
def test_untouched_codes_come_back_byte_for_byte(method: str) -> None:
    weight = matrix(70, 20, method=method)
    weight.scales[3] = 0  # whatever its codes are, the column is zero
    model = linear(weight)
    before = serialize(model)
    GraphModule(model).write_back(model)
    assert serialize(model) == before


@pytest.mark.parametrize("method", ["rtn", "shift", "shift-lut"])
def test_latent_weights_start_all_over_the_cells_of_their_codes(method: str) -> None:
    weight = matrix(320, 20, 4, method)
    value = linear(weight).graph.initializers["w_codes"]
    start = PackedWeights(value, weight)
    table = weight.table.astype(np.float32)[np.repeat(weight.selectors, 32, axis=0)]
    nearest = np.abs(table - (start.latent() / weight.scales)[..., None]).argmin(axis=-1)
    np.testing.assert_array_equal(np.take_along_axis(table, nearest[..., None], -1)[..., 0], weight.integers())
    place = (start.latent() - weight.dequantize()) / weight.scales / 2.0 ** np.repeat(weight.selectors, 32, axis=0)
    if method != "shift-lut":
        assert place.std() == pytest.approx(0.45 / np.sqrt(3), rel=0.05)
        assert abs(place.mean()) < 0.02


def test_a_latent_weight_that_passes_half_a_step_changes_its_code_alone() -> None:
    weight = matrix(70, 20)
    model, x = linear(weight), weights(3, 70)
    module = GraphModule(model)
    latent = dict(module.named_parameters())["w_codes"]
    step = float(weight.scales[4]) * 2.0 ** int(weight.selectors[1, 4])
    levels = weight.dequantize()
    with torch.no_grad():
        latent[40, 4] = float(levels[40, 4]) + (-0.8 * step if levels[40, 4] > 0 else 0.8 * step)
        latent[41, 5] = float(levels[41, 5]) + 0.4 * float(weight.scales[5])  # not half a step
    module.write_back(model)
    after = GraphModule(model)
    changed = (packed_weights(model)["w_codes"].matrix.dequantize() != levels).nonzero()
    assert [axis.tolist() for axis in changed] == [[40], [4]]
    np.testing.assert_array_equal(
        in_ort(model, {"x": x})[0], in_torch(after, {"x": x})["y"].detach().numpy(), strict=True
    )
    torch.testing.assert_close(in_torch(module, {"x": x})["y"], in_torch(after, {"x": x})["y"])


def test_training_moves_codes_but_not_the_choice_of_tables() -> None:
    model = original()
    Quantize(weights=2, method="rtn", first_last=3).rewrite(model, Context())
    before = weights_of(model)
    done = healed(model, steps=24, learning_rate=0.005, batch=32)
    assert min(epoch.held_out for epoch in done.history) < 0.5 * done.history[0].held_out
    codes = [name for name in before if name.endswith(".codes")]
    assert any(before[name].tobytes() != weights_of(model)[name].tobytes() for name in codes)
    for name in (name for name in before if name.endswith((".selectors", ".table"))):
        assert before[name].tobytes() == weights_of(model)[name].tobytes()


@pytest.mark.parametrize(("bits", "by_levels"), [(2, True), (8, False)])
def test_latent_weights_step_by_their_levels_where_these_lie_far_apart(bits: int, by_levels: bool) -> None:
    weight = matrix(40, 8, bits, "rtn")
    module = GraphModule(linear(weight))
    latent = dict(module.named_parameters())["w_codes"]
    groups = make_optimizer(dict(module.named_parameters()), module.least_steps, Heal(), 3e-3).param_groups
    (step,) = [group["scale"] for group in groups if group["params"][0] is latent]
    of_levels = SPACINGS * np.sqrt(np.square(weight.scales).mean())
    of_weights = float(latent.detach().square().mean().sqrt())
    assert step == pytest.approx(of_levels if by_levels else of_weights)


@pytest.mark.parametrize("asked", [None, 0.01])
def test_quantized_layers_are_trained_at_a_lower_rate_unless_one_is_given(asked: float | None) -> None:
    rates = []
    for student in (damaged(), original()):
        if rates:
            Quantize().rewrite(student, Context())
        rates.append(training(student, Heal(learning_rate=asked, threads=1))._rate)
    assert rates == ([0.01, 0.01] if asked else [DEFAULT_RATE, DEFAULT_RATE_OF_QUANTIZED])


def test_layers_of_original_and_quantized_model_are_taught_by_the_same_hidden_tensors() -> None:
    student, x = original(), np.zeros((2, 1, 8, 8), np.float32)
    Quantize().rewrite(student, Context())
    feeds = {str(original().graph.inputs[0].name): x}
    assert paired_hidden(student, original(), feeds) == paired_hidden(original(), original(), feeds) != ()


def test_codes_that_two_nodes_scale_differently_are_refused_by_name() -> None:
    attributes = "k = 8, bits = 4, activation_low = 0, activation_high = 0"
    model = layers(
        f"""net (float[B, 8] x) => (float[B, 8] z) {{
            [one] y = ai.edgefold.ShiftMatMul<{attributes}>(x, w_codes, w_selectors, w_table, w_scales, o, o, none)
            [two] z = ai.edgefold.ShiftMatMul<{attributes}>(y, w_codes, w_selectors, w_table, other, o, o, none)
        }}""",
        **packed(matrix(8, 8)),
        other=weights(8) ** 2,
        o=np.float32([0]),
        none=np.uint8([0]),
    )
    with pytest.raises(
        ModelError, match=re.escape("node 'one' (ai.edgefold::ShiftMatMul) has codes that are computed")
    ):
        GraphModule(model)


def test_a_matrix_that_two_nodes_read_is_one_parameter() -> None:
    weight = matrix(8, 8)
    attributes = "k = 8, bits = 4, activation_low = -127, activation_high = 127"
    model = layers(
        f"""net (float[B, 8] x) => (float[B, 8] z) {{
            y = ai.edgefold.ShiftMatMul<{attributes}>(x, w_codes, w_selectors, w_table, w_scales, o, o, none)
            z = ai.edgefold.ShiftMatMul<{attributes}>(y, w_codes, w_selectors, w_table, w_scales, o, o, none)
        }}""",
        **packed(weight),
        o=np.float32([0]),
        none=np.uint8([0]),
    )
    module = GraphModule(model)
    assert {name for name, _ in module.named_parameters()} == {"w_codes", "w_scales"}
    in_torch(module, {"x": weights(3, 8)})["z"].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), method=st.sampled_from(["rtn", "shift"]), seed=st.integers(0, 2**16))
def test_the_nearest_level_is_taken_and_its_gradients_are_those_of_learned_steps(
    bits: int, method: str, seed: int
) -> None:
    weight = matrix(45, 3, bits, method, seed)
    latent = torch.tensor(weight.dequantize() + 0.3 * weights(45, 3, seed=seed + 1), requires_grad=True)
    scales = torch.tensor(weight.scales, requires_grad=True)
    levels = Levels(weight.table, weight.selectors, 45).nearest(latent, scales)
    of_weight = weight.table.astype(np.float32)[np.repeat(weight.selectors, 32, axis=0)[:45]]  # [K, N, 2**bits]
    scaled = (latent / scales).detach().numpy()
    distance = np.abs(levels.detach().numpy() - scaled)
    np.testing.assert_allclose(distance, np.abs(of_weight - scaled[..., None]).min(axis=-1), atol=1e-4)

    direction = torch.from_numpy(weights(45, 3, seed=seed + 2))
    # The integers are multiplied by their scales as constants: the quantizer's gradient is the whole one.
    (levels * scales.detach() * direction).sum().backward()
    found = latent.grad, scales.grad
    steps = torch.from_numpy(2.0 ** np.repeat(weight.selectors, 32, axis=0)[:45]).float()
    top = torch.from_numpy(of_weight.max(axis=-1)) + steps / 2
    plain, plain_scales = latent.detach().requires_grad_(), scales.detach().requires_grad_()
    v = plain / plain_scales
    inside = (v.abs() < top).detach()
    through = torch.where(inside, v + (levels - v).detach(), levels.detach())
    (through * plain_scales * direction).sum().backward()
    torch.testing.assert_close(found[0], plain.grad)
    torch.testing.assert_close(found[1], plain_scales.grad, rtol=1e-3, atol=1e-4)


def test_activation_steps_learn_by_the_rounding_error_inside_and_the_limit_outside() -> None:
    x = torch.tensor([[0.26, 0.6, -3.0, 9.0]], requires_grad=True)
    scale = torch.tensor([0.5], requires_grad=True)
    shifts = torch.tensor([1.0, 1.0, 1.0, 2.0])
    integers = activation_codes(x, scale, shifts, -4, 7)
    assert integers.tolist() == [[1, 1, -4, 14]]
    (integers * scale.detach()).sum().backward()
    assert x.grad.tolist() == [[1, 1, 0, 0]]
    assert scale.grad.item() == pytest.approx((1 - 0.52) + (1 - 1.2) - 4 + 2 * 7)


def test_quantized_layers_do_not_learn_in_bfloat16() -> None:
    model = linear(matrix(75, 20, 4, "shift"), FLOAT, 0.0)
    student, options = GraphModule(model), Heal(precision="bfloat16")
    with pytest.raises(UsageError, match="--precision bfloat16: the model has quantized layers"):
        Training(student, None, None, None, options, 0, None)  # type: ignore[arg-type]  # refused before they are read
