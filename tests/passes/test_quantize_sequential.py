# SPDX-License-Identifier: Apache-2.0
"""Quantize goes from layer to layer: each is rounded for the inputs that the quantized ones before it give."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.calibration import Calibration
from edgefold.errors import ModelError
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.pruning.groups import Trace
from edgefold.passes.quantization import weights as rounding
from edgefold.passes.quantization.codes import QuantizedMatrix, quantize_matrix
from edgefold.passes.quantize import Override, Quantize
from edgefold.probing import probe

CHAIN = """g (float[N, 64] x) => (float[N, 24] y) {
    [a] p = MatMul(x, w0)
    q = Relu(p)
    [b] r = MatMul(q, w1)
    s = Add(p, r)
    [c] y = MatMul(s, w2) }"""
MATRICES = {"w0": weights(64, 64), "w1": weights(64, 64, seed=1), "w2": weights(64, 24, seed=2)}
ALL_NARROW = functools.partial(Quantize, rounding="gptq", first_last=4)


def batches(count: int, rows: int = 256) -> list[Array]:
    basis = weights(16, 64, seed=100)
    return [(weights(rows, 16, seed=7 + i) @ basis / 4 + 0.5).astype(np.float32) for i in range(count)]


def quantize(options: Quantize, data: list[Array]) -> tuple[ir.Model, Notes]:
    def feeds() -> Iterator[dict[str, Array]]:
        return ({"x": batch} for batch in data)

    original = graph(CHAIN, MATRICES)
    changed = original.clone()
    context = Context(calibration=Calibration(original, feeds), probe=functools.partial(probe, feeds={"x": data[0]}))
    return changed, options.rewrite(changed, context)


def outputs(model: ir.Model, x: Array) -> Array:
    return run(model, {"x": x})[0]


@pytest.mark.parametrize("activations", ["float", 4, "static4"])
def test_the_mean_output_is_that_of_the_original(activations: object) -> None:
    """Biases corrected for the inputs of the original would leave the shift that the coarse layers before make."""
    [x] = batches(1)
    changed, _ = quantize(ALL_NARROW(weights=3, activations=activations), [x])
    wanted, got = outputs(graph(CHAIN, MATRICES), x), outputs(changed, x)
    shift = np.abs((wanted - got).mean(axis=0)).max()
    assert shift < 1e-4 * np.abs(wanted).max()
    assert np.abs(wanted - got).max() > 1e-2  # it was lossy


def test_later_layers_make_up_for_earlier_ones() -> None:
    """With only the first layer coarse, the others are fine enough to undo what it lost along their inputs."""
    data = batches(4)
    wanted = outputs(graph(CHAIN, MATRICES), data[0])

    def error(rounding: str) -> float:
        options = Quantize(
            weights=8, method="shift", rounding=rounding, activations="float",  # type: ignore[arg-type]
            overrides=(Override(match="a", weights=2),),
        )  # fmt: skip
        return float(np.square(wanted - outputs(quantize(options, data)[0], data[0])).sum())

    def alone() -> float:
        """The first layer rounded as `quantize` rounds it, the others in float."""
        model = graph(CHAIN, MATRICES)
        matrix = quantize_matrix(
            MATRICES["w0"], 2, "shift-lut", second_moment=_centred(np.concatenate(data)), rounding="gptq"
        ).dequantize()
        model.graph.initializers["w0"].const_value = ir.tensor(matrix)
        return float(np.square(wanted - outputs(model, data[0])).sum())

    assert error("gptq") < 0.85 * min(alone(), error("nearest"))


def _centred(x: Array) -> np.ndarray:
    moved = (x - x.mean(axis=0)).astype(np.float64)
    return moved.T @ moved


def test_refits_are_rounded_beside_the_original_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Array, Array]] = []

    def record(weight: Array, *args: object, original: Array, **options: object) -> QuantizedMatrix:
        seen.append((weight, original))
        return quantize_matrix(weight, *args, original=original, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rounding, "quantize_matrix", record)
    quantize(ALL_NARROW(activations="float", weights=4), batches(2))
    for (fitted, original), matrix in zip(seen, MATRICES.values(), strict=True):
        np.testing.assert_array_equal(original, matrix)
        assert np.abs(fitted - original).max() > 0


def test_activations_of_the_ends_keep_eight_bits() -> None:
    changed, notes = quantize(Quantize(activations=4, rounding="gptq"), batches(2))
    highs = [node.attributes["activation_high"].as_int() for node in changed.graph if node.op_type == "ShiftMatMul"]
    assert highs == [127, 7, 127]
    assert [edit.what for edit in notes.edits][::2] == ["8 bits, shift"] * 2
    assert notes.edits[1].what.startswith("4 bits, shift-lut; activations 4 bits")


def test_unsigned_codes_after_a_relu() -> None:
    changed, _ = quantize(ALL_NARROW(activations="static4"), batches(2))
    [_, second, _] = [node for node in changed.graph if node.op_type == "ShiftMatMul"]
    assert second.attributes["activation_low"].as_int() == 0
    assert second.attributes["activation_high"].as_int() == 15


def test_without_calibration_there_are_rows_of_narrow_codes_and_no_shifts() -> None:
    model = graph(CHAIN, MATRICES)
    notes = Quantize(activations="static6").rewrite(model, Context())
    assert {skip.reason for skip in notes.skips if "row" in skip.detail} == {SkipReason.NO_CALIBRATION}
    [_, second, _] = [node for node in model.graph if node.op_type == "ShiftMatMul"]
    assert second.attributes["activation_high"].as_int() == 31


def test_the_error_of_the_outputs_is_reported() -> None:
    errors = [quantize(ALL_NARROW(activations=a), batches(2))[1].stats["output_error"] for a in (8, 6, 4)]
    assert errors == sorted(errors)
    assert 0 < float(errors[0]) < 1


def test_one_group_is_one_step_for_all_channels() -> None:
    for activations in ("static4", "dynamic4"):
        changed, _ = quantize(ALL_NARROW(activations=activations, groups=1), batches(2))
        shifts = [node.inputs[7].const_value.numpy() for node in changed.graph if node.op_type == "ShiftMatMul"]  # type: ignore[union-attr]
        assert [one.tolist() for one in shifts] == [[0]] * 3


def test_a_model_that_cannot_be_probed_is_quantized_all_the_same() -> None:
    def refuse(model: ir.Model) -> Trace:
        raise ModelError("the model runs at no size")

    original = graph(CHAIN, MATRICES)
    changed = original.clone()
    context = Context(calibration=Calibration(original, lambda: [{"x": x} for x in batches(2)]), probe=refuse)
    notes = ALL_NARROW().rewrite(changed, context)
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("model", SkipReason.FALLBACK)]
    assert len(notes.edits) == 3
