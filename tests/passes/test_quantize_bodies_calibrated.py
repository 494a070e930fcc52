# SPDX-License-Identifier: Apache-2.0
"""Bodies by calibration data, and whole runs of `compress` on models that have them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from body_models import NESTED, assert_close, operators, quantized
from depth.residual_chains import WIDTH as CHAIN_WIDTH
from depth.residual_chains import chain
from graphs import Array, graph, weights
from merged_decoder import INITIALIZERS, branched, feeds, merged_decoder

from edgefold import compress, inspect, verify
from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.nodewise import PORTABLE_TOLERANCE
from edgefold.passes import Context, SkipReason
from edgefold.passes._names import name_apart
from edgefold.passes.elastic_depth import ElasticDepth
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.perturbing import perturb
from edgefold.probing import probe
from edgefold.verification import run_model

ROOT = Path(__file__).resolve().parents[2]


def calibrated(model: ir.Model, batches: list[dict[str, Array]]) -> Context:
    name_apart(model)
    return Context(
        calibration=Calibration(model, lambda: iter(batches)), probe=functools.partial(probe, feeds=batches[0])
    )


def error(before: ir.Model, after: ir.Model, data: Mapping[str, Array]) -> float:
    wanted, got = (run_model(one, data)["logits"] for one in (before, after))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def test_second_order_rounding_of_branches_by_data_of_both() -> None:
    model = ir.from_proto(merged_decoder())
    batches = [feeds(cached, seed) for seed in range(24) for cached in (False, True)]
    options = {"weights": 3, "first_last": 3, "method": "shift-lut"}
    nearest, _ = quantized(model, **options)
    context = calibrated(model, batches)
    second, notes = quantized(model, context, rounding="gptq", **options)
    assert not [skip for skip in notes.skips if skip.reason in (SkipReason.FALLBACK, SkipReason.NO_CALIBRATION)]
    assert sum(error(model, second, one) for one in batches[:8]) < 0.8 * sum(
        error(model, nearest, one) for one in batches[:8]
    )


def test_a_branch_without_data_is_rounded_for_the_other() -> None:
    model = ir.from_proto(merged_decoder())
    context = calibrated(model, [feeds(cached=False, seed=seed) for seed in range(2)])
    _, notes = quantized(model, context, rounding="gptq")
    told = {skip.node: skip.detail for skip in notes.skips if skip.reason is SkipReason.FALLBACK}
    assert all(node.startswith("optimum::if/then_branch:") for node in told)
    assert len(told) == 13
    assert set(told.values()) == {
        "no calibration data reached it: rounded for the other nodes that apply its matrix"
    }  # fmt: skip


def test_convolutions_in_a_branch_get_codes_of_calibrated_scale() -> None:
    text = """g (float[1, 8, 9, 9] x, bool c) => (float[1, 16, 7, 7] y) {
        [choice] y = If(c) <then_branch = a () => (float[1, 16, 7, 7] p) { h = Relu(x) [n] p = Conv(h, w) },
                            else_branch = b () => (float[1, 16, 7, 7] q) { k = Neg(x) [n] q = Conv(k, w) }>
    }"""
    model = graph(text, {"w": weights(16, 8, 3, 3)})
    feeds_of = [{"x": weights(1, 8, 9, 9, seed=seed), "c": np.array(True)} for seed in range(3)]
    after, notes = quantized(model, calibrated(model, feeds_of))
    high = {str(node.name): (node.op_type, node.attributes.get_int("activation_high", 0))
            for node in after.graph.all_nodes() if node.domain == "ai.edgefold"}  # fmt: skip
    assert high == {"choice/then_branch:n": ("ShiftConv", 255), "choice/else_branch:n": ("FloatConv", 0)}
    assert [(skip.node, skip.reason) for skip in notes.skips if skip.reason is SkipReason.FALLBACK] == [
        ("choice/else_branch:n", SkipReason.FALLBACK)
    ]
    for one in feeds_of:
        assert_close(model, after, one)
    told = [(skip.node, skip.detail) for skip in FuseBlocks().rewrite(after, Context()).skips
            if skip.reason is SkipReason.SUBGRAPH]  # fmt: skip
    assert told == [("choice", "quantized convolutions in it that stay nodes of their own: 1")]


def test_the_weights_of_a_loop_are_rounded_by_all_iterations() -> None:
    model = graph(NESTED, {"w": weights(64, 64) / 8})
    batches = [{"x": weights(32, 64, seed=seed), "trips": np.array(3), "c": np.array(True)} for seed in range(4)]
    after, notes = quantized(model, calibrated(model, batches), rounding="gptq", weights=4)
    assert "output_error" in notes.stats
    unreached = "no calibration data reached it: rounded for the other nodes that apply its matrix"
    told = [(skip.node, skip.detail) for skip in notes.skips if skip.reason is SkipReason.FALLBACK]
    assert told == [("loop/body:inner/else_branch:n", unreached)]
    assert operators(after) == {"ShiftMatMul": 2}


def test_a_budget_of_bits_counts_layers_of_branches() -> None:
    model = ir.from_proto(merged_decoder())
    batches = [feeds(cached, seed) for seed in range(2) for cached in (False, True)]
    context = dataclasses.replace(
        calibrated(model, batches), perturb=functools.partial(perturb, feeds=lambda: iter(batches))
    )
    after, notes = quantized(model, context, weights=4, method="shift-lut", bits=4.0)
    assert len(notes.table) == len(INITIALIZERS) - 1  # the embedding does not count
    assert all(len(row["nodes"]) == 2 for row in notes.table)
    assert operators(after)["ShiftMatMul"] == 26


@pytest.mark.parametrize(("opset", "recipe"), [(11, "w4"), (21, "fused")])
def test_a_merged_decoder_from_file_to_folder(opset: int, recipe: str, tmp_path: Path) -> None:
    onnx.save(merged_decoder(opset), tmp_path / "m.onnx")
    report = compress(tmp_path / "m.onnx", tmp_path / "out", recipe=recipe)
    assert report.after.bytes < report.before.bytes / 3.5
    assert report.after.weights == report.before.weights
    assert report.portability is not None
    nodes = 28 if recipe == "w4" else 24  # of both branches; two pairs of layers in each become one node
    assert (report.portability["nodes"], report.portability["unreached"]) == (nodes, 0)
    verdict = verify(tmp_path / "out")
    assert verdict.agreement is not None
    assert verdict.agreement.nodes == nodes
    found = inspect(tmp_path / "out")
    assert len(found.layers) == 2 * 17
    assert {
        layer.bits is None for layer in found.layers if "scores" not in layer.node and "seen" not in layer.node
    } == {False}


def test_all_depths_of_an_elastic_model() -> None:
    model = chain(5)
    mixed = [{"x": weights(256, CHAIN_WIDTH, seed=seed)} for seed in (21, 22)]
    elastic = model.clone()
    context = Context(
        calibration=Calibration(model, lambda: iter(mixed)),
        perturb=functools.partial(perturb, feeds=lambda: iter(mixed)),
    )
    assert ElasticDepth(depths=(3,)).rewrite(elastic, context).edits
    after, notes = quantized(elastic)
    assert not [skip for skip in notes.skips if skip.reason is SkipReason.SUBGRAPH]
    assert {node.op_type for node in after.graph.all_nodes()} & {"MatMul", "Gemm"} == set()
    for depth in (3, 5):
        assert_close(elastic, after, {**mixed[0], "depth": np.array(depth)})


def test_attention_and_feed_forward_halves_are_fused_in_branches(tmp_path: Path) -> None:
    onnx.save(branched(onnx.load(ROOT / "models" / "char_lm" / "model.onnx")), tmp_path / "m.onnx")
    report = compress(tmp_path / "m.onnx", tmp_path / "out", recipe="fused")
    assert report.portability is not None
    assert report.portability["unreached"] == 0
    after = load_model(tmp_path / "out").model
    fused = [
        node
        for node in after.graph.all_nodes()
        if node.op_type in ("FusedFeedForward", "FusedLinear") or node.op_type.endswith("Attention")
    ]
    plain = compress(ROOT / "models" / "char_lm" / "model.onnx", tmp_path / "plain", recipe="fused")
    assert len(fused) == 2 * sum(
        step["edits"] for step in plain.steps if step["pass"] in ("quantize-attention", "fuse-blocks")
    )
    assert report.after.bytes < 1.25 * plain.after.bytes
    same = load_model(tmp_path / "plain").model
    for length in (1, 17):
        data = {"input_ids": np.random.default_rng(length).integers(0, 60, (2, length))}
        ours, wanted = (run_model(one, data)["logits"] for one in (after, same))
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=PORTABLE_TOLERANCE * np.abs(wanted).max())
