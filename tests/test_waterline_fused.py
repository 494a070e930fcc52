# SPDX-License-Identifier: Apache-2.0
"""What the waterline says of residual blocks where fused nodes compute their layers, or those of several."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold import api
from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.measuring.layered import Layered
from edgefold.measuring.layered import layered as real_layered
from edgefold.measuring.waterline.ceilings import ENVIRONMENT
from edgefold.measuring.waterline.spans import OUTSIDE, Span, _filled
from edgefold.ops import add_functions
from edgefold.passes import Context
from edgefold.passes.fuse_blocks import FuseBlocks, Kind
from edgefold.passes.quantize import Quantize
from edgefold.pipeline import Inputs, raise_to_minimum_opset
from edgefold.probing import probe

MODELS = Path(__file__).resolve().parents[1] / "models"
DIGITS, CHAR_LM = MODELS / "digits_cnn", MODELS / "char_lm"
SHAPES = ("input_ids=2x24",)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of known ceilings."""
    levels = [{"name": "memory", "bytes": None, "bytes_per_second": 1e10}]
    limits = {"isa": "avx2", "float_operations": 1e11, "integer_operations": 4e11, "levels": levels}
    path = tmp_path / "ceilings.json"
    path.write_text(json.dumps(limits))
    monkeypatch.setenv(ENVIRONMENT, str(path))
    monkeypatch.setattr("edgefold.measuring.waterline.measure._SECONDS", 0.05)


def test_recipe_fused_keeps_the_blocks_of_a_convolutional_model(tmp_path: Path) -> None:
    api.compress(DIGITS / "model.onnx", tmp_path / "out", "fused", DIGITS / "task.yaml")
    apart, fused = api.inspect_waterline(DIGITS / "model.onnx"), api.inspect_waterline(tmp_path / "out")
    assert [row.number for row in fused.blocks] == [row.number for row in apart.blocks] == [0, 1]
    assert [row.operations for row in fused.blocks] == [row.operations for row in apart.blocks]
    for row in fused.blocks:
        members = [node for node in fused.nodes if node.block == row.number]
        assert [node.operator for node in members] == ["ai.edgefold.FusedConvBlock"] * 2
        assert row.time_us == sum(node.time_us for node in members)
        assert row.fused_bytes is not None
        assert row.fused_bytes < row.bytes  # without the codes between the two
    text = api.inspect(tmp_path / "out").to_text()
    assert "2 convolution blocks" in text
    assert "No residual blocks repeat" not in text
    rows = api.inspect_gaps([DIGITS / "model.onnx", tmp_path / "out"])
    assert [len(row.blocks) for row in rows.rows] == [2, 2]
    table = rows.to_text().split("\n\n")[2].splitlines()
    assert [line.split()[:4] for line in table[1:]] == [["digits_cnn", "model", "2", "4"], ["out", "model", "2", "4"]]


def test_a_resnet_keeps_its_blocks(tmp_path: Path, data_folder: Path, rng: np.random.Generator) -> None:
    original = data_folder / "cifar_resnet20" / "model.onnx"
    model, _ = raise_to_minimum_opset(load_model(original).model, Inputs(None, None, {}))
    feeds = {"input": rng.standard_normal((4, 3, 32, 32), np.float32)}
    context = Context(
        calibration=Calibration(model.clone(), lambda: [feeds]), probe=functools.partial(probe, feeds=feeds, seed=0)
    )
    Quantize(weights=4, method="shift", rounding="nearest").rewrite(model, context)
    FuseBlocks().rewrite(model, context)
    add_functions(model)
    save_model(model, tmp_path / "fused.onnx")
    files, shapes = (original, tmp_path / "fused.onnx"), ("input=1x3x32x32",)
    before, after = (api.inspect(path, shapes=shapes).stacks for path in files)
    assert [len(stack.blocks) for stack in after] == [len(stack.blocks) for stack in before] == [3, 2, 2]
    apart, fused = (api.inspect_waterline(path, shapes=shapes).blocks for path in files)
    # Each has its own layers, also where a shortcut reads what a block gives after the layers behind it ran.
    for rows in (apart, fused):
        assert [(row.number, row.operations) for row in rows] == [(n, 9_437_184) for n in range(7)]
    assert [row.nodes for row in fused] == [2] * 7


