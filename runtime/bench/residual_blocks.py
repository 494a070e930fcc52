# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks as models of their own, with and without squeeze and excitation, in every form to time."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_session import open_model
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from setting import Setting

from edgefold.compression import compress

SAMPLES = 8
CALLS = 3  # of a turn
TASK = """data: samples.npz
inputs: {x: {array: x}}
metric: {name: cosine, reference: model.onnx}
calibration: {data: samples.npz, samples: 8}
batch: 1
"""


@dataclass(frozen=True)
class Block:
    """1x1, depthwise and 1x1 convolution, the activation after the first two, the input added to the result.

    Attributes:
        size: rows and columns of the image.
        channels, expanded: of the image, and between the convolutions.
        kernel: rows and columns of the depthwise convolution's window.
        squeeze: channels between the two layers of the excitation, behind the depthwise convolution; 0: it has none.
    """

    size: int
    channels: int
    expanded: int
    activation: str
    kernel: int = 3
    squeeze: int = 0

    @property
    def operations(self) -> int:
        """Of its convolutions, two a multiply-add; the excitation's layers see one pixel."""
        pixel = 2 * self.channels * self.expanded + self.kernel**2 * self.expanded
        return 2 * (self.size**2 * pixel + 2 * self.expanded * self.squeeze)

    def __str__(self) -> str:
        return f"{self.size}x{self.size} {self.channels}-{self.expanded} {self.kernel}x{self.kernel}, {self.activation}"


class BlockGraph:
    """Nodes and weights of a block as they come."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], y: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [y], y, **attributes))
        return y

    def convolve(
        self, x: str, y: str, inputs: int, outputs: int, kernel: int = 1, group: int = 1, stride: int = 1
    ) -> str:
        shape = (outputs, inputs // group, kernel, kernel)
        w = self.rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        for name, values in ((f"{y}.w", w), (f"{y}.b", self.rng.normal(size=outputs) * 0.1)):
            self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        pads = [kernel // 2 if stride == 1 else 0] * 4  # a stride is the window's size: patches
        return self.add("Conv", [x, f"{y}.w", f"{y}.b"], y, pads=pads, group=group, strides=[stride] * 2)

    def activate(self, x: str, activation: str) -> str:
        if activation == "SiLU":
            return self.add("Mul", [x, self.add("Sigmoid", [x], f"{x}.gate")], f"{x}.active")
        return self.add(activation, [x], f"{x}.active")

    def excite(self, x: str, block: Block) -> str:
        mean = self.add("GlobalAveragePool", [x], "mean")
        small = self.add("Relu", [self.convolve(mean, "squeezed", block.expanded, block.squeeze)], "squeezed.active")
        wide = self.convolve(small, "excited", block.squeeze, block.expanded)
        gate = "Sigmoid" if block.activation == "SiLU" else "HardSigmoid"
        return self.add("Mul", [x, self.add(gate, [wide], "gate")], "gated")


def float_model(block: Block) -> onnx.ModelProto:
    """The block with random weights, float32 at both ends."""
    made = BlockGraph(np.random.default_rng(0))
    wide = made.activate(made.convolve("x", "wide", block.channels, block.expanded), block.activation)
    filtered = made.convolve(wide, "filtered", block.expanded, block.expanded, block.kernel, block.expanded)
    active = made.activate(filtered, block.activation)
    if block.squeeze:
        active = made.excite(active, block)
    made.add("Add", ["x", made.convolve(active, "narrow", block.expanded, block.channels)], "y")
    shape = [1, block.channels, block.size, block.size]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(made.nodes, "block", [x], [y], made.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class Samples(CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self._left = iter(x)

    def get_next(self) -> dict[str, np.ndarray] | None:
        x = next(self._left, None)
        return None if x is None else {"x": x[None]}


def contenders(block: Block, x: np.ndarray) -> dict[str, onnx.ModelProto]:
    """The same block in every form: ONNX Runtime's float32 and static QDQ int8, and EdgeFold's recipe ``fused``."""
    model = float_model(block)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, task, prepared, int8 = (folder / one for one in ("model.onnx", "task.yaml", "plain.onnx", "int8.onnx"))
        onnx.save(model, source)
        np.savez(folder / "samples.npz", x=x)
        task.write_text(TASK)
        quant_pre_process(str(source), str(prepared))
        quantize_static(prepared, int8, Samples(x), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
        compress(source, folder / "fused", "fused", task, seed=0)
        return {"fp32": model, "int8": onnx.load(int8), "edgefold": onnx.load(folder / "fused" / "model.onnx")}


def measure(block: Block, rounds: int, setting: Setting) -> tuple[dict[str, Any], dict[str, onnx.ModelProto]]:
    """Least processor microseconds of the calling thread, three calls of a form in turns, and what was timed."""
    x = np.random.default_rng(0).normal(size=(SAMPLES, block.channels, block.size, block.size)).astype(np.float32)
    models = contenders(block, x)
    sessions = {name: open_model(model, 1) for name, model in models.items()}
    least = dict.fromkeys(sessions, float("inf"))
    for _ in range(rounds):
        for name, session in sessions.items():
            for _ in range(CALLS):
                start = time.thread_time()
                session.run(None, {"x": x[:1]})
                least[name] = min(least[name], time.thread_time() - start)
    us = {name: seconds * 1e6 for name, seconds in least.items()}
    peaks = {name: setting.ceilings.operations("float" if name == "fp32" else "integer") for name in us}
    row = asdict(block) | {"us": us}
    row["of_peak"] = {name: block.operations / peaks[name] / least[name] for name in us}
    kinds = Counter(node.op_type for node in models["edgefold"].graph.node)
    return row | {"nodes": dict(kinds)}, models


def ratios(rows: list[dict[str, Any]]) -> np.ndarray:
    """How many times as fast as fp32 and int8 EdgeFold is, a row each."""
    return np.array([[row["us"][name] / row["us"]["edgefold"] for name in ("fp32", "int8")] for row in rows])
