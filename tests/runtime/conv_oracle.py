# SPDX-License-Identifier: Apache-2.0
"""ShiftConv in numpy, kernel position by kernel position, and one-node models of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from oracle import NO_SHIFTS, Weights

DOMAIN = "ai.edgefold"


@dataclass(frozen=True)
class Geometry:
    """Attributes of a convolution; empty lists mean 1 (strides, dilations) or 0 (pads) everywhere."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def k(self) -> int:
        return math.prod(self.kernel) * self.in_channels // self.group

    def attributes(self) -> dict[str, object]:
        rank = len(self.kernel)
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides or [1] * rank),
            "pads": list(self.pads or [0] * (2 * rank)),
            "dilations": list(self.dilations or [1] * rank),
            "group": self.group,
        } | self.extra


def convolve(x: np.ndarray, integers: np.ndarray, g: Geometry) -> np.ndarray:
    """Sums [batch, out_channels, spatial] of x [batch, in_channels, spatial], in x's own type."""
    a = g.attributes()
    rank = len(g.kernel)
    pads = [(0, 0), (0, 0), *zip(a["pads"][:rank], a["pads"][rank:], strict=True)]
    padded = np.pad(x, pads)
    reach = [d * (k - 1) + 1 for d, k in zip(a["dilations"], g.kernel, strict=True)]
    out = [(p - r) // s + 1 for p, r, s in zip(padded.shape[2:], reach, a["strides"], strict=True)]
    inputs, outputs = g.in_channels // g.group, g.out_channels // g.group
    weights = integers.astype(x.dtype).reshape(-1, inputs, g.group, outputs)
    y = np.zeros((len(x), g.group, outputs, *out), x.dtype)
    for tap, position in enumerate(np.ndindex(*g.kernel)):
        steps = zip(position, a["dilations"], a["strides"], out, strict=True)
        window = tuple(slice(p * d, p * d + s * (o - 1) + 1, s) for p, d, s, o in steps)
        seen = padded[(slice(None), slice(None), *window)].reshape(len(x), g.group, inputs, math.prod(out))
        y += np.einsum("bgip,igo->bgop", seen, weights[tap]).reshape(y.shape)
    return y.reshape(len(x), g.out_channels, *out)


def shift_conv(
    x: np.ndarray,
    weights: Weights,
    bias: np.ndarray,
    x_scale: float,
    low: int,
    high: int,
    g: Geometry,
    shifts: np.ndarray = NO_SHIFTS,
) -> np.ndarray:
    """What ShiftConv computes, bit for bit where activations are quantized; else in float64."""
    column = (-1, *[1] * len(g.kernel))
    scales, bias = weights.scales.reshape(column), bias.reshape(column)
    if high == 0:
        return (convolve(x.astype(np.float64), weights.integers, g) * scales + bias).astype(np.float32)
    scale = np.float32(x_scale)
    shifts = shifts.reshape(column)
    codes = np.clip(np.rint(x / (scale * np.float32(2) ** shifts)), low, high).astype(np.int32) << shifts
    return convolve(codes, weights.integers, g).astype(np.float32) * (scale * scales) + bias


def model(
    weights: Weights,
    bias: np.ndarray,
    x_scale: float,
    low: int,
    high: int,
    g: Geometry,
    shifts: np.ndarray = NO_SHIFTS,
    **changes: object,
) -> bytes:
    """A model of one ShiftConv with no function body: only the library can run it."""
    tensors = {name: getattr(weights, name) for name in ("codes", "selectors", "table", "scales")}
    tensors |= {"bias": bias, "x_scale": np.array([x_scale], np.float32), "x_shifts": shifts}
    attributes = g.attributes() | {
        "k": weights.k,
        "bits": weights.bits,
        "activation_low": low,
        "activation_high": high,
        "layout": 1,
    }
    node = helper.make_node("ShiftConv", ["x", *tensors], ["y"], domain=DOMAIN, **(attributes | changes))
    free = [f"d{i}" for i in range(len(g.kernel) + 2)]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, free)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
