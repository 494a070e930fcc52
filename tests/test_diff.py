# SPDX-License-Identifier: Apache-2.0
"""Diff: figures of a known difference, layers matched by tensor, and models that cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import UsageError
from edgefold.files.loading import LoadedModel, load_model
from edgefold.measuring.diff import compare_tensors, diff
from edgefold.scoring.task import load_task

TEXT = """
<ir_version: 8, opset_import: ["" : 21]>
g (float[N, 4] x, float[4, 4] w, float[4, 4] v) => (float[N, 4] y) {
  a = MatMul(x, w)
  r = Relu(a)
  y = MatMul(r, v)
}
"""


def save(path: Path, text: str = TEXT, factor: float = 1.0) -> LoadedModel:
    model = ir.from_onnx_text(text)
    for value in list(model.graph.inputs)[1:]:
        matrix = np.eye(4, dtype=np.float32) * np.float32(factor if value.name == "v" else 1)
        value.const_value = ir.tensor(matrix, name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    ir.save(model, path)
    return load_model(path)


def test_figures_of_a_known_difference() -> None:
    row = compare_tensors("t", ("A", "B"), np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    assert row.max_abs == 1
    assert row.rms == pytest.approx(0.5**0.5)
    assert row.sqnr_db == pytest.approx(10 * np.log10(25))
    assert row.cosine == pytest.approx(21 / (5 * 18**0.5))
    assert compare_tensors("t", ("A", "B"), np.ones(2), np.ones(2)).sqnr_db is None
    assert "shapes" in compare_tensors("t", ("A", "B"), np.ones(2), np.ones(3)).note
    assert "NaN" in compare_tensors("t", ("A", "B"), np.ones(1), np.array([np.nan])).note


def test_layers_are_matched_by_tensor(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", factor=1.1)
    found = diff(a, b, shapes={"x": (3, 4)})
    assert found.samples == 3
    (output,), (layer,) = found.outputs, found.layers
    assert (output.tensor, layer.tensor) == ("y", "a")
    assert layer.sqnr_db is None
    assert output.sqnr_db == pytest.approx(20, abs=0.1)
    text = found.to_text()
    assert "output y" in text
    assert "equal" in text
    json.dumps(found.to_json())


def test_a_layer_that_is_gone_is_named(tmp_path: Path) -> None:
    renamed = TEXT.replace("a = MatMul", "c = MatMul").replace("Relu(a)", "Relu(c)")
    found = diff(save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", renamed), shapes={"x": (1, 4)})
    assert found.unmatched == ("a",)
    assert "no tensor of the same name in the second model: a" in found.to_text()


def test_a_task_feeds_its_first_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((20, 4)), y=np.zeros(20, np.int64))
    (tmp_path / "task.yaml").write_text(
        "data: data.npz\ninputs: {x: {array: x}}\nmetric: {name: top1, output: y, labels: y}\nbatch: 16\n"
    )
    a = save(tmp_path / "a.onnx")
    assert diff(a, a, task=load_task(tmp_path / "task.yaml")).samples == 8


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    b = save(tmp_path / "b.onnx", TEXT.replace("float[N, 4] x", "float[N, 4] z").replace("(x, w)", "(z, w)"))
    with pytest.raises(UsageError, match="not the same inputs"):
        diff(save(tmp_path / "a.onnx"), b, shapes={"x": (1, 4)})
