# SPDX-License-Identifier: Apache-2.0
"""Every exported form of a layer is recognised and rewritten with the same numbers; what looks like one is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, graph, run, weights

from edgefold.files.loading import load_model
from edgefold.passes import DispatchExperts
from edgefold.passes.base import Context, SkipReason
from edgefold.passes.experts.activation import name_of
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.recognition.layers import find_layers
from edgefold.probing import probe
from edgefold.session import compute

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import torch
import torch_experts

CONTEXT = Context(probe=probe, compute=compute)
FORMS = {
    "Loop": "loop over routed tokens",
    "DenseLoop": "loop over all tokens",
    "StackedLoop": "loop over routed tokens",
    "Einsum": "einsum",
    "Batched": "batched product",
    "GatherBatched": "gathered weights",
}
ROUTERS = {
    "Router": "softmax, normalized",
    "SoftmaxAfter": "softmax, normalized",
    "Unnormalized": "softmax",
    "BiasedSigmoid": "sigmoid, normalized, times 2.5, chosen by biased scores",
    "Switch": "softmax",
    "ArgmaxSwitch": "softmax",
}


def exported(layer: str = "Loop", router: str = "Router", expert: str = "SwiGlu", exporter: str = "legacy") -> ir.Model:
    """A layer as an exporter writes it. That of dynamo takes seconds for each, so its graphs are stored."""
    if exporter == "dynamo":
        return load_model(Path(__file__).parent / "dynamo" / f"{layer}.onnx").model
    torch.manual_seed(0)
    kind = getattr(torch_experts, layer)
    return torch_experts.export(kind(getattr(torch_experts, router)(), getattr(torch_experts, expert)), "legacy")


def assert_rewritten(model: ir.Model, layers: int = 1, feed: Array | None = None) -> None:
    """The pass leaves `layers` in dispatch form, and the outputs as they were."""
    before = model.clone()
    notes = DispatchExperts().rewrite(model, CONTEXT)
    assert len(notes.edits) == len(find_dispatched(model)) == layers, notes.skips
    feeds = {str(model.graph.inputs[0].name): weights(1, 33, torch_experts.D) if feed is None else feed}
    for old, new in zip(run(before, feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4 * np.abs(old).max())


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("layer", FORMS)
def test_every_form(layer: str, exporter: str) -> None:
    model = exported(layer, exporter=exporter)
    [found], skips = find_layers(model, CONTEXT)
    assert (found.form, len(found.experts), found.top) == (FORMS[layer], torch_experts.E, torch_experts.K)
    assert name_of(found.activation) == ("swiglu-clamped" if layer == "StackedLoop" else "silu")
    assert str(found.semantics) == "softmax, normalized"
    assert not skips
    assert_rewritten(model)


def test_what_dynamo_exports_today() -> None:
    torch.manual_seed(0)
    model = torch_experts.export(torch_experts.Einsum(), "dynamo")
    assert [node.op_type for node in model.graph] == [
        node.op_type for node in exported("Einsum", exporter="dynamo").graph
    ]
    assert_rewritten(model)


TRANSFORMERS = {
    "Mixtral": ("softmax, normalized", {"num_local_experts": 4}),
    "Qwen2Moe": ("softmax", {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}),
    "GptOss": ("softmax, normalized", {"num_local_experts": 4, "head_dim": 8}),
    "DeepseekV3": (
        "sigmoid, normalized, times 2.5, chosen by biased scores",
        {"n_routed_experts": 8, "moe_intermediate_size": 24, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 0}
        | {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    ),
}


@pytest.mark.parametrize("architecture", TRANSFORMERS)
def test_layers_of_transformers(architecture: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    gates, options = TRANSFORMERS[architecture]
    sizes = {"hidden_size": torch_experts.D, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=8, num_key_value_heads=2, num_experts_per_tok=2, **sizes, **options
    )
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="batched_mm")
    model = torch_experts.export(torch_experts.Only(whole.model.layers[0].mlp), "legacy")
    [found], _ = find_layers(model, CONTEXT)
    assert (found.form, str(found.semantics)) == ("gathered weights", gates)
    assert_rewritten(model)


@pytest.mark.parametrize("router", ROUTERS)
def test_every_meaning_of_the_gates(router: str) -> None:
    model = exported("GatherBatched", router)
    [found], _ = find_layers(model, CONTEXT)
    assert str(found.semantics) == ROUTERS[router]
    assert_rewritten(model)


def test_a_layer_in_dispatch_form_is_done() -> None:
    model = exported("DenseLoop")
    assert DispatchExperts().rewrite(model, CONTEXT).edits
    assert find_layers(model, CONTEXT) == ([], [])


def test_two_matrices_with_biases() -> None:
    model = exported("Loop", expert="Gelu")
    [found], _ = find_layers(model, CONTEXT)
    assert name_of(found.activation) == "gelu"
    assert [one.bias is not None for one in (*found.experts[0].inputs, found.experts[0].down)] == [
        True,
        True,
    ]
    assert_rewritten(model)


def test_shared_experts_stay_as_they_are() -> None:
    model = exported("Shared")
    assert_rewritten(model)
    names = {node.name for node in model.graph}
    assert "/always/w1/MatMul" in names
    assert "/experts.0/w1/MatMul" not in names


def test_an_incomplete_trace_is_named() -> None:
    model = exported("Incomplete")
    notes = DispatchExperts().rewrite(model, CONTEXT)
    assert not notes.edits
    [skip] = notes.skips
    assert skip.reason == SkipReason.INCOMPLETE_TRACE
    assert skip.detail.startswith(f"{torch_experts.E - 2} of {torch_experts.E} experts")


def test_wrong_numbers_are_left_alone() -> None:
    model = exported("DenseLoop")
    mul = next(node for node in model.graph if node.name == "/Mul")  # the first expert's gate is now applied twice
    extra = ir.node("Mul", [mul.outputs[0], mul.inputs[1]], name="again")
    mul.outputs[0].replace_all_uses_with(extra.outputs[0])
    extra.replace_input_with(0, mul.outputs[0])
    model.graph.insert_after(mul, extra)
    notes = DispatchExperts().rewrite(model, CONTEXT)
    assert not notes.edits
    assert [skip.reason for skip in notes.skips] == [SkipReason.NOT_UNDERSTOOD]


NEAR_MISSES = {
    "sampling": "values, index = TopK <axis = -1>(h, two)\n y = Softmax(values)",
    "lookup": "values, index = TopK <axis = -1>(h, two)\n y = Gather(table, index)",
    "feed-forward": """u = Relu(h)
        d = MatMul(u, down)
        y, index = TopK <axis = -1>(d, two)""",
    "some of the tokens": """values, index = TopK <axis = -1>(scores, two)
        tokens = Gather <axis = 0>(x, index)
        a = MatMul(tokens, up)
        b = Relu(a)
        c = MatMul(b, down)
        d = Relu(c)
        e = MatMul(d, up)
        f = Relu(e)
        y = MatMul(f, down)""",
    "some of the tokens, weighted": """values, index = TopK <axis = -1>(scores, two)
        tokens = Gather <axis = 0>(x, index)
        a = MatMul(tokens, up)
        b = Relu(a)
        c = MatMul(b, down)
        weight = Unsqueeze(values, one)
        y = Mul(c, weight)""",
    "boxes": """boxes = Reshape(h, box)
        index = NonMaxSuppression(boxes, boxes, two)
        y = Cast <to = 1>(index)""",
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses(case: str) -> None:
    body = f"h = MatMul(x, up)\n scores = ReduceSum <keepdims = 0>(x, one)\n {NEAR_MISSES[case]}"
    tensors = {"up": weights(8, 6), "down": weights(6, 8), "table": weights(6, 4)}
    tensors |= {name: np.array(value, np.int64) for name, value in {"one": [1], "two": [2], "box": [1, -1, 4]}.items()}
    used = {name: tensor for name, tensor in tensors.items() if f"{name})" in body or f"{name}," in body}
    model = graph(f"model (float[16, 8] x) => (float[A, B] y) {{ {body} }}", used)
    assert find_layers(model, CONTEXT) == ([], [])


def test_moe_charlm() -> None:
    path = Path(os.environ.get("EDGEFOLD_DATA", "data")) / "moe_charlm" / "model.onnx"
    if not path.exists():
        pytest.skip("EDGEFOLD_DATA has no moe_charlm/model.onnx")
    model = load_model(path).model
    assert_rewritten(model, 4, np.arange(48).reshape(2, 24))
    for number, layer in enumerate(find_dispatched(model)):
        assert (layer.name, name_of(layer.activation)) == (f"/layers.{number}/moe", "silu")
        assert [[len(one.inputs), one.down.value().weight.shape] for one in layer.experts] == [[2, (160, 128)]] * 8
