# SPDX-License-Identifier: Apache-2.0
"""L1-normalization: the forms it knows, those it must not take for them, the fitted factors, the codes it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.calibration import Calibration
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.l1_normalization import L1Normalization
from edgefold.passes.quantize import Override, Quantize

D = 48
GAMMA, BETA = weights(D, seed=1), weights(D, seed=2)
SCALARS = {"two": 2.0, "e": 1e-5, "one": 1.0}
CONSTANTS: dict[str, Array] = {
    "g": GAMMA,
    "b": BETA,
    "axis": np.array([-1]),
    **{name: np.array(value, np.float32) for name, value in SCALARS.items()},
}
MEAN = "m = ReduceMean<keepdims = 1>(x, axis)\n d = Sub(x, m)\n"
VARIANCE = "q = Pow(d, two)\n v = ReduceMean<keepdims = 1>(q, axis)\n w = Add(v, e)\n"
AFFINE = "[scaled] t = Mul(n, g)\n y = Add(t, b)"
FORMS = {
    "operator": "y = LayerNormalization(x, g, b)",
    "pow": f"{MEAN} {VARIANCE} s = Sqrt(w)\n n = Div(d, s)\n {AFFINE}",
    "square": f"{MEAN} {VARIANCE.replace('Pow(d, two)', 'Mul(d, d)')} s = Sqrt(w)\n n = Div(d, s)\n {AFFINE}",
    "two differences": f"{MEAN} c = Sub(x, m)\n {VARIANCE} s = Sqrt(w)\n n = Div(c, s)\n {AFFINE}",
    "inverse": f"{MEAN} {VARIANCE} s = Sqrt(w)\n r = Reciprocal(s)\n n = Mul(r, d)\n {AFFINE}",
}
RMS = VARIANCE.replace("(d,", "(x,")
RMS_FORMS = {
    "quotient": f"{RMS} s = Sqrt(w)\n n = Div(x, s)\n y = Mul(n, g)",
    "one by root": f"{RMS} s = Sqrt(w)\n r = Div(one, s)\n n = Mul(x, r)\n y = Mul(g, n)",
}
NEAR_MISSES = {
    "cubes": FORMS["pow"].replace("Pow(d, two)", "Pow(d, e)"),
    "a mean that is not kept": FORMS["pow"].replace("keepdims = 1>(q", "keepdims = 0>(q"),
    "a root that others read": FORMS["pow"] + "\n z = Identity(s)",
    "another numerator": FORMS["pow"].replace("Div(d, s)", "Div(q, s)"),
    "the root of something else": "s = Sqrt(x)\n y = Div(x, s)",
}


def normalized(text: str, constants: dict[str, Array] | None = None) -> ir.Model:
    """A model of the nodes, with those of the constants that they name."""
    named = set(re.findall(r"\w+", re.sub(r"<.*?>", "", text)))
    read = {name: array for name, array in (constants or CONSTANTS).items() if name in named}
    return graph(f"g (float[2, N, {D}] x) => (float[2, N, {D}] y) {{ {text} }}", read)


def calibrated(model: ir.Model, *batches: Array) -> Context:
    def feeds() -> Iterator[dict[str, Array]]:
        return ({"x": batch} for batch in batches)

    return Context(calibration=Calibration(model.clone(), feeds))


def rewritten(model: ir.Model, context: Context | None = None, **options: str) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, L1Normalization(**options).rewrite(changed, context or Context())  # type: ignore[arg-type]


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def rows(seed: int = 5) -> Array:
    """Heavier tails than Gaussian, and another size in every row."""
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=(2, 200, D)) * rng.uniform(0.1, 5, (2, 200, 1)) + 1).astype(np.float32)


def l1(x: Array, *, centred: bool) -> Array:
    """x by its mean absolute deviation."""
    d = x - x.mean(axis=-1, keepdims=True) if centred else x
    return np.asarray(d / np.abs(d).mean(axis=-1, keepdims=True))


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_normalization_becomes_one_node(form: str) -> None:
    changed, notes = rewritten(normalized(FORMS[form]))
    assert operators(changed) == ["L1LayerNormalization"]
    assert len(notes.edits) == 1
    x = rows()
    want = l1(x, centred=True) * np.sqrt(2 / np.pi) * GAMMA + BETA
    # 15-bit levels of a row, and epsilon, which is 3e-5 of the smallest deviation here.
    np.testing.assert_allclose(run(changed, {"x": x})[0], want, atol=5e-3)


@pytest.mark.parametrize("form", RMS_FORMS)
def test_a_root_mean_square_keeps_the_mean(form: str) -> None:
    changed, _ = rewritten(normalized(RMS_FORMS[form]))
    assert operators(changed) == ["L1LayerNormalization"]
    x = rows()
    np.testing.assert_allclose(run(changed, {"x": x})[0], l1(x, centred=False) * np.sqrt(2 / np.pi) * GAMMA, atol=5e-3)


@pytest.mark.parametrize("form", NEAR_MISSES)
def test_what_only_looks_like_one_stays(form: str) -> None:
    model = normalized(NEAR_MISSES[form])
    changed, notes = rewritten(model)
    assert operators(changed) == operators(model)
    assert not notes.edits


def test_another_subtrahend_is_not_a_mean() -> None:
    """Deviations from anything but the mean are what an RMS normalization is of."""
    changed, _ = rewritten(normalized(FORMS["pow"].replace("ReduceMean<keepdims = 1>(x", "ReduceMax<keepdims = 1>(x")))
    assert operators(changed) == ["ReduceMax", "Sub", "L1LayerNormalization"]
    assert changed.graph[-1].attributes["centred"].as_int() == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("y = LayerNormalization <axis = 1> (x, g, b)", SkipReason.RANK),
        ("y = LayerNormalization(x, x, b)", SkipReason.NOT_CONSTANT),
        ("y, mean = LayerNormalization(x, g, b)\n z = Identity(mean)", SkipReason.ATTRIBUTE),
        ("y = BatchNormalization(x, g, b, g, b)", SkipReason.NOTHING_TO_GAIN),
        ("y = InstanceNormalization(x, g, b)", SkipReason.TARGET_LACKS_OP),
    ],
)
def test_what_has_no_l1_form_is_skipped(text: str, reason: SkipReason) -> None:
    model = normalized(text)
    changed, notes = rewritten(model)
    assert operators(changed) == operators(model)
    assert [skip.reason for skip in notes.skips] == [reason]


def test_an_inner_value_that_others_read_stays() -> None:
    model = normalized(FORMS["pow"].replace("y = Add(t, b)", "a = Add(t, b)\n y = Add(a, d)"))
    changed, _ = rewritten(model)
    assert operators(changed) == ["ReduceMean", "Sub", "L1LayerNormalization", "Add"]
    assert run(changed, {"x": rows()})[0].shape == (2, 200, D)


@pytest.mark.parametrize("fit", ["layer", "channel"])
def test_the_factor_is_that_of_the_data(fit: str) -> None:
    """A Laplacian deviates by sqrt(2) mean magnitudes, not sqrt(pi / 2): a Gaussian factor is 13 % off."""
    model = normalized(FORMS["pow"])
    x = rows(6)
    want = run(model, {"x": x})[0]
    errors = [
        np.square(run(changed, {"x": x})[0] - want).mean()
        for changed in (rewritten(model)[0], rewritten(model, calibrated(model, rows(7), rows(8)), fit=fit)[0])
    ]
    assert errors[1] < errors[0] / 3


def test_the_second_layer_is_fitted_behind_the_first() -> None:
    """Equal parameters must not be one tensor, or the second fit would undo the first."""
    model = normalized("h = LayerNormalization(x, g, b)\n k = Abs(h)\n y = LayerNormalization(k, g, b)")
    changed, notes = rewritten(model, calibrated(model, rows(7)), fit="layer")
    first, second = (node.inputs[1] for node in changed.graph if node.op_type == "L1LayerNormalization")
    assert first is not second
    assert notes.stats["factor.largest"] > notes.stats["factor.smallest"]  # type: ignore[operator]
    want, got = run(model, {"x": rows()})[0], run(changed, {"x": rows()})[0]
    assert np.square(want - got).mean() < 0.05 * np.square(want - BETA).mean()


def test_without_data_the_factor_is_gaussian_and_said_to_be() -> None:
    _, notes = rewritten(normalized(FORMS["operator"]))
    assert [skip.reason for skip in notes.skips] == [SkipReason.NO_CALIBRATION]


PRODUCTS = (
    "[norm] h = LayerNormalization(x, g, b)\n [first] p = MatMul(h, u)\n [second] q = MatMul(h, v)\n y = Add(p, q)"
)


def quantized(text: str, *overrides: Override, activations: str = "static8") -> ir.Model:
    """The model with static codes in its matrix products, and its normalizations in the L1 form, before the codes."""
    model = normalized(text, {**CONSTANTS, "u": weights(D, D, seed=3), "v": weights(D, D, seed=4)})
    context = calibrated(model, rows(7))
    options = Quantize(weights=8, method="shift", activations=activations, overrides=overrides)  # type: ignore[arg-type]
    options.rewrite(model, context)
    L1Normalization(codes=False).rewrite(model, Context(calibration=context.calibration))
    return model


def test_products_get_the_codes_they_would_make() -> None:
    model = quantized(PRODUCTS)
    changed, notes = rewritten(model)
    assert operators(changed) == ["L1LayerNormalization", "ShiftMatMul", "ShiftMatMul", "Add"]
    assert [edit.what for edit in notes.edits] == ["writes codes"]
    assert [str(node.inputs[0].name) for node in list(changed.graph)[1:3]] == ["h.codes"] * 2  # type: ignore[union-attr]
    want, got = run(model, {"x": rows()})[0], run(changed, {"x": rows()})[0]
    # gamma / scale is rounded where before y / scale was: of 19,200 codes one or two fall on the other side.
    assert (want != got).any(axis=-1).mean() < 0.02
    assert np.abs(want - got).max() < 0.02 * np.abs(want).max()


def test_other_readers_dequantize_the_codes() -> None:
    model = quantized(PRODUCTS.replace("q = MatMul(h, v)", "q = Abs(h)"))
    changed, _ = rewritten(model)
    assert sorted(operators(changed)) == sorted(
        ["L1LayerNormalization", "DequantizeLinear", "ShiftMatMul", "Abs", "Add"]
    )
    want, got = run(model, {"x": rows()})[0], run(changed, {"x": rows()})[0]
    assert np.square(want - got).mean() < 1e-3 * np.square(want).mean()


def test_dynamic_activations_keep_a_float_output() -> None:
    changed, notes = rewritten(quantized(PRODUCTS, activations="dynamic8"))
    assert not notes.edits
    assert all(node.attributes.get_int("x_codes", 0) == 0 for node in changed.graph)
