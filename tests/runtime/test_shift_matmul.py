# SPDX-License-Identifier: Apache-2.0
"""ShiftMatMul in ONNX Runtime against numpy: equal floats where activations are quantized."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import one_node
import onnx
import onnxruntime as ort
import pytest
from oracle import random_shifts, random_weights, shift_matmul

from edgefold.errors import EdgefoldError
from edgefold.runtime import ops_library

ROOT = Path(__file__).resolve().parents[2]
RANGES = {"dynamic8": (-127, 127, 0.0), "static8": (-127, 127, 0.02), "u8": (0, 255, 0.01), "s4": (-7, 7, 0.4)}


def session(model: bytes, threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    try:
        options.register_custom_ops_library(str(ops_library()))
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    return ort.InferenceSession(model, options)


def run(model: bytes, x: np.ndarray, threads: int = 1) -> np.ndarray:
    return np.asarray(session(model, threads).run(None, {"x": x})[0])


@pytest.mark.parametrize("activations", RANGES)
@pytest.mark.parametrize("method", ["rtn", "shift", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_numpy(bits: int, method: str, activations: str) -> None:
    rng = np.random.default_rng(bits)
    low, high, scale = RANGES[activations]
    for m, k, n in [(1, 1, 1), (3, 33, 17), (4, 64, 31), (7, 70, 50), (19, 131, 32)]:
        weights = random_weights(rng, k, n, bits, method)
        x = rng.standard_normal((m, k)).astype(np.float32)
        x[m // 2] = 0
        for bias in (np.zeros(1, np.float32), rng.standard_normal(n).astype(np.float32)):
            y = run(one_node.matmul(weights, bias, scale, low, high), x)
            np.testing.assert_array_equal(y, shift_matmul(x, weights, bias, scale, low, high))


@pytest.mark.parametrize("scale", [0.0, 0.05])
@pytest.mark.parametrize(("low", "high"), [(-7, 7), (0, 15), (-31, 31), (0, 63), (0, 1)])
def test_channel_shifts_equal_numpy(low: int, high: int, scale: float) -> None:
    rng = np.random.default_rng(high)
    for m, k, n, method in [(1, 1, 1, "rtn"), (3, 33, 17, "shift"), (7, 70, 50, "lut"), (19, 131, 32, "shift")]:
        weights = random_weights(rng, k, n, 4, method)
        shifts = random_shifts(rng, k, low, high)
        x = (rng.standard_normal((m, k)) * 2.0**shifts).astype(np.float32)
        x[m // 2] = 0
        bias = rng.standard_normal(n).astype(np.float32)
        for given in (shifts, shifts.max(keepdims=True)):
            y = run(one_node.matmul(weights, bias, scale, low, high, shifts=given), x)
            np.testing.assert_array_equal(y, shift_matmul(x, weights, bias, scale, low, high, given))


def test_float_activations_take_no_notice_of_shifts() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, 40, 20, 4)
    x, bias = rng.standard_normal((3, 40)).astype(np.float32), np.zeros(1, np.float32)
    shifted = run(one_node.matmul(weights, bias, 0.0, 0, 0, shifts=np.full(40, 3, np.uint8)), x)
    np.testing.assert_array_equal(shifted, run(one_node.matmul(weights, bias, 0.0, 0, 0), x))


@pytest.mark.parametrize("bits", range(2, 9))
def test_weight_only_is_within_the_bound_of_a_float_sum(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for m, k, n in [(1, 5, 3), (3, 33, 17), (9, 131, 40)]:
        weights = random_weights(rng, k, n, bits)
        x, bias = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal(n).astype(np.float32)
        y = run(one_node.matmul(weights, bias, 0.0, 0, 0), x)
        exact = (x.astype(np.float64) @ weights.integers) * weights.scales + bias
        size = (np.abs(x).astype(np.float64) @ np.abs(weights.integers.astype(np.float64))) * weights.scales
        assert np.all(np.abs(y - exact) <= (k + 2) * 2.0**-24 * (size + np.abs(bias)))


@pytest.mark.parametrize("shape", [(20,), (0, 20), (2, 0, 20), (2, 3, 20), (1, 2, 3, 4, 20)], ids=str)
@pytest.mark.parametrize("high", [127, 0])
def test_any_rank_and_no_rows(shape: tuple[int, ...], high: int) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(rng, 20, 18, 4)
    x, bias = rng.standard_normal(shape).astype(np.float32), np.ones(1, np.float32)
    y = run(one_node.matmul(weights, bias, 0.0, -127 if high else 0, high, rank=len(shape)), x)
    assert y.shape == (*shape[:-1], 18)
    np.testing.assert_allclose(y, shift_matmul(x, weights, bias, 0.0, -127, high), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("method", ["shift", "lut"])
def test_many_rows_in_threads_equal_one_thread(method: str) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights(rng, 100, 200, 4, method)
    x, bias = rng.standard_normal((600, 100)).astype(np.float32), rng.standard_normal(200).astype(np.float32)
    model = one_node.matmul(weights, bias, 0.0, -127, 127)
    y = run(model, x, threads=4)
    np.testing.assert_array_equal(y, run(model, x))
    np.testing.assert_array_equal(y, shift_matmul(x, weights, bias, 0.0, -127, 127))


@pytest.mark.parametrize("isa", ["reference", "avx2", "vnni", "neon", "dotprod", "i8mm"])
def test_every_instruction_set_gives_the_same_floats(isa: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weights = random_weights(rng, 90, 70, 3)
    x, bias = rng.standard_normal((11, 90)).astype(np.float32), rng.standard_normal(70).astype(np.float32)
    model = one_node.matmul(weights, bias, 0.0, -127, 127)
    result = in_new_process(model, x, tmp_path, isa=isa)
    if "this CPU does not support it" in result.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), run(model, x))


def test_an_unknown_instruction_set_is_an_error(tmp_path: Path) -> None:
    model = one_node.matmul(random_weights(np.random.default_rng(0), 4, 4, 4), np.zeros(1, np.float32), 0.0, -127, 127)
    result = in_new_process(model, np.zeros((1, 4), np.float32), tmp_path, isa="sse9")
    assert result.returncode != 0
    assert "EDGEFOLD_ISA=sse9: expected reference, avx2" in result.stderr


def test_oldest_supported_runtime(tmp_path: Path) -> None:
    """ORT 1.19.2, installed by `pip install --target build/ort-1.19.2 onnxruntime==1.19.2`."""
    oldest = ROOT / "build" / "ort-1.19.2"
    if not oldest.is_dir():
        pytest.skip("pip install --target build/ort-1.19.2 onnxruntime==1.19.2")
    rng = np.random.default_rng(3)
    weights = random_weights(rng, 40, 30, 4)
    x, bias = rng.standard_normal((5, 40)).astype(np.float32), np.zeros(1, np.float32)
    model = one_node.matmul(weights, bias, 0.0, -127, 127)
    result = in_new_process(model, x, tmp_path, path=oldest)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "1.19.2"
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), shift_matmul(x, weights, bias, 0.0, -127, 127))


def in_new_process(
    model: bytes, x: np.ndarray, folder: Path, *, isa: str = "", path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the model elsewhere: the instruction set is chosen once a process."""
    (folder / "model.onnx").write_bytes(model)
    np.save(folder / "x.npy", x)
    program = (
        "import sys, numpy as np, onnxruntime as ort; o = ort.SessionOptions();"
        "o.register_custom_ops_library(sys.argv[1]); s = ort.InferenceSession('model.onnx', o);"
        "np.save('y.npy', s.run(None, {'x': np.load('x.npy')})[0]); print(ort.__version__)"
    )
    environment = os.environ | {"EDGEFOLD_ISA": isa} | ({"PYTHONPATH": str(path)} if path else {})
    return subprocess.run(
        [sys.executable, "-c", program, str(ops_library())],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_shapes_are_inferred_with_symbolic_names() -> None:
    weights = random_weights(np.random.default_rng(0), 8, 5, 4)
    model = onnx.load_from_string(one_node.matmul(weights, np.zeros(1, np.float32), 0.0, -127, 127, rank=3))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    output = session(model.SerializeToString()).get_outputs()[0]
    assert output.shape == ["d0", "d1", 5]


GOOD = random_weights(np.random.default_rng(0), 40, 20, 4)
BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "layout": ({}, {"layout": 2}, "attribute 'layout' is 2"),
    "bits-low": ({}, {"bits": 1}, "attribute 'bits' is 1"),
    "bits-other": ({}, {"bits": 5}, "table must have shape"),
    "k-zero": ({}, {"k": 0}, "attribute 'k' is 0"),
    "k-other": ({}, {"k": 44}, "codes has shape"),
    "k-huge": ({}, {"k": 2**62}, "attribute 'k' is"),
    "low": ({}, {"activation_low": -128}, "attribute 'activation_low' is -128"),
    "high": ({}, {"activation_high": 128}, "attribute 'activation_high' is 128"),
    "codes-short": ({"codes": GOOD.codes[:1]}, {}, "codes has shape"),
    "codes-type": ({"codes": GOOD.codes.astype(np.float32)}, {}, "."),
    "selectors-short": ({"selectors": GOOD.selectors[:, :1]}, {}, "selectors has shape"),
    "selectors-beyond": ({"selectors": GOOD.selectors | 0xFF, "table": GOOD.table[:3]}, {}, "a selector names a table"),
    "table-flat": ({"table": GOOD.table.reshape(-1)}, {}, "table must have shape"),
    "table-empty": ({"table": GOOD.table[:0]}, {}, "table must have shape"),
    "table-large": ({"table": np.zeros((17, 16), np.int8)}, {}, "table must have shape"),
    "table-minus-128": ({"table": np.full_like(GOOD.table, -128)}, {}, "table holds -128"),
    "shifts-short": ({"shifts": np.zeros(39, np.uint8)}, {}, r"x_shifts has shape \[39\]; expected \[40\]"),
    "shifts-large": (
        {"shifts": np.full(40, 5, np.uint8)},
        {"activation_low": -7, "activation_high": 7},
        "x_shifts holds 5; codes of -7 to 7 times 2\\^x_shifts must be at most 127",
    ),
    "shifts-huge": ({"shifts": np.full(1, 200, np.uint8)}, {"activation_high": 1}, "x_shifts holds 200"),
    "shifts-low": ({"shifts": np.ones(1, np.uint8)}, {"activation_low": -64, "activation_high": 1}, "x_shifts holds 1"),
    "shifts-type": ({"shifts": np.zeros(40, np.float32)}, {}, "."),
    "scales-empty": ({"scales": GOOD.scales[:0]}, {}, "scales must have shape"),
    "scales-other": ({"scales": np.ones(40, np.float32)}, {}, "codes has shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_node_is_refused_at_load(case: str) -> None:
    tensors, attributes, message = BROKEN[case]
    shifts = {"shifts": tensors["shifts"]} if "shifts" in tensors else {}
    weights = dataclasses.replace(GOOD, **{name: array for name, array in tensors.items() if name != "shifts"})
    built = one_node.matmul(weights, np.zeros(1, np.float32), 0.0, -127, 127, **shifts, **attributes)
    model = onnx.load_from_string(built)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=message):
        session(model.SerializeToString())


def test_weights_must_be_initializers() -> None:
    model = onnx.load_from_string(one_node.matmul(GOOD, np.zeros(1, np.float32), 0.0, -127, 127))
    codes = next(tensor for tensor in model.graph.initializer if tensor.name == "codes")
    model.graph.initializer.remove(codes)
    model.graph.input.append(onnx.helper.make_tensor_value_info("codes", onnx.TensorProto.UINT8, list(codes.dims)))
    with pytest.raises(Exception, match=r"input 1 \(codes\) 'codes' must be an initializer"):
        session(model.SerializeToString())


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("bias", np.zeros(19, np.float32), r"bias has shape \[19\]; expected \[20\] or \[1\]"),
        ("x_scale", np.array([-1], np.float32), "x_scale is -1"),
        ("x_scale", np.array([np.nan], np.float32), "x_scale is"),
    ],
)
def test_a_bad_bias_or_scale_is_refused(tensor: str, value: np.ndarray, message: str) -> None:
    model = onnx.load_from_string(one_node.matmul(GOOD, np.zeros(1, np.float32), 0.0, -127, 127))
    found = next(initializer for initializer in model.graph.initializer if initializer.name == tensor)
    found.CopyFrom(onnx.numpy_helper.from_array(value, tensor))
    with pytest.raises(Exception, match=message):
        run(model.SerializeToString(), np.zeros((1, 40), np.float32))


def test_x_of_another_width_is_refused() -> None:
    model = onnx.load_from_string(one_node.matmul(GOOD, np.zeros(1, np.float32), 0.0, -127, 127))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=r"x has shape \[1,41\]; expected \[..., 40\]"):
        run(model.SerializeToString(), np.zeros((1, 41), np.float32))
