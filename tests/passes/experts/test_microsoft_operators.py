# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's MoE and QMoE, as this version computes them, are read and rewritten."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.passes import DispatchExperts
from edgefold.passes.base import Context, SkipReason
from edgefold.passes.experts.activation import name_of
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.recognition.layers import find_layers
from edgefold.probing import probe
from edgefold.session import compute

E, D, F = 4, 32, 64
CONTEXT = Context(probe=probe, compute=compute)


def model(operator: str, attributes: str, inputs: str, tensors: dict[str, Array]) -> ir.Model:
    text = f"""model (float[T, {D}] x) => (float[T, {D}] y) {{
        logits = MatMul(x, router)
        [layer] y = com.microsoft.{operator}<k = 2, {attributes}>(x, logits, {inputs})
    }}"""
    return graph(text, {"router": weights(D, E, seed=9), **tensors})


def moe(activation: str = "silu", normalized: int = 0, fused: bool = False, **more: Any) -> ir.Model:
    rows = 2 * F if fused else F
    tensors = {"w1": weights(E, rows, D) / 6, "b1": weights(E, rows, seed=1), "w2": weights(E, D, F, seed=2) / 8}
    shown = {"activation_type": f'"{activation}"', "normalize_routing_weights": normalized, "swiglu_fusion": int(fused)}
    attributes = ", ".join(f"{name} = {value}" for name, value in {**shown, **more}.items())
    return model("MoE", attributes, "w1, b1, w2", tensors)


def qmoe(bits: int, block: int = 0, zeros: bool = False, **more: Any) -> ir.Model:
    random = np.random.default_rng(bits)

    def packed(rows: int, columns: int, name: str) -> dict[str, Array]:
        shape = (E, rows, columns // block) if block else (E, rows)
        found = {
            f"w{name}": random.integers(0, 256, (E, rows, columns * bits // 8), np.uint8),
            f"s{name}": random.uniform(0.5, 1.5, shape).astype(np.float32) / 2**bits / 6,
        }
        if zeros:
            found[f"z{name}"] = random.integers(0, 256, (*shape[:2], columns // block * bits // 8), np.uint8)
        return found

    shown = {"activation_type": '"swiglu"', "swiglu_fusion": 1, "expert_weight_bits": bits, "block_size": block}
    scales = {"activation_alpha": "1.0", "activation_beta": "0.0", "normalize_routing_weights": 1}
    attributes = {**shown, **scales, **more}
    inputs = "w1, s1, , w2, s2, , , , , z1, z2" if zeros else "w1, s1, , w2, s2"
    text = ", ".join(f"{name} = {value}" for name, value in attributes.items() if name != "block_size" or value)
    return model("QMoE", text, inputs, packed(2 * F, D, "1") | packed(D, F, "2"))


def assert_rewritten(before: ir.Model, tolerance: float = 1e-4) -> None:
    after = before.clone()
    notes = DispatchExperts().rewrite(after, CONTEXT)
    assert len(find_dispatched(after)) == 1, notes.skips
    old, new = (run(one, {"x": weights(33, D)})[0] for one in (before, after))
    np.testing.assert_allclose(new, old, atol=tolerance * np.abs(old).max())


@pytest.mark.parametrize("normalized", [0, 1])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_moe(activation: str, normalized: int) -> None:
    before = moe(activation, normalized)
    [layer], _ = find_layers(before, CONTEXT)
    assert (layer.form, layer.top, len(layer.experts)) == ("MoE", 2, E)
    assert layer.semantics.normalized == bool(normalized)
    assert str(name_of(layer.activation)).startswith(activation)
    assert_rewritten(before)


def test_moe_with_the_interleaved_gate_of_gpt_oss() -> None:
    before = moe("swiglu", 1, True, activation_alpha="1.702", activation_beta="1.0", swiglu_limit="7.0")
    [layer], _ = find_layers(before, CONTEXT)
    assert name_of(layer.activation) == "swiglu-clamped"
    assert_rewritten(before)


@pytest.mark.parametrize(
    ("bits", "block", "zeros", "more"),
    [
        (8, 0, False, {}),
        (4, 0, False, {}),
        (4, 32, False, {}),
        (4, 16, True, {}),
        (4, 32, False, {"accuracy_level": 4}),
    ],
)
def test_qmoe(bits: int, block: int, zeros: bool, more: dict[str, int]) -> None:
    # With accuracy_level 4 ONNX Runtime rounds what it multiplies to 8 bits, and the dispatch form does not.
    assert_rewritten(qmoe(bits, block, zeros, **more), 0.05 if more else 1e-4)


def test_what_is_not_read_is_named() -> None:
    notes = DispatchExperts().rewrite(moe(use_sparse_mixer=1), CONTEXT)
    assert [(skip.node, skip.reason, skip.detail) for skip in notes.skips] == [
        ("layer", SkipReason.ATTRIBUTE, "the sparse mixer")
    ]
