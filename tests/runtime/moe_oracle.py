# SPDX-License-Identifier: Apache-2.0
"""A layer of experts in numpy, made of the oracle's ShiftMatMul: what ShiftMoE is pinned to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from oracle import Weights, random_weights, shift_matmul

from edgefold.ops import DOMAIN, function_protos

TENSORS = ("codes", "selectors", "table", "scales")


@dataclasses.dataclass(frozen=True)
class Layer:
    """The products of every expert and what stands between them; no `up` where the layer is not gated."""

    gate: list[Weights]
    up: list[Weights]
    down: list[Weights]
    biases: dict[str, np.ndarray]  # gate, up, down: [experts, N] or [1, 1]
    attributes: dict[str, Any]

    @property
    def size(self) -> tuple[int, int, int]:
        """Experts, width of a token, hidden units."""
        return len(self.gate), self.gate[0].k, self.gate[0].n


RELU = {"function": 0, "alpha": 0.0, "beta": float("inf")}
SILU = {"function": 4, "alpha": 1.0, "beta": 0.0}
GELU = {"function": 6, "alpha": 0.0, "beta": 0.0}
PLAIN = {"limit": float("inf"), "up_offset": 0.0}
GPT_OSS = {"function": 4, "alpha": 1.702, "beta": 0.0, "limit": 7.0, "up_offset": 1.0}


def random_layer(
    rng: np.random.Generator,
    size: tuple[int, int, int],
    *,
    bits: int = 4,
    method: str = "shift",
    gated: bool = True,
    biased: bool = True,
    **attributes: Any,
) -> Layer:
    """Random experts whose hidden values are of the order of 1."""
    experts, k, hidden = size

    def products(k: int, n: int) -> list[Weights]:
        made = [random_weights(rng, k, n, bits, method) for _ in range(experts)]
        return [dataclasses.replace(one, scales=one.scales / np.float32(8 * k)) for one in made]

    widths = {"gate": hidden, "up": hidden, "down": k}
    biases = {
        name: rng.standard_normal((experts, n) if biased else (1, 1)).astype(np.float32) for name, n in widths.items()
    }
    fixed = {"k": k, "hidden": hidden, "bits": bits, "gated": int(gated), "layout": 1}
    up = products(k, hidden) if gated else []
    return Layer(products(k, hidden), up, products(hidden, k), biases, fixed | SILU | PLAIN | attributes)


def stacked(products: list[Weights], bias: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.stack([getattr(one, name) for one in products]) for name in TENSORS} | {"bias": bias}


def tensors(layer: Layer) -> dict[str, np.ndarray]:
    """The node's constant inputs, in order."""
    named = {"gate": layer.gate, "up": layer.up or layer.gate, "down": layer.down}
    return {
        f"{name}_{role}": array
        for name, products in named.items()
        for role, array in stacked(products, layer.biases[name if products is not layer.gate else "gate"]).items()
    }


def model(layer: Layer, *, rank: int = 2, body: bool = False, **replaced: np.ndarray) -> onnx.ModelProto:
    """One ShiftMoE node with graph inputs x and gates; with its function where `body`."""
    experts, k, _ = layer.size
    constants = tensors(layer) | replaced
    node = helper.make_node(
        "ShiftMoE", ["x", "gates", *constants], ["y"], name="node", domain=DOMAIN, **layer.attributes
    )
    shape = [*(f"d{i}" for i in range(rank - 1)), k]
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("gates", TensorProto.FLOAT, ["tokens", experts]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    functions = function_protos(21, ["ShiftMoE"]) if body else []
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def random_gates(rng: np.random.Generator, tokens: int, experts: int, top: int) -> np.ndarray:
    """[tokens, experts] with `top` gates a token; no token goes to expert 1."""
    gates = np.zeros((tokens, experts), np.float32)
    allowed = [e for e in range(experts) if e != 1]
    for row in gates:
        row[rng.choice(allowed, min(top, len(allowed)), replace=False)] = rng.uniform(0.1, 0.9)
    return gates


def shift_moe(layer: Layer, x: np.ndarray, gates: np.ndarray, activate: Any) -> np.ndarray:
    """What ShiftMoE computes, bit for bit with the activation that `activate` is."""
    y = np.zeros_like(x)
    limit, offset = np.float32(layer.attributes["limit"]), np.float32(layer.attributes["up_offset"])

    def product(name: str, products: list[Weights], e: int, rows: np.ndarray) -> np.ndarray:
        bias = layer.biases[name]
        return shift_matmul(rows, products[e], bias[e if len(bias) > 1 else 0], 0.0, -127, 127)

    for e in range(len(layer.gate)):
        rows = np.flatnonzero(gates[:, e])
        hidden = activate(np.minimum(product("gate", layer.gate, e, x[rows]), limit))
        if layer.up:
            hidden = hidden * (np.clip(product("up", layer.up, e, x[rows]), -limit, limit) + offset)
        y[rows] += product("down", layer.down, e, hidden) * gates[rows, e : e + 1]
    return y
