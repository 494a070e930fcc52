# SPDX-License-Identifier: Apache-2.0
"""Inspect: figures, layers, skips, and what it says when a shape is unknown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import UsageError
from edgefold.files.loading import LoadedModel, load_model
from edgefold.measuring.inspect import inspect

TEXT = """
<ir_version: 8, opset_import: ["" : 21], producer_name: "maker", producer_version: "3">
g (float[batch, seq, 8] x, float[8, 4] w, float[4, 8] t) => (float[batch, seq, 8] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, t)
}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    model = ir.from_onnx_text(TEXT)
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.tensor(np.ones(tuple(value.shape.numpy()), np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    ir.save(model, tmp_path / "m.onnx")
    return load_model(tmp_path / "m.onnx")


def test_a_model_on_a_page(loaded: LoadedModel) -> None:
    found = inspect(loaded, {"x": (2, 5, 8)}, skips=lambda model: [("n", "weight is not a constant", "")])
    assert found.operators == {"MatMul": 2, "Relu": 1}
    assert (found.weights, found.bits_per_weight, found.macs) == (64, 32, 2 * 10 * 32)
    assert found.exporter == "maker 3"
    assert found.opset == {"": 21}
    assert [layer.output for layer in found.layers] == [(2, 5, 4), (2, 5, 8)]
    text = found.to_text()
    for part in ("m.onnx", "ai.onnx 21", "written by maker 3", "2 MatMul", "2x5x4", "640 multiply", "skip 1 node:"):
        assert part in text
    assert json.loads(json.dumps(found.to_json()))["skips"][0]["reason"] == "weight is not a constant"


def test_unknown_shapes_are_said(loaded: LoadedModel) -> None:
    found = inspect(loaded, skips=lambda model: [])
    assert found.macs is None
    assert "unknown; --shape" in found.to_text()
    assert "quantize would skip no node" in found.to_text()


def test_wrong_shapes_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(UsageError, match="no such input; its inputs are x"):
        inspect(loaded, {"z": (1,)})
    for shape in ((1, 2), (1, 2, 16)):
        with pytest.raises(UsageError, match=r"the model declares \[batch, seq, 8\], where numbers are fixed"):
            inspect(loaded, {"x": shape})


def test_default_skips_name_a_reason(loaded: LoadedModel) -> None:
    found = inspect(loaded, {"x": (1, 1, 8)})
    assert all(reason for _, reason, _ in found.skips)


def test_layers_of_branches_are_listed_and_those_of_one_branch_counted(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 21]>
    g (float[N, 2] x, bool c) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {
        [if] y = If (c) <
            then_branch = a () => (float[N, 2] p) { [inner] p = MatMul (x, w) },
            else_branch = b () => (float[N, 2] q) { [inner] r = MatMul (x, w) [other] q = MatMul (r, w) }>
    }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "m.onnx")
    found = inspect(load_model(tmp_path / "m.onnx"), {"x": (1, 2)})
    assert [(layer.node, layer.macs) for layer in found.layers] == [
        ("if/then_branch:inner", 4), ("if/else_branch:inner", 4), ("if/else_branch:other", 4)
    ]  # fmt: skip
    assert found.macs == 8
    assert found.skips == ()


def test_products_in_functions_are_said_to_stay(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 21, "own" : 1]>
    g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> { y = own.Product (x, w) }
    <domain: "own", opset_import: ["" : 21]> Product (a, b) => (c) { [inner] c = MatMul (a, b) }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "m.onnx")
    found = inspect(load_model(tmp_path / "m.onnx"), {"x": (1, 2)})
    assert ("inner", "inside a subgraph or function", "") in found.skips
