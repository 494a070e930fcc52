# SPDX-License-Identifier: Apache-2.0
"""The recipe `fused` on experts that an exporter wrote densely: one node, in which each sees its own tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from graphs import weights

from edgefold.compression import compress
from edgefold.session import compute

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[batch, 64] x) => (float[batch, 64] y) {
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


def test_experts_become_one_node(tmp_path: Path) -> None:
    arrays = {
        "router": weights(64, 4, seed=1),
        "ups": weights(4, 64, 96, seed=2),
        "downs": weights(4, 96, 64, seed=3),
        "two": np.array([2], np.int64),
    }
    dense = ir.from_onnx_text(TEXT, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()])
    ir.save(dense, tmp_path / "dense.onnx")
    report = compress(tmp_path / "dense.onnx", tmp_path / "out", "fused")
    written = onnx.load(tmp_path / "out" / "model.onnx")
    operators = [node.op_type for node in written.graph.node]
    assert operators.count("ShiftMoE") == 1
    assert "Einsum" not in operators
    assert report.portability is not None
    x = {"x": weights(30, 64, seed=4)}
    wanted, got = (compute(model)(x)["y"] for model in (dense, ir.from_proto(written)))
    assert np.linalg.norm(got - wanted) < 0.2 * np.linalg.norm(wanted)  # of weights rounded to 4 bits
