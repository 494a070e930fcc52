# SPDX-License-Identifier: Apache-2.0
"""Models that are unusual but right go through the real command, and keep what makes them so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from linear_model import N, linear, unshaped, weights
from onnx import TensorProto, helper, numpy_helper

Command = Callable[..., Any]  # the fixture `edgefold`


def test_a_graph_without_anything_to_compress_is_copied(tmp_path: Path, edgefold: Command) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], name="twice")],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [3])],
    )
    path = tmp_path / "integers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out", "--set", "quantize.rounding=nearest")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_contrib_operators_that_the_runtime_knows_are_left_alone(tmp_path: Path, edgefold: Command) -> None:
    plain = linear()
    plain.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft", name="gelu"))
    plain.graph.output[0].name = "z"
    plain.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "contrib.onnx"
    path.write_bytes(plain.SerializeToString())
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out", "--format", "json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["status"] == "done"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_stays_float_and_is_named(bad: float, tmp_path: Path, edgefold: Command) -> None:
    broken = weights()
    broken[3, 5] = bad
    path = tmp_path / "nan.onnx"
    onnx.save(linear(broken), path)
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "NaN or infinity" in outcome.out
    assert "linear" in outcome.out
    kept = onnx.load(tmp_path / "out" / "model.onnx")
    assert [node.op_type for node in kept.graph.node] == ["MatMul"]


def test_an_output_that_is_a_constant_stays_one(tmp_path: Path, edgefold: Command) -> None:
    """Detectors give their anchors out; folding makes an initializer of them."""
    detector = linear()
    detector.graph.node.append(helper.make_node("Add", ["c", "c"], ["anchors"], name="grid"))
    detector.graph.output.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, [4]))
    detector.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "c"))
    path = tmp_path / "detector.onnx"
    onnx.save(detector, path)
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert [one.name for one in onnx.load(tmp_path / "out" / "model.onnx").graph.output] == ["y", "anchors"]


def test_a_product_with_nothing_can_be_inspected(tmp_path: Path, edgefold: Command) -> None:
    nothing = linear(np.zeros((0, N), np.float32))
    nothing.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
    path = tmp_path / "nothing.onnx"
    onnx.save(nothing, path)
    outcome = edgefold("inspect", "-m", path)
    assert outcome.code == 0, outcome.err


ONLY_AT = """<ir_version: 8, opset_import: ["" : 21]>
g (float[n, t, 64] x) => (float[n, m] y) {
    flat = Constant <value = int64[2] {-1, SIZE}> ()
    h = MatMul (x, w)
    y = Reshape (h, flat)
}"""


@pytest.mark.parametrize(("size", "runs"), [(128 * 64, True), (37 * 64, False)])
def test_sizes_that_a_model_runs_at_are_guessed(size: int, runs: bool, tmp_path: Path, edgefold: Command) -> None:
    """Tracing exporters write a length down; where none of the usual ones is it, the report says what that means."""
    text = ONLY_AT.replace("SIZE", str(size))
    traced = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    traced.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    path = tmp_path / "traced.onnx"
    path.write_bytes(traced.SerializeToString())
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert ("latency" in outcome.out) == runs
    assert ("nothing was verified or timed" in outcome.out) != runs
    listed = edgefold("inspect", "-m", path, "--groups")
    assert listed.code == (0 if runs else 2)
    assert runs or "--shape" in listed.error_line


@pytest.mark.parametrize("opset", [17, 21])
def test_an_output_of_unknown_rank_is_no_obstacle(opset: int, tmp_path: Path, edgefold: Command) -> None:
    path = tmp_path / "unshaped.onnx"
    onnx.save(unshaped(opset, "y"), path)
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert edgefold("verify", tmp_path / "out").code == 0
    (output,) = onnx.load(tmp_path / "out" / "model.onnx").graph.output
    assert not output.type.tensor_type.HasField("shape")


SCALARS = """<ir_version: 10, opset_import: ["" : 21]>
g (float gain, bool turn, float[n, 64] x) => (float[n, 48] y) {
    back = Neg (x)
    fed = Where (turn, back, x)
    h = MatMul (fed, w)
    y = Mul (h, gain)
}"""


def test_scalars_among_the_inputs(tmp_path: Path, edgefold: Command) -> None:
    """They come first, and have no row for each sample."""
    model = onnx.parser.parse_model(SCALARS)
    model.graph.initializer.append(numpy_helper.from_array(weights(), "w"))
    path, task, out = tmp_path / "scalars.onnx", tmp_path / "task.yaml", tmp_path / "out"
    onnx.save(model, path)
    x = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", gain=np.full(32, 2, np.float32), turn=np.ones(32, bool), x=x)
    task.write_text(
        "data: data.npz\ninputs: {gain: {array: gain}, turn: {array: turn}, x: {array: x}}\nbatch: 4\n"
        "metric: {name: cosine, reference: scalars.onnx}\ncalibration: {data: data.npz}\n"
    )
    for arguments in (
        ("compress", "-m", path, "-d", task, "-o", out),
        ("eval", "-m", out, "-d", task),
        ("diff", "-m", path, "-m", out, "-d", task),
        ("diff", "-m", path, "-m", out, "--shape", "x=2x64"),
        ("bench", "-m", path, "-m", out, "-d", task),
        ("inspect", "-m", path, "--groups"),
        ("verify", out),
    ):
        outcome = edgefold(*arguments)
        assert outcome.code == 0, (arguments[0], outcome.err)


BUILT = """<ir_version: 8, opset_import: ["" : OPSET]>
g (float[n, 64] x) => (float[n, 48] y) <float[64] scale = {SCALE}> {
    h = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5, stash_type = 1> (x, scale)
    y = MatMul (h, w)
}""".replace("SCALE", ", ".join(["1"] * 64))
"""What ONNX Runtime's optimizer and its model builder write: an operator of its own in the standard domain."""


@pytest.mark.parametrize("opset", [13, 21])
def test_the_runtimes_own_operators_in_the_standard_domain(opset: int, tmp_path: Path, edgefold: Command) -> None:
    built = onnx.parser.parse_model(BUILT.replace("OPSET", str(opset)))
    built.graph.initializer.append(numpy_helper.from_array(weights(), "w"))
    path = tmp_path / "built.onnx"
    onnx.save(built, path)
    outcome = edgefold("compress", "-m", path, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    written = onnx.load(tmp_path / "out" / "model.onnx")
    assert [(node.domain, node.op_type) for node in written.graph.node] == [
        ("", "SimplifiedLayerNormalization"),
        ("ai.edgefold", "ShiftMatMul"),
    ]
    assert {one.domain for one in written.opset_import} == {"", "ai.edgefold"}
    verdict = edgefold("verify", tmp_path / "out")
    assert verdict.code == 0, verdict.err
