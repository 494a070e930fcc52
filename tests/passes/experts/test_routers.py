# SPDX-License-Identifier: Apache-2.0
"""Quantize keeps routers wider: layers by which something is chosen that later layers see, and no others."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import graph, weights

from edgefold.passes.base import Context, SkipReason
from edgefold.passes.quantization.layer_position import layer_positions
from edgefold.passes.quantize import Override, Quantize


def layers(text: str) -> ir.Model:
    """A graph over x [N, 64] with matrices u, v, w [64, 64]."""
    tensors = {name: weights(64, 64, seed=number) for number, name in enumerate("uvw") if f", {name})" in text}
    return graph(f"g (float[N, 64] x) => (float[N, 64] y) {{ {text} }}", tensors)


def routers(model: ir.Model) -> list[str]:
    return sorted(str(node.name) for node in layer_positions(model.graph).routers)


def bits(model: ir.Model) -> dict[str, int]:
    return {str(one.name): one.attributes["bits"].as_int() for one in model.graph if one.domain == "ai.edgefold"}


CHOSEN = "top = Constant<value_ints = [2]>() t, i = TopK(s, top) j = Cast<to = 1>(i) k = ReduceSum(j)"
ROUTED = f"[r] s = MatMul(x, u) {CHOSEN} z = Mul(x, k) [e] y = MatMul(z, v)"


@pytest.mark.parametrize("asked", [4, 8, "float"])
def test_a_router_has_a_width_of_its_own(asked: int | str) -> None:
    model = layers(ROUTED)
    step = Quantize(weights=4, method="rtn", first_last=4, routers=asked)  # type: ignore[arg-type]
    notes = step.rewrite(model, Context())
    assert bits(model) == {"e": 4} | ({} if asked == "float" else {"r": asked})
    wider = [str(skip) for skip in notes.skips if skip.reason == SkipReason.KEPT_WIDER]
    said = {4: [], 8: ["router, 8 bits"], "float": ["router, float"]}
    assert wider == [f"r: kept at a higher width ({detail})" for detail in said[asked]]


def test_an_override_takes_a_router_in() -> None:
    model = layers(ROUTED)
    Quantize(weights=4, method="rtn", routers="float", overrides=(Override(match="r", weights=6),)).rewrite(
        model, Context()
    )
    assert bits(model)["r"] == 6


def test_the_router_of_a_layer_of_experts_is_found() -> None:
    assert len(routers(dispatched(experts(4)))) == 1


@pytest.mark.parametrize("between", ["s = Identity(a)", "s = Softmax(a)", "b = Sigmoid(a) s = Mul(b, half)"])
def test_what_a_choice_reads_comes_from_one_layer(between: str) -> None:
    half = "half = Constant<value_floats = [0.5]>()"
    text = f"[r] a = MatMul(x, u) {half} {between} {CHOSEN} z = Mul(x, k) [e] y = MatMul(z, v)"
    assert routers(layers(text)) == ["r"]


@pytest.mark.parametrize(
    "text",
    [
        f"[r] s = MatMul(x, u) {CHOSEN} y = Mul(x, k)",  # the choice is the output
        f"[q] a = MatMul(x, u) [k] b = MatMul(x, v) s = Mul(a, b) {CHOSEN} z = Mul(x, k) [e] y = MatMul(z, w)",
        f"s = Softmax(x) {CHOSEN} z = Mul(x, k) [e] y = MatMul(z, w)",  # chosen by the input itself
    ],
)
def test_other_choices_have_no_router(text: str) -> None:
    assert routers(layers(text)) == []
