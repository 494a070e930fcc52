# SPDX-License-Identifier: Apache-2.0
"""The pass fuse-experts: one node computes what the experts did, and what it cannot hold stays as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import Array, run, weights

from edgefold.measuring.measure import stored_matrices
from edgefold.passes._initializers import InitializerStore
from edgefold.passes.base import Context, SkipReason
from edgefold.passes.experts.activation import Applied, Operand, named
from edgefold.passes.experts.dispatch import Expert, Product
from edgefold.passes.experts.dispatched import find_dispatched, replace_dispatched
from edgefold.passes.experts.qmoe import quantize_blocks
from edgefold.passes.fuse_experts import FuseExperts
from edgefold.passes.low_rank import LowRank
from edgefold.passes.quantize import Override, Quantize

KINDS = [
    ("silu", True, "shift"),
    ("gelu", False, "shift"),
    ("gelu-tanh", True, "shift"),
    ("relu", False, "shift"),
    ("relu", True, "shift-lut"),
    ("swiglu-clamped", True, "shift"),
]


F = 96  # hidden units: enough that packed weights are smaller than floats


def quantized(model: ir.Model, **options: Any) -> ir.Model:
    Quantize(**({"weights": 4, "activations": 8, "method": "rtn", "rounding": "nearest"} | options)).rewrite(
        model, Context()
    )
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def close(model: ir.Model, before: ir.Model, *, share: float, tokens: int = 30, d: int = 8) -> None:
    """Equal outputs up to a share of them, in root mean square."""
    x = weights(tokens, d, seed=3)
    wanted, got = run(before, {"x": x})[0], run(model, {"x": x})[0]
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) <= share * np.linalg.norm(wanted)


@pytest.mark.parametrize(("kind", "gated", "method"), KINDS)
def test_one_node_computes_what_the_experts_did(kind: str, gated: bool, method: str) -> None:
    members = experts(4, f=F, gated=gated, bias=kind == "swiglu-clamped")
    before = quantized(dispatched(members, named(kind, gated=gated)), method=method)
    model = before.clone()
    notes = FuseExperts().rewrite(model, Context())
    assert [edit.what for edit in notes.edits] == ["4 experts: one ShiftMoE"]
    assert operators(model).count("ShiftMoE") == 1
    assert not {"NonZero", "ScatterND", "ShiftMatMul"} & {*operators(model)}
    assert len(model.graph.initializers) < len(before.graph.initializers)
    close(model, before, share=1e-3 if kind != "relu" else 1e-6)
    close(model, before, share=0, tokens=0)


def test_the_node_says_what_it_was_made_of_and_the_function_comes_with_it() -> None:
    model = quantized(dispatched(experts(3, f=F)))
    FuseExperts().rewrite(model, Context())
    [node] = [node for node in model.graph if node.op_type == "ShiftMoE"]
    assert node.metadata_props["edgefold.pass"] == "fuse-experts"
    assert "moe/experts.2/sum" in node.metadata_props["edgefold.from"]
    assert {name for _, name, _ in model.functions} == {
        "ShiftMoE", "ShiftUnpackStack", "ShiftRows", "Activation", "ShiftLevels",
    }  # fmt: skip
    assert FuseExperts().rewrite(model, Context()).edits == ()


def test_weights_are_counted_as_before() -> None:
    def elements(model: ir.Model) -> int:
        return sum(matrix.weights for matrix in stored_matrices(model))

    shift, floats = quantized(dispatched(experts(3, f=F))), wide_model(wide(), "silu")
    for model, step in [(shift, FuseExperts()), (floats, FuseExperts(form="qmoe"))]:
        before = elements(model)
        assert step.rewrite(model, Context()).edits
        assert elements(model) == before


def test_a_graph_output_keeps_its_name() -> None:
    before = quantized(dispatched(experts(3, f=F)))
    end = next(node for node in before.graph if node.op_type == "Identity")
    value = end.inputs[0]
    assert value is not None
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["T", 8])
    before.graph.outputs.append(value)
    model = before.clone()
    FuseExperts().rewrite(model, Context())
    assert [one.name for one in model.graph.outputs] == [one.name for one in before.graph.outputs]
    close(model, before, share=1e-3)


def test_experts_in_another_order_and_of_some_columns_read_their_own_gates() -> None:
    before = quantized(dispatched(experts(5, f=F)))
    scatters = [node for node in before.graph if node.op_type == "ScatterND"]
    first, second, last = scatters[0], scatters[1], scatters[-1]
    # The second expert is added before the first, and the last one is left out.
    start = first.inputs[0]
    second.replace_input_with(0, start)
    first.replace_input_with(0, second.outputs[0])
    scatters[2].replace_input_with(0, first.outputs[0])
    for use in list(last.outputs[0].uses()):
        use.node.replace_input_with(use.idx, scatters[-2].outputs[0])
    before.graph.sort()
    model = before.clone()
    notes = FuseExperts().rewrite(model, Context())
    assert [edit.what for edit in notes.edits] == ["4 experts: one ShiftMoE"]
    close(model, before, share=1e-3)


def test_merged_experts_read_the_sums_of_gates() -> None:
    members = experts(4, f=F)
    before = dispatched(members)
    [layer] = find_dispatched(before)
    groups = InitializerStore(before.graph).add("groups", np.repeat(np.eye(2, dtype=np.float32), 2, axis=0))
    sums = ir.node("MatMul", [layer.gates, groups], name="sums")
    sums.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    before.graph.insert_before(layer.nodes[0], sums)
    replace_dispatched(before.graph, layer, sums.outputs[0], members[::2])
    before.graph.sort()
    quantized(before)
    model = before.clone()
    notes = FuseExperts().rewrite(model, Context())
    assert [edit.what for edit in notes.edits] == ["2 experts: one ShiftMoE"]
    close(model, before, share=1e-3)


def test_a_matrix_of_one_table_is_stacked_with_others_of_several() -> None:
    members = experts(3, f=F)
    flat = Product(np.full_like(members[1].down.weight, 0.25))
    members[1] = dataclasses.replace(members[1], down=flat)
    before = quantized(dispatched(members), method="shift-lut")
    model = before.clone()
    FuseExperts().rewrite(model, Context())
    assert "ShiftMoE" in operators(model)
    close(model, before, share=1e-3)


def reason(model: ir.Model, step: FuseExperts | None = None, context: Context | None = None) -> tuple[SkipReason, str]:
    before = operators(model)
    notes = (step or FuseExperts()).rewrite(model, context or Context())
    assert notes.edits == ()
    assert operators(model) == before
    [skip] = notes.skips
    return skip.reason, skip.detail


def test_what_the_operator_cannot_hold_stays_and_is_named() -> None:
    strange = Applied("Mul", (Applied("Softplus", (Operand(0),)), Operand(1)))
    uneven = [*experts(2, f=F), *experts(1, f=128)]
    thin = dispatched(experts(3, f=F))
    LowRank(keep=0.4, weighting="none", repair=False).rewrite(thin, Context())
    static = quantized(dispatched(experts(3, f=F)), activations=4)
    cases = [
        (dispatched(experts(3, f=F)), "its weights are floats: quantize comes first"),
        (quantized(dispatched(experts(3, f=F), strange)), "ShiftMoE lacks the experts' activation function"),
        (quantized(dispatched(uneven)), "its experts have different widths"),
        (quantized(thin), "its matrices are products of two thin ones"),
        (static, "ShiftMoE takes dynamic 8-bit activations only"),
    ]
    for model, detail in cases:
        assert reason(model)[1] == detail
    mixed = quantized(dispatched(experts(3, f=F)), overrides=(Override(match="moe/experts.1/down", weights=6),))
    assert reason(mixed) == (SkipReason.ATTRIBUTE, "its weights have 4, 6 bits; ShiftMoE holds one width")
    excluded = Context(exclude=("moe*",))
    assert reason(quantized(dispatched(experts(3, f=F))), context=excluded)[0] is SkipReason.EXCLUDED


def wide(*, gated: bool = True, bias: bool = False) -> list[Expert]:
    """Experts whose products QMoE can hold."""
    return experts(4, d=64, f=F, gated=gated, bias=bias)


def wide_model(members: list[Expert], kind: str, *, gated: bool = True) -> ir.Model:
    model = dispatched(members, named(kind, gated=gated), axes="T, 64")
    router = model.graph.initializers["router"]
    router.const_value = ir.tensor(weights(64, 4, seed=99), name="router")
    router.shape = ir.Shape((64, 4))
    return model


def of_blocks(weight: Array) -> Array:
    """The values that the codes of `quantize_blocks` stand for."""
    codes, scales = quantize_blocks(weight)
    values = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1, 32).astype(np.float32) - 8
    return (values * scales[..., None]).reshape(len(codes), -1).T


@pytest.mark.parametrize(("kind", "gated", "bias"), [
    ("silu", True, False), ("swiglu-clamped", True, True), ("relu", False, True), ("silu", False, False),
])  # fmt: skip
def test_qmoe_computes_experts_of_rounded_weights(kind: str, gated: bool, bias: bool) -> None:
    members = wide(gated=gated, bias=bias)
    model = wide_model(members, kind, gated=gated)
    notes = FuseExperts(form="qmoe", runtime="1.28").rewrite(model, Context())
    assert [edit.what for edit in notes.edits] == ["4 experts: one QMoE"]
    rounded = [
        Expert(
            tuple(dataclasses.replace(one, weight=of_blocks(one.weight)) for one in member.inputs),
            dataclasses.replace(member.down, weight=of_blocks(member.down.weight)),
        )
        for member in members
    ]
    close(model, wide_model(rounded, kind, gated=gated), share=1e-5, d=64)


def test_qmoe_with_quantized_rows_is_near() -> None:
    before = wide_model(wide(), "silu")
    model = before.clone()
    FuseExperts(form="qmoe").rewrite(model, Context())
    assert next(node for node in model.graph if node.op_type == "QMoE").attributes.get_int("accuracy_level", 0) == 4
    close(model, before, share=0.2, d=64)


def test_qmoe_leaves_what_it_lacks() -> None:
    step = FuseExperts(form="qmoe")
    assert reason(dispatched(experts(3, f=F)), step)[1] == "widths [8, 96]; QMoE takes two or more blocks of 32"
    assert reason(wide_model(wide(), "gelu"), step)[1] == "QMoE lacks the experts' activation function"
    packed = quantized(wide_model(wide(), "silu"))
    assert reason(packed, step)[0] is SkipReason.ALREADY_QUANTIZED


@pytest.mark.parametrize(("runtime", "message"), [
    ("1.23.2", "takes the gates from 1.26 on"), ("1.27", "can wait for ever"), ("new", "expected one such as 1.31"),
])  # fmt: skip
def test_runtimes_whose_qmoe_is_wrong_are_refused(runtime: str, message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert({"pass": "fuse-experts", "form": "qmoe", "runtime": runtime}, FuseExperts)
    assert FuseExperts(runtime="1.23.2").form == "shift"  # which needs no QMoE


def test_blocks_are_rounded_to_the_nearest_of_sixteen() -> None:
    weight = weights(96, 5, seed=1)
    weight[:32, 0] = 0
    error = np.abs(of_blocks(weight) - weight).T.reshape(5, 3, 32)
    step = np.abs(weight.T.reshape(5, 3, 32)).max(axis=2, keepdims=True) / 8
    assert np.all(error <= step * 1.001)  # a whole step where the code would be 16, else half of one
    assert np.median(error / np.maximum(step, 1e-9)) < 0.3
    np.testing.assert_array_equal(of_blocks(weight)[:32, 0], 0)
