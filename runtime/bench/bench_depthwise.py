# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions from codes to codes: FusedConvBlock against ONNX Runtime's QLinearConv, one thread.

    python runtime/bench/bench_depthwise.py [--json FILE] [--seconds 1] [--only 5x5]

One-node models through `session.run`, both channel-last: QLinearConv in the form into which ONNX Runtime's own
transformer brings it inside a model, so that nothing is transposed. Codes are unsigned, as after a ReLU, weights have 8
bits and a scale a channel; both sides compute the same numbers, which is checked to a code before they are timed. Calls
take turns; least processor time of the calling thread. The ratio is QLinearConv's time over FusedConvBlock's: above 1,
EdgeFold is faster. The floor is the longer of the operations at the speed of the 8-bit multiplication alone, of which
a window of 3x3 can fill nine of twelve places, and the codes in and out at the speed at which the nearest memory that
holds them is read, both measured at the start of this run.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from bench_matmul import shift_table
from graph_session import open_graph
from onnx import NodeProto, TensorProto, helper, numpy_helper
from setting import Setting, this_setting
from taking_turns import taking_turns

from edgefold.passes.quantization.packing import pack_codes

PEER, OURS = "QLinearConv", "FusedConvBlock"
X_SCALE, Y_SCALE = 0.02, 0.03


@dataclass(frozen=True)
class Layer:
    """Of a square image [size, size, channels], padded so that stride 1 keeps its size."""

    model: str
    size: int
    channels: int
    kernel: int = 3
    stride: int = 1

    @property
    def out(self) -> int:
        return (self.size - 1) // self.stride + 1

    @property
    def operations(self) -> int:
        return 2 * self.out**2 * self.channels * self.kernel**2

    @property
    def bytes(self) -> int:
        return (self.size**2 + self.out**2) * self.channels

    def __str__(self) -> str:
        return f"{self.size}x{self.size}x{self.channels}, {self.kernel}x{self.kernel} stride {self.stride}"


SUITE = (
    Layer("the goal's", 56, 192),
    Layer("mobilenetv2", 112, 32),
    Layer("mobilenetv2", 112, 96, stride=2),
    Layer("mobilenetv2", 56, 144),
    Layer("mobilenetv2", 56, 144, stride=2),
    Layer("mobilenetv2", 28, 192),
    Layer("mobilenetv2", 28, 192, stride=2),
    Layer("mobilenetv2", 14, 384),
    Layer("mobilenetv2", 14, 576, stride=2),
    Layer("mobilenetv2", 7, 960),
    Layer("mobilenetv1 vww", 24, 32),
    Layer("efficientnet-b0", 56, 144, 5, 2),
    Layer("efficientnet-b0", 28, 240, 5),
    Layer("efficientnet-b0", 14, 672, 5),
    Layer("efficientnet-b0", 14, 672, 5, 2),
    Layer("convnext-t", 56, 96, 7),
    Layer("convnext-t", 14, 384, 7),
)


