# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks against ONNX Runtime's float32 and its static QDQ int8, one thread.

    python runtime/bench/bench_inverted_residual.py [--json FILE] [--rounds 150]

Each block is a model of its own: 1x1, 3x3 depthwise and 1x1 convolution, the activation after the first two, the input
added to the result, float32 at both ends; random weights. EdgeFold runs the recipe ``fused``. Contenders take turns,
three calls each; least processor time of the calling thread. Ratios above 1: EdgeFold is faster.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_session import open_model
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgefold.compression import compress

SHAPES = ((56, 32, 192), (28, 64, 384), (14, 96, 576))  # size, channels, expanded channels
ACTIVATIONS = ("Relu", "HardSwish", "SiLU")
SAMPLES = 8
CALLS = 3  # of a turn
TASK = """data: samples.npz
inputs: {x: {array: x}}
metric: {name: cosine, reference: model.onnx}
calibration: {data: samples.npz, samples: 8}
batch: 1
"""


class Samples(CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self._left = iter(x)

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self._left, None)
        return None if x is None else {"x": x[None]}


def block(rng: np.random.Generator, size: int, channels: int, expanded: int, activation: str) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def convolve(x: str, y: str, inputs: int, outputs: int, kernel: int, group: int) -> None:
        shape = (outputs, inputs // group, kernel, kernel)
        w = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        for name, values in ((f"{y}.w", w), (f"{y}.b", rng.normal(size=outputs) * 0.1)):
            weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"{y}.w", f"{y}.b"], [y], y, pads=pads, group=group))

    def activate(x: str, y: str) -> None:
        if activation != "SiLU":
            nodes.append(helper.make_node(activation, [x], [y], y))
            return
        nodes.append(helper.make_node("Sigmoid", [x], [f"{y}.gate"], f"{y}.gate"))
        nodes.append(helper.make_node("Mul", [x, f"{y}.gate"], [y], y))

    convolve("x", "wide", channels, expanded, 1, 1)
    activate("wide", "wide.active")
    convolve("wide.active", "filtered", expanded, expanded, 3, expanded)
    activate("filtered", "filtered.active")
    convolve("filtered.active", "narrow", expanded, channels, 1, 1)
    nodes.append(helper.make_node("Add", ["x", "narrow"], ["y"], "add"))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size]) for name in "xy")
    graph = helper.make_graph(nodes, "block", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def contenders(folder: Path, model: onnx.ModelProto, x: np.ndarray) -> dict[str, onnx.ModelProto]:
    """The same block in every form."""
    source, task, prepared, int8 = (folder / name for name in ("model.onnx", "task.yaml", "prepared.onnx", "int8.onnx"))
    onnx.save(model, source)
    np.savez(folder / "samples.npz", x=x)
    task.write_text(TASK)
    quant_pre_process(str(source), str(prepared))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, int8, Samples(x), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    compress(source, folder / "fused", "fused", task, seed=0)
    return {"fp32": model, "int8": onnx.load(int8), "edgefold": onnx.load(folder / "fused" / "model.onnx")}


def measure(shape: tuple[int, int, int], activation: str, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    size, channels, _ = shape
    x = rng.normal(size=(SAMPLES, channels, size, size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        models = contenders(Path(folder), block(rng, *shape, activation), x)
        sessions = {name: open_model(model, 1) for name, model in models.items()}
    least = dict.fromkeys(sessions, float("inf"))
    for _ in range(rounds):
        for name, session in sessions.items():
            for _ in range(CALLS):
                start = time.thread_time()
                session.run(None, {"x": x[:1]})
                least[name] = min(least[name], time.thread_time() - start)
    found = {name: seconds * 1e6 for name, seconds in least.items()}
    return {"size": size, "channels": channels, "expanded": shape[2], "activation": activation, "us": found}


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"{'block':24} {'fp32 us':>8} {'int8 us':>8} {'edgefold':>8} {'to fp32':>8} {'to int8':>8}"
    for activation in ACTIVATIONS:
        ratios = []
        for row in (row for row in rows if row["activation"] == activation):
            us = row["us"]
            ratios.append((us["fp32"] / us["edgefold"], us["int8"] / us["edgefold"]))
            name = f"{row['size']}x{row['size']} {row['channels']}-{row['expanded']} {activation}"
            times = " ".join(f"{us[one]:8.0f}" for one in ("fp32", "int8", "edgefold"))
            yield f"{name:24} {times} {ratios[-1][0]:7.2f}x {ratios[-1][1]:7.2f}x"
        mean = np.exp(np.log(ratios).mean(axis=0))
        yield f"{activation + ', geometric mean':51} {mean[0]:7.2f}x {mean[1]:7.2f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=150)
    given = parser.parse_args()
    rows = [measure(shape, activation, given.rounds) for activation in ACTIVATIONS for shape in SHAPES]
    print("\n".join(lines(rows)))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
