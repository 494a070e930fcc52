# SPDX-License-Identifier: Apache-2.0
"""Convolutions that keep float activations are ONNX Runtime's own: it computes their weights at load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgefold.files.serialization import serialize
from edgefold.ops import add_functions
from edgefold.passes import Context, Quantize
from edgefold.runtime import ops_library

DEEP = """p = Conv <pads = [1, 1, 1, 1]> (x, w, b) q = Conv <pads = [1, 1, 1, 1]> (p, v)
          y = Conv <pads = [1, 1, 1, 1]> (q, u, b)"""
PLAIN = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
BRANCH = """y = If (c) <then_branch = a () => (float[1, 16, 9, 9] p) { p = Conv <pads = [1, 1, 1, 1]> (x, w, b) },
                         else_branch = b () => (float[1, 16, 9, 9] q) { q = Concat <axis = 1> (x, x) }>"""


def quantized(body: str, **options: object) -> tuple[ir.Model, ir.Model]:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[1, 8, 9, 9] x, bool c) => (float[1, 16, 9, 9] y) {{ {body} }}"""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 8, 3, 3)), ("v", (16, 16, 3, 3)), ("u", (16, 16, 3, 3)), ("b", (16,))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    before = model.clone()
    Quantize(weights=8, method="shift", rounding="nearest", **options).rewrite(model, Context())  # type: ignore[arg-type]
    add_functions(model)
    return before, model


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("body", [PLAIN, BRANCH], ids=["graph", "branch"])
def test_onnxruntime_computes_the_weights_at_load(body: str, library: bool, tmp_path: Path) -> None:
    before, after = quantized(body)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # no layout of its own yet
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    if library:
        options.register_custom_ops_library(str(ops_library()))
    session = ort.InferenceSession(serialize(after), options, providers=["CPUExecutionProvider"])
    loaded = ir.load(tmp_path / "optimized.onnx")
    assert {node.op_type for node in loaded.graph.all_nodes()} - {"If", "Concat"} == {"Conv"}
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 9, 9)).astype(np.float32), "c": np.array(True)}
    plain = ort.InferenceSession(serialize(before), providers=["CPUExecutionProvider"])
    used = {one.name for one in plain.get_inputs()}
    [wanted], [got] = (one.run(None, {k: v for k, v in feeds.items() if k in used}) for one in (plain, session))
    step = np.abs(before.graph.initializers["w"].const_value.numpy()).max() / 127  # type: ignore[union-attr]
    assert 0 < np.abs(got - wanted).max() <= 72 * step * np.abs(feeds["x"]).max()


def test_weights_of_several_widths_keep_the_kernel_that_narrows_them() -> None:
    """The first and the last layers have one width."""
    _, after = quantized(DEEP, widths=(8, 4))
    assert [node.op_type for node in after.graph.all_nodes()] == ["FloatConv", "ShiftConv", "FloatConv"]