def session(node: NodeProto, tensors: dict[str, np.ndarray], layer: Layer) -> ort.InferenceSession:
    """A model of this node from x to y, codes [1, H, W, C]."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, size, size, layer.channels])
        for name, size in (("x", layer.size), ("y", layer.out))
    )
    weights = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return open_graph(helper.make_graph([node], "bench", [x], [y], weights), 1)


def geometry(layer: Layer) -> dict[str, Any]:
    window, pad = [layer.kernel] * 2, [layer.kernel // 2] * 4
    return {"kernel_shape": window, "pads": pad, "strides": [layer.stride] * 2, "group": layer.channels}


def theirs(layer: Layer, weight: np.ndarray, scales: np.ndarray) -> ort.InferenceSession:
    """weight: int8 [k * k, C]"""
    zero = np.array(0, np.uint8)
    tensors = {
        "x_scale": np.array(X_SCALE, np.float32),
        "x_zero": zero,
        "w": weight.T.reshape(layer.channels, 1, layer.kernel, layer.kernel),
        "w_scales": scales,
        "w_zeros": np.zeros(layer.channels, np.int8),
        "y_scale": np.array(Y_SCALE, np.float32),
        "y_zero": zero,
    }
    form = geometry(layer) | {"channels_last": 1}
    return session(
        helper.make_node(PEER, ["x", *tensors], ["y"], domain="com.microsoft", **form),
        {name: np.ascontiguousarray(array) for name, array in tensors.items()},
        layer,
    )


def ours(layer: Layer, weight: np.ndarray, scales: np.ndarray) -> ort.InferenceSession:
    """The same."""
    one = np.ones(1, np.float32)
    tensors = {
        "codes": pack_codes((weight.astype(np.int16) + 128).astype(np.uint8), 8),
        "selectors": np.zeros((1, 1, 8), np.uint8),
        "table": shift_table(8),
        "scales": scales,
        "bias": np.zeros(layer.channels, np.float32),
        "x_scale": one * np.float32(X_SCALE),
        "x_shifts": np.zeros(1, np.uint8),
        "residual": np.zeros((1, 1, 1, 1), np.uint8),
        "residual_scale": one,
        "y_scale": one * np.float32(Y_SCALE),
    }
    codes = {"x_codes": 1, "activation_low": 0, "activation_high": 255, "y_low": 0, "y_high": 255}
    kinds = {"y_dtype": TensorProto.UINT8, "residual_dtype": TensorProto.UINT8, "residual_at": 0}
    order = {"x_perm": [0, 3, 1, 2], "y_perm": [0, 2, 3, 1], "k": layer.kernel**2, "bits": 8, "dilations": [1, 1]}
    nothing = {"function": 0, "alpha": -math.inf, "beta": math.inf}
    form = geometry(layer) | codes | kinds | order | nothing
    return session(helper.make_node(OURS, ["x", *tensors], ["y"], domain="ai.edgefold", **form), tensors, layer)


def contenders(layer: Layer) -> dict[str, Callable[[], Any]]:
    """Name -> a call without arguments.

    Raises:
        RuntimeError: the two differ by more than a code.
    """
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (layer.kernel**2, layer.channels)).astype(np.int8)
    scales = rng.uniform(0.5, 1, layer.channels).astype(np.float32) / np.float32(100 * layer.kernel)
    x = rng.integers(0, 256, (1, layer.size, layer.size, layer.channels)).astype(np.uint8)
    sessions = {PEER: theirs(layer, weight, scales), OURS: ours(layer, weight, scales)}
    results = [one.run(None, {"x": x})[0].astype(int) for one in sessions.values()]
    if np.abs(results[0] - results[1]).max() > 1:
        raise RuntimeError(f"{layer}: the two do not compute the same convolution")
    return {name: partial(one.run, None, {"x": x}) for name, one in sessions.items()}


def bench(layer: Layer, seconds: float, setting: Setting) -> dict[str, Any]:
    times = taking_turns(contenders(layer), seconds, in_a_row=3, clock=time.thread_time_ns)
    least = {name: round(float(values.min()), 1) for name, values in times.items()}
    medians = {name: round(float(np.median(values)), 1) for name, values in times.items()}
    limit = setting.floor(layer.operations, layer.bytes)
    row = asdict(layer) | {"layer": str(layer), "min_us": least, "median_us": medians}
    row |= {"gops": round(1e-3 * layer.operations / least[OURS], 1), "ratio": round(least[PEER] / least[OURS], 2)}
    return row | {"of_floor": {name: round(limit.us / us, 3) for name, us in least.items()}, "bound": limit.bound}


def line(row: dict[str, Any]) -> str:
    figures = f"{row['min_us'][PEER]:>15}{row['min_us'][OURS]:>18}{row['ratio']:>8.2f}x{row['gops']:>8}"
    floors = f"{row['of_floor'][PEER]:>15.0%}{row['of_floor'][OURS]:>9.0%}"
    return f"{row['model']:<17}{row['layer']:<26}{figures}{floors}  {row['bound']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="per layer")
    parser.add_argument("--only", default="", help="layers whose name holds this")
    options = parser.parse_args()
    setting = this_setting("conv_depthwise")
    print(f"1 thread; {setting.to_text()}")
    head = f"{PEER + ' us':>15}{OURS + ' us':>18}{'ratio':>9}{'GOP/s':>8}"
    print(f"{'model':<17}{'layer':<26}{head}{'of floor:':>12}ORT{'ours':>9}  bound")
    rows = []
    for layer in (layer for layer in SUITE if options.only in str(layer)):
        rows.append(bench(layer, options.seconds, setting))
        print(line(rows[-1]), flush=True)
    setting.write(options.json, rows, threads=1, seconds=options.seconds)


if __name__ == "__main__":
    main()
