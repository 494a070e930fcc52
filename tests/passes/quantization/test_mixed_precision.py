# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: a measured table, a budget that holds, and layers whose width was given."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.quantize import Override, Quantize
from edgefold.perturbing import perturb
from edgefold.probing import probe

# Two branches alike in all but that the second counts a hundredth in the sum, and a convolution of many MACs before.
TEXT = """t (float[8, 4, 6, 6] x) => (float[8, 48] y) {
    [conv] c = Conv<pads = [1, 1, 1, 1]>(x, k)\n [relu] r = Relu(c)\n [flat] f = Flatten(r)
    [loud] a = MatMul(f, u)\n [soft] b = Gemm<transB = 1>(f, v)
    [less] s = Mul(b, hundredth)\n [sum] y = Add(a, s) }"""
ARRAYS = {
    "k": weights(4, 4, 3, 3), "u": weights(144, 48, seed=1), "v": weights(48, 144, seed=2),
    "hundredth": np.array(0.01, np.float32),
}  # fmt: skip
FEEDS = {"x": weights(8, 4, 6, 6, seed=3)}


def context(**others: Any) -> Context:
    return Context(
        probe=functools.partial(probe, feeds=FEEDS), perturb=functools.partial(perturb, feeds=lambda: [FEEDS]), **others
    )


def quantized(model: ir.Model | None = None, given: Context | None = None, **options: Any) -> tuple[ir.Model, Notes]:
    model = model or graph(TEXT, ARRAYS)
    notes = Quantize(activations="float", method="shift", **options).rewrite(model, given or context())
    return model, notes


def widths(model: ir.Model) -> dict[str, int]:
    return {str(n.name): n.attributes["bits"].as_int() for n in model.graph if n.domain == "ai.edgefold"}


def average(notes: Notes, weight: str = "weights") -> float:
    return sum(row["bits"] * row[weight] for row in notes.table) / sum(row[weight] for row in notes.table)


@pytest.mark.parametrize("bits", [3.0, 4.0, 4.5, 6.2])
def test_the_budget_holds_and_goes_to_what_the_outputs_depend_on(bits: float) -> None:
    model, notes = quantized(bits=bits)
    assert average(notes) <= bits
    found = widths(model)
    assert found["loud"] > found["soft"]
    assert {row["nodes"][0]: row["bits"] for row in notes.table} == found


@pytest.mark.parametrize("tied", [False, True])
def test_a_table_keeps_its_width_and_says_so_unless_a_head_shares_it(tied: bool) -> None:
    text = """t (int64[8] i) => (float[8, 32] y) {
        [look] e = Gather(t, i)\n [mid] h = MatMul(e, u)\n [head] y = MatMul(h, w) }"""
    table = weights(32, 16)
    arrays = {"t": table, "u": weights(16, 16, seed=1), "w": table.T.copy() if tied else weights(16, 32, seed=2)}
    feeds = {"i": np.arange(8)}
    perturbs = functools.partial(perturb, feeds=lambda: [feeds])
    given = Context(probe=functools.partial(probe, feeds=feeds), perturb=perturbs)
    found, notes = quantized(graph(text, arrays), given, bits=4.0)
    wider = [skip.node for skip in notes.skips if skip.reason == SkipReason.KEPT_WIDER]
    assert wider == ([] if tied else ["look"])
    assert (widths(found)["look"] == 8) is not tied


def test_equal_budgets_leave_less_error_than_one_width_for_all() -> None:
    model = graph(TEXT, ARRAYS)
    wanted = run(model, FEEDS)[0]
    mixed, _ = quantized(bits=4)
    uniform, _ = quantized(weights=4, first_last=4)
    errors = [float(np.square(run(one, FEEDS)[0] - wanted).sum()) for one in (mixed, uniform)]
    assert errors[0] < 0.5 * errors[1]


def test_multiply_accumulates_may_be_what_counts() -> None:
    _, notes = quantized(bits=4, bits_weighting="macs")
    assert {row["nodes"][0]: row["macs"] for row in notes.table} == {
        "conv": 8 * 36 * 4 * 36, "loud": 8 * 144 * 48, "soft": 8 * 144 * 48,
    }  # fmt: skip
    assert average(notes, "macs") <= 4
    _, blind = quantized(given=Context(), bits=4, bits_weighting="macs")
    assert SkipReason.FALLBACK in {skip.reason for skip in blind.skips}


def test_a_width_that_was_given_stays_and_counts() -> None:
    model, notes = quantized(bits=5.5, overrides=(Override(match="soft", weights=8),))
    assert widths(model)["soft"] == 8
    assert widths(model)["loud"] == 3
    assert average(notes) <= 5.5


def test_without_data_the_errors_of_weights_decide_and_the_report_says_so() -> None:
    model, notes = quantized(given=Context(), bits=4)
    assert average(notes) <= 4
    assert [skip.reason for skip in notes.skips if skip.node == "model"] == [SkipReason.NO_CALIBRATION]
    assert widths(model)["loud"] == widths(model)["soft"]


def test_a_matrix_used_twice_is_perturbed_in_both_places() -> None:
    text = TEXT.replace("Gemm<transB = 1>(f, v)", "MatMul(f, u)")
    seen: list[Mapping[str, Array]] = []

    def spy(model: ir.Model, changes: Any) -> list[float]:
        seen.extend(changes)
        assert {value.name for value in model.graph.inputs[1:]} == {name for change in seen for name in change}
        return [1.0] * len(seen)

    arrays = {name: array for name, array in ARRAYS.items() if name != "v"}
    _, notes = quantized(graph(text, arrays), Context(perturb=spy), bits=4)
    assert [len(change) for change in seen] == [1, 1, 2, 2]
    assert [row["nodes"] for row in notes.table] == [["conv"], ["loud", "soft"]]


def test_exchanged_weights_move_the_outputs_as_much_as_the_same_weights_in_the_model() -> None:
    """The rounded matrices reach every operator in the layout that it stores them in."""
    scaled = {**ARRAYS, **{name: ARRAYS[name] + np.float32(0.1) for name in "kuv"}}
    model = graph(TEXT, ARRAYS)
    for name in "kuv":
        model.graph.inputs.append(model.graph.initializers[name])
    [error] = perturb(model, [{name: scaled[name] for name in "kuv"}], lambda: [FEEDS])
    wanted, got = run(graph(TEXT, ARRAYS), FEEDS)[0], run(graph(TEXT, scaled), FEEDS)[0]
    assert error == pytest.approx(np.square(got - wanted).sum() / np.square(wanted).sum(), rel=1e-4)
