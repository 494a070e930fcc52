# SPDX-License-Identifier: Apache-2.0
"""Inspect shows mixture-of-experts layers, and says why what looks like one is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgefold.files.loading import LoadedModel, load_model
from edgefold.measuring.inspect import inspect
from edgefold.passes import DispatchExperts
from edgefold.passes.base import Context
from edgefold.probing import probe
from edgefold.session import compute

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 8] x) => (float[batch, 8] y) {
  logits = MatMul(x, router)
  values, chosen = TopK<axis = -1>(logits, two)
  weights = Softmax<axis = -1>(values)
  size = Shape(logits)
  none = ConstantOfShape(size)
  gates = ScatterElements<axis = -1>(none, chosen, weights)
  up = Einsum<equation = "td,edf->tef">(x, ups)
  hidden = Relu(up)
  y = Einsum<equation = "tef,efd,te->td">(hidden, downs, gates)
}"""
LINE = "experts of 8 to 6 (relu), top 2 (softmax, normalized), 384 weights; einsum"


def loaded(folder: Path, experts: int = 4) -> LoadedModel:
    random = np.random.default_rng(0)
    arrays = {
        "router": random.standard_normal((8, 4)),
        "ups": random.standard_normal((experts, 8, 6)),
        "downs": random.standard_normal((experts, 6, 8)),
    }
    tensors = [ir.tensor(array.astype(np.float32), name=name) for name, array in arrays.items()]
    tensors.append(ir.tensor(np.array([2], np.int64), name="two"))
    ir.save(ir.from_onnx_text(TEXT, initializers=tensors), folder / "m.onnx")
    return load_model(folder / "m.onnx")


def test_a_layer_in_a_line(tmp_path: Path) -> None:
    found = inspect(loaded(tmp_path), {"x": (4, 8)}, skips=lambda model: [])
    [row] = found.to_json()["experts"]
    assert (row["experts"], row["top"], row["inputs"], row["width"], row["form"]) == (4, 2, 8, 6, "einsum")
    assert LINE in found.to_text()


def test_the_dispatch_form_is_read_without_a_run(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    assert DispatchExperts().rewrite(model.model, Context(probe=probe, compute=compute)).edits
    found = inspect(model, skips=lambda model: [])
    assert "moe.0: 4 experts of 8 to 6 (relu), 384 weights; dispatch form" in found.to_text()


def test_what_cannot_be_run_is_said(tmp_path: Path) -> None:
    found = inspect(loaded(tmp_path, experts=3), {"x": (4, 8)}, skips=lambda model: [])
    assert found.experts == ()
    assert "layers were not looked for" in found.to_text()


def test_a_model_without_experts_says_nothing_of_them() -> None:
    char_lm = Path(__file__).resolve().parents[1] / "models" / "char_lm" / "model.onnx"
    found = inspect(load_model(char_lm), skips=lambda model: [])
    assert found.to_json()["experts"] == ()
    assert "xperts" not in found.to_text()
