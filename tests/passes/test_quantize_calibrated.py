# SPDX-License-Identifier: Apache-2.0
"""Quantize with calibration data: gptq rounding, bias correction, static activation codes, and their fallbacks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.calibration import Calibration
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.quantize import Quantize

LINEAR = "g (float[N, 64] x) => (float[N, 48] y) { [n] y = MatMul(x, w) }"
CONV = "g (float[B, 16, 9, 9] x) => (float[B, 32, 9, 9] y) { [n] y = Conv<pads = [1, 1, 1, 1]>(x, w) }"


def calibrated(model: ir.Model, batches: list[Array]) -> Context:
    def feeds() -> Iterator[dict[str, Array]]:
        return ({"x": batch} for batch in batches)

    return Context(calibration=Calibration(model.clone(), feeds))


def quantize(model: ir.Model, options: Quantize, batches: list[Array]) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, options.rewrite(changed, calibrated(model, batches))


def correlated(rows: int, seed: int) -> Array:
    """Inputs of few directions and a mean far from zero, as activations are."""
    basis = weights(8, 64, seed=100)
    return (weights(rows, 8, seed=seed) @ basis + 0.1 * weights(rows, 64, seed=seed + 1) + 2).astype(np.float32)


def output_error(before: ir.Model, after: ir.Model, x: Array) -> float:
    wanted, got = run(before, {"x": x})[0], run(after, {"x": x})[0]
    return float(np.square(wanted - got).sum() / np.square(wanted).sum())


def test_gptq_beats_nearest_on_inputs_it_has_not_seen() -> None:
    model = graph(LINEAR, {"w": weights(64, 48)})
    batches = [correlated(256, seed) for seed in (1, 3)]
    errors = {}
    for rounding in ("nearest", "gptq"):
        options = Quantize(weights=3, rounding=rounding, first_last=3, activations="float")
        after, notes = quantize(model, options, batches)
        assert not notes.skips
        errors[rounding] = output_error(model, after, correlated(256, 7))
    # The inputs have 8 directions of 64: rounding has room to move its error out of their way.
    assert errors["gptq"] < errors["nearest"] / 4


def test_gptq_corrects_the_mean_of_the_output() -> None:
    model = graph(LINEAR, {"w": weights(64, 48)})
    x = correlated(512, 1)
    after, _ = quantize(model, Quantize(weights=2, rounding="gptq", first_last=2, activations="float"), [x])
    wanted, got = run(model, {"x": x})[0], run(after, {"x": x})[0]
    # The correction is exact but for float32 sums of 64 products.
    bound = 64 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(weights(64, 48))).max()
    assert np.abs((wanted - got).mean(axis=0)).max() <= bound


@pytest.mark.parametrize(("text", "biased"), [(LINEAR, False), (LINEAR.replace("{ [n] y =", "{ [n] t =").replace(
    "x, w) }", "x, w) [a] y = Add(t, b) }"), True)])  # fmt: skip
def test_a_layer_without_a_bias_gets_none_where_only_those_there_are_corrected(text: str, biased: bool) -> None:
    model = graph(text, {"w": weights(64, 48), **({"b": weights(48)} if biased else {})})
    options = Quantize(weights=2, rounding="gptq", bias_correction="there")
    after, _ = quantize(model, options, [correlated(512, 1)])
    (node,) = [node for node in after.graph if node.op_type == "ShiftMatMul"]
    bias = node.inputs[5]
    assert bias is not None
    assert bias.const_value is not None
    assert bias.const_value.size == (48 if biased else 1)
    if biased:  # and that one did take the error
        assert not np.array_equal(bias.const_value.numpy(), weights(48))


@pytest.mark.parametrize(("group", "shape"), [(1, (32, 16, 3, 3)), (4, (32, 4, 3, 3))])
def test_gptq_of_convolutions_and_their_groups(group: int, shape: tuple[int, ...]) -> None:
    model = graph(CONV.replace("pads", f"group = {group}, pads"), {"w": weights(*shape)})
    spread = np.linspace(0.1, 3, 16, dtype=np.float32)[:, None, None]
    batches = [np.maximum(weights(4, 16, 9, 9, seed=seed) + 1, 0) * spread for seed in (1, 2)]
    errors = {}
    for rounding in ("nearest", "gptq"):
        options = Quantize(weights=3, rounding=rounding, first_last=3, activations="float")
        after, _ = quantize(model, options, batches)
        errors[rounding] = output_error(model, after, np.maximum(weights(4, 16, 9, 9, seed=9) + 1, 0) * spread)
    assert errors["gptq"] < errors["nearest"]


@pytest.mark.parametrize(("floor", "low", "high"), [(0.0, 0, 255), (-9.0, -127, 127)])
def test_static_codes_are_unsigned_where_the_input_is_never_negative(floor: float, low: int, high: int) -> None:
    model = graph(CONV, {"w": weights(32, 16, 3, 3)})
    x = np.maximum(weights(4, 16, 9, 9, seed=1), np.float32(floor))
    after, notes = quantize(model, Quantize(weights=8, method="shift"), [x])
    assert not notes.skips
    [node] = after.graph
    assert node.attributes["activation_low"].as_int() == low
    assert node.attributes["activation_high"].as_int() == high
    scale = node.inputs[6]
    assert scale is not None
    assert scale.const_value is not None
    assert 0 < scale.const_value.numpy()[0] <= np.abs(x).max() / high
    assert output_error(model, after, x) < 1e-3


def test_static_activations_of_a_matmul_fall_back_to_rows() -> None:
    model = graph(LINEAR, {"w": weights(64, 48)})
    notes = Quantize(weights=8, method="shift", activations="static8").rewrite(model, Context())
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("n", SkipReason.NO_CALIBRATION)]
    [node] = model.graph
    assert node.attributes["activation_high"].as_int() == 127


def test_a_convolution_has_no_dynamic_activations() -> None:
    model = graph(CONV, {"w": weights(32, 16, 3, 3)})
    notes = Quantize(weights=8, method="shift", activations="dynamic8").rewrite(model, Context())
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("n", SkipReason.FALLBACK)]


def test_activations_that_are_not_finite_fall_back_and_are_named() -> None:
    model = graph(LINEAR, {"w": weights(64, 48)})
    bad = correlated(8, 1)
    bad[0, 0] = np.inf
    after, notes = quantize(model, Quantize(weights=8, method="shift", rounding="gptq"), [bad])
    assert [skip.reason for skip in notes.skips] == [SkipReason.FALLBACK]
    assert "'x'" in notes.skips[0].detail
    assert [node.op_type for node in after.graph] == ["ShiftMatMul"]


def test_shared_weights_are_rounded_for_all_their_inputs() -> None:
    text = "g (float[N, 64] x) => (float[N, 64] y) { [a] p = MatMul(x, w)\n q = Relu(p)\n [b] y = MatMul(q, w) }"
    model = graph(text, {"w": weights(64, 64)})
    after, _ = quantize(model, Quantize(weights=4, rounding="gptq"), [correlated(256, 1)])
    first, second = (node for node in after.graph if node.op_type == "ShiftMatMul")
    assert first.inputs[1] is second.inputs[1]
    assert first.inputs[5] is not second.inputs[5]  # each has its own mean, hence its own bias