@pytest.mark.parametrize(("kind", "operator"), [("feed-forward", "FusedFeedForward"), ("linear", "FusedLinear")])
def test_fused_layers_of_a_transformer_count_in_their_blocks(tmp_path: Path, kind: Kind, operator: str) -> None:
    model = load_model(CHAR_LM / "model.onnx").model
    Quantize(weights=4, rounding="nearest").rewrite(model, Context())
    feeds = {"input_ids": np.zeros((2, 24), np.int64)}
    FuseBlocks(kinds=(kind,)).rewrite(model, Context(probe=functools.partial(probe, feeds=feeds, seed=0)))
    add_functions(model)
    save_model(model, tmp_path / "fused.onnx")
    found = api.inspect_waterline(tmp_path / "fused.onnx", shapes=SHAPES)
    plain = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    assert [(row.number, row.last, row.alone) for row in found.blocks] == [(n, n, True) for n in range(3)]
    assert [row.operations for row in found.blocks] == [row.operations for row in plain.blocks]
    of_blocks = Counter(row.block for row in found.nodes if row.operator.endswith(operator))
    assert of_blocks == dict.fromkeys(range(3), 1 if kind == "feed-forward" else 3)
    stacks = [api.inspect(path, shapes=SHAPES).stacks for path in (CHAR_LM / "model.onnx", tmp_path / "fused.onnx")]
    names = [[(stack.name, len(stack.blocks), stack.blocks[0].weights) for stack in one] for one in stacks]
    assert names[0] == names[1]


def owned_by(model: ir.Model, layer: str, owner: str) -> Layered:
    """As if a node computed another one's layer too."""
    found = real_layered(model)
    nodes = {node.name: node for node in model.graph}
    owners = {one: nodes[owner] if its.name == layer else its for one, its in found.owners.items()}
    return Layered(found.model, owners)


def products(block: int | None) -> list[str]:
    """The matrix products of a block of the char_lm, in order."""
    found = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    names = {str(node.name) for node in load_model(CHAR_LM / "model.onnx").model.graph if node.op_type == "MatMul"}
    return [row.node for row in found.nodes if row.block == block and row.node in names]


def test_blocks_that_share_a_node_are_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    last, first = products(0)[-1], products(1)[0]
    monkeypatch.setattr(
        "edgefold.measuring.waterline.spans.layered", lambda model: owned_by(model, layer=first, owner=last)
    )
    found = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    assert [(row.number, row.last, row.alone) for row in found.blocks] == [(0, 1, True), (2, 2, True)]
    joined = found.blocks[0]
    assert joined.operations == 2 * apart.blocks[0].operations
    assert joined.fused_bytes == apart.blocks[0].fused_bytes + apart.blocks[1].fused_bytes - 2 * 2 * 24 * 96 * 4  # type: ignore[operator]
    text = found.to_text()
    assert "\n0-1 " in text
    assert "A-B: blocks that share a node" in text
    assert "A-B" not in apart.to_text()


def test_a_block_whose_node_computes_more_than_the_block_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    head, last = products(None)[-1], products(2)[-1]
    monkeypatch.setattr(
        "edgefold.measuring.waterline.spans.layered", lambda model: owned_by(model, layer=head, owner=last)
    )
    found = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    assert [(row.number, row.last, row.alone) for row in found.blocks] == [(0, 0, True), (1, 1, True), (2, 2, False)]
    text = found.to_text()
    assert "\n2* " in text
    assert "*: a node of the block also computes layers outside of it" in text


def test_blocks_without_known_sizes_are_shown_without_the_figures_that_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgefold.measuring.waterline.spans._sizes", lambda *given: {})
    found = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    assert [(row.fused_bytes, row.fused_floor_us) for row in found.blocks] == [(None, None)] * 3
    line = next(line.split() for line in found.to_text().splitlines() if line.startswith("0 "))
    assert Counter(line)["-"] == 2


def test_sizes_that_no_inference_knows_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    inferred = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    monkeypatch.setattr("edgefold.measuring.waterline.spans.known_shapes", lambda graph: {})
    seen = api.inspect_waterline(CHAR_LM / "model.onnx", shapes=SHAPES)
    assert [row.fused_bytes for row in seen.blocks][:2] == [row.fused_bytes for row in inferred.blocks][:2]


def test_nodes_that_are_known_to_lie_outside_stay_there() -> None:
    a, b = Span(0, 0, 8, True), Span(1, 1, 8, True)
    assert _filled([a, None, a, OUTSIDE, a, None, b, None]) == [a, a, a, OUTSIDE, a, None, b, None]
