# SPDX-License-Identifier: Apache-2.0
"""Models of one fused convolution node with its function, to run in stock ONNX Runtime and in the library's kernels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from oracle import NO_SHIFTS, Weights, random_weights

from edgefold.ops import function_protos
from edgefold.runtime import ops_library

DOMAIN = "ai.edgefold"
TYPES = {
    "float": (0, 0, TensorProto.FLOAT),
    "float last": (0, 0, TensorProto.FLOAT),
    "u8": (0, 255, TensorProto.UINT8),
    "s8": (-127, 127, TensorProto.INT8),
    "u4": (0, 15, TensorProto.UINT8),  # two a byte
    "s4": (-8, 7, TensorProto.INT8),
}
FIRST, LAST, BACK = [0, 1, 2, 3], [0, 3, 1, 2], [0, 2, 3, 1]
NOTHING = {"function": 0, "alpha": -math.inf, "beta": math.inf}


@dataclasses.dataclass(frozen=True)
class Block:
    """A random FusedConvBlock: sizes, and what it reads and gives: codes "u8" or "s8", "float", or "float last"."""

    channels: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    size: tuple[int, int] = (7, 9)
    bits: int = 8

    @property
    def k(self) -> int:
        return self.channels[0] // self.group * self.kernel[0] * self.kernel[1]

    def out(self, axis: int) -> int:
        reach = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        return (self.size[axis] + self.pads[axis] + self.pads[axis + 2] - reach) // self.strides[axis] + 1

    def geometry(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "group": self.group,
        }


def image(rng: np.random.Generator, kind: str, channels: int, size: tuple[int, int], batch: int = 2) -> np.ndarray:
    """Codes, or floats that reach beyond the codes' range of scale 1 / 64; only "float" lies channel-first."""
    low, high, _ = TYPES[kind]
    if kind == "float":
        return rng.uniform(-3, 5, (batch, channels, *size)).astype(np.float32)
    if kind == "float last":
        return rng.uniform(-3, 5, (batch, *size, channels)).astype(np.float32)
    codes = rng.integers(low, high + 1, (batch, *size, channels)).astype(np.uint8 if low == 0 else np.int8)
    return packed_pairs(codes) if kind.endswith("4") else codes


def packed_pairs(codes: np.ndarray) -> np.ndarray:
    """Codes of four bits two a byte; of an odd number of channels the last one is left out."""
    pairs = codes[..., : codes.shape[-1] // 2 * 2].astype(np.uint8) % 16
    return (pairs[..., ::2] + 16 * pairs[..., 1::2]).astype(np.uint8).view(codes.dtype)


def weights_and_scale(rng: np.random.Generator, k: int, n: int, bits: int) -> tuple[Weights, np.ndarray]:
    """Weights whose products have a magnitude of about 1 for codes of scale 1 / 64, and a bias."""
    weights = random_weights(rng, k, n, bits, "rtn" if bits == 8 else "lut")
    weights.scales = (weights.scales / (60 * math.sqrt(k))).astype(np.float32)
    return weights, rng.standard_normal(n).astype(np.float32)


def conv_block(
    block: Block,
    x: str,
    y: str,
    residual: str | None = None,
    place: int = 0,
    shifts: np.ndarray = NO_SHIFTS,
    y_scale: float = 1.37 / 64,
    **more: Any,
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A serialized model of one FusedConvBlock and inputs for it."""
    rng = np.random.default_rng(0)
    weights, bias = weights_and_scale(rng, block.k, block.channels[1], block.bits)
    scale = np.array([1 / 64], np.float32)
    feeds = {"x": image(rng, x, block.channels[0], block.size)}
    constants = {
        **packed(weights),
        "bias": bias,
        "x_scale": scale,
        "x_shifts": shifts,
        "residual_scale": scale * 3,
        "y_scale": np.array([y_scale], np.float32),
    }
    if residual is None:
        constants["residual"] = np.zeros((1, 1, 1, 1), np.uint8)
    else:
        feeds["residual"] = image(rng, residual, block.channels[1], (block.out(0), block.out(1)))
    # A float image becomes signed codes.
    low, high, _ = TYPES["s8" if x.startswith("float") else x]
    attributes = {
        **block.geometry(),
        **NOTHING,
        "k": block.k,
        "bits": block.bits,
        "activation_low": low,
        "activation_high": high,
        "x_codes": int(not x.startswith("float")),
        "x_perm": FIRST if x == "float" else LAST,
        "residual_at": place,
        "residual_dtype": TYPES[residual or "u8"][2],
        "y_low": TYPES[y][0],
        "y_high": TYPES[y][1],
        "y_dtype": TYPES[y][2],
        "y_perm": FIRST if y == "float" else BACK,
        "x_packed": int(x.endswith("4")),
        "residual_packed": int((residual or "").endswith("4")),
        "y_packed": int(y.endswith("4")),
        "layout": 1,
    }
    names = ["x", "codes", "selectors", "table", "scales", "bias", "x_scale", "x_shifts"]
    names += ["residual", "residual_scale", "y_scale"]
    return model("FusedConvBlock", names, feeds, constants, TYPES[y][2], {**attributes, **more}), feeds


def packed(weights: Weights, prefix: str = "") -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": getattr(weights, name) for name in ("codes", "selectors", "table", "scales")}


def model(
    op: str,
    names: list[str],
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    y_type: int,
    attributes: dict[str, Any],
) -> bytes:
    node = helper.make_node(op, names, ["y"], name="node", domain=DOMAIN, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * 4)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(
        [node],
        "one",
        inputs,
        [helper.make_tensor_value_info("y", y_type, [None] * 4)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    functions = function_protos(21, [op])
    proto = helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)
    return bytes(proto.SerializeToString())


def run(proto: bytes, feeds: dict[str, np.ndarray], *, library: bool, threads: int = 1) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not library:
        # The function as it is written: the optimizer would fold scales into the weights.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        options.register_custom_ops_library(str(ops_library()))
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])
