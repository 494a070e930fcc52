# SPDX-License-Identifier: Apache-2.0
"""Convolutions of one dimension against ONNX Runtime's float32 and its static QDQ int8, one thread.

    python runtime/bench/bench_conv1d.py [--json FILE] [--seconds 3] [--only TCN]

Each network is a model of its own, float32 at both ends, with random weights. `separate` is EdgeFold without
``fuse-blocks``: tensors between convolutions are float. Contenders take turns, three calls each; least processor time
of the calling thread. Ratios above 1: EdgeFold is faster. The floor is the operations at the speed of the 8-bit
multiplication alone, of fp32 at that of float32, both measured at the start of this run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_session import open_model
from onnx import TensorProto, helper, numpy_helper
from setting import Setting, this_setting
from taking_turns import taking_turns

from edgefold.compression import compress
from edgefold.files.loading import load_model
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.measure import model_macs
from edgefold.scoring.task import load_task

SAMPLES = 8
TASK = """data: samples.npz
inputs: {x: {array: x}}
metric: {name: cosine, reference: model.onnx}
calibration: {data: samples.npz, samples: 8}
batch: 1
"""
QUANTIZE = "{pass: quantize, weights: 4, activations: 8, method: shift, first-last: 8}"
RECIPES = {
    "separate": f"steps: [{QUANTIZE}]\n",
    "edgefold": f"steps: [{QUANTIZE}, {{pass: fuse-blocks}}]\n",
}


class Network:
    """A chain of layers, built from the input on."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.end = "x"
        self._rng = np.random.default_rng(0)

    def convolve(
        self, inputs: int, outputs: int, kernel: int, *, group: int = 1, dilation: int = 1, stride: int = 1
    ) -> str:
        shape = (outputs, inputs // group, kernel)
        name = f"conv{len(self.nodes)}"
        w = self._rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        for part, values in (("w", w), ("b", self._rng.normal(size=outputs) * 0.1)):
            self.weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.{part}"))
        reach = (kernel - 1) * dilation
        attributes = {"pads": [reach // 2] * 2, "dilations": [dilation], "strides": [stride], "group": group}
        return self.add("Conv", f"{name}.w", f"{name}.b", name=name, **attributes)

    def add(self, op_type: str, *operands: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, [self.end, *operands], [name], name, **attributes))
        self.end = name
        return name

    def activate(self, activation: str) -> str:
        if activation != "SiLU":
            return self.add(activation)
        x = self.end
        self.add("Sigmoid")
        return self.add("Mul", x)

    def model(self, channels: int, length: int) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, length])
        y = helper.make_tensor_value_info(self.end, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "network", [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def dense() -> onnx.ModelProto:
    network = Network()
    for _ in range(4):
        network.convolve(64, 64, 3)
        network.add("Relu")
    return network.model(64, 1000)


def separable(activation: str) -> onnx.ModelProto:
    network = Network()
    for _ in range(3):
        network.convolve(128, 128, 9, group=128)
        network.activate(activation)
        network.convolve(128, 128, 1)
        network.activate(activation)
    return network.model(128, 1000)


def temporal() -> onnx.ModelProto:
    """Residual blocks of dilated convolutions (TCN, arXiv 1803.01271) on 40 features, and a classifier's pool."""
    network = Network()
    network.convolve(40, 128, 1)
    for block in range(4):
        start = network.end
        network.convolve(128, 128, 3, dilation=2**block)
        network.add("Relu")
        network.convolve(128, 128, 1)
        network.add("Add", start)
        network.add("Relu")
    network.convolve(128, 35, 1)
    network.add("GlobalAveragePool")
    return network.model(40, 200)


def waveform() -> onnx.ModelProto:
    """Strides, pools and rising channels on a second of samples, as networks on raw audio have them."""
    network = Network()
    network.convolve(1, 32, 40, stride=8)
    network.add("Relu")
    for channels in (32, 64):
        network.convolve(channels, 2 * channels, 3)
        network.add("Relu")
        network.add("MaxPool", kernel_shape=[4], strides=[4])
    network.convolve(128, 35, 1)
    network.add("GlobalAveragePool")
    return network.model(1, 16000)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "4 of 3 taps, 64 channels": dense,
    "3 of 9 taps depthwise and 1x1, 128 channels": partial(separable, "Relu"),
    "the same with SiLU": partial(separable, "SiLU"),
    "TCN, 4 residual blocks, 128 channels": temporal,
    "raw audio, strides and pools": waveform,
}


def contenders(folder: Path, model: onnx.ModelProto, x: np.ndarray) -> dict[str, onnx.ModelProto]:
    """The same network in every form."""
    source, task = folder / "model.onnx", folder / "task.yaml"
    onnx.save(model, source)
    np.savez(folder / "samples.npz", x=x)
    task.write_text(TASK)
    forms = {"fp32": model, "int8": onnx.load(build_baseline(source, "ort-int8", load_task(task), folder).path)}
    for name, text in RECIPES.items():
        recipe = folder / f"{name}.yaml"
        recipe.write_text(text)
        compress(source, folder / name, str(recipe), task, seed=0)
        forms[name] = onnx.load(folder / name / "model.onnx")
    return forms


def measure(name: str, seconds: float, setting: Setting) -> dict[str, Any]:
    model = NETWORKS[name]()
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(size=(SAMPLES, *shape[1:])).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {form: open_model(one, 1) for form, one in contenders(Path(folder), model, x).items()}
        macs = model_macs(load_model(Path(folder) / "model.onnx").model, {"x": shape})
    assert macs is not None
    calls = {form: lambda one=one: one.run(None, {"x": x[:1]}) for form, one in sessions.items()}
    times = taking_turns(calls, seconds, in_a_row=3, clock=time.thread_time_ns)
    us = {form: float(one.min()) for form, one in times.items()}
    peaks = {form: setting.ceilings.operations("float" if form == "fp32" else "integer") for form in us}
    of_floor = {form: 2e6 * macs / peaks[form] / one for form, one in us.items()}
    return {"network": name, "shape": shape, "macs": macs, "us": us, "of_floor": of_floor}


def lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    forms = ("fp32", "int8", *RECIPES)
    yield f"| network | {' | '.join(f'{form} us' for form in forms)} | to fp32 | to int8 | of floor: int8 | edgefold |"
    yield "|---" * (len(forms) + 5) + "|"
    for row in rows:
        us, floor = row["us"], row["of_floor"]
        times = " | ".join(f"{us[form]:.0f}" for form in forms)
        ratios = " | ".join(f"{us[form] / us['edgefold']:.2f}x" for form in ("fp32", "int8"))
        yield f"| {row['network']} | {times} | {ratios} | {floor['int8']:.0%} | {floor['edgefold']:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    given = parser.parse_args()
    setting = this_setting("gemm_windows")
    rows = [measure(name, given.seconds, setting) for name in NETWORKS if given.only in name]
    print(setting.to_text(), *lines(rows), sep="\n")
    setting.write(given.json, rows, seconds=given.seconds)


if __name__ == "__main__":
    main()
