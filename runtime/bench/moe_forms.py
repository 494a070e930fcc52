# SPDX-License-Identifier: Apache-2.0
"""One mixture-of-experts layer in every form that exporters and runtimes give it, as nodes over the same inputs.

Inputs of the graphs: tokens x [T, D]; gates [T, M], 0 where not routed; and for the forms that want them the chosen
experts [T, K] with their weights [T, K], or router logits [T, M] whose softmax over the chosen ones gives the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_matmul import lut_table, shift_table
from onnx import NodeProto, helper

Array = np.ndarray[Any, Any]
Form = tuple[list[NodeProto], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Size:
    """Widths of a token and of an expert, experts, and experts a token."""

    d: int
    f: int
    experts: int
    top: int


def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def float_weights(rng: np.random.Generator, size: Size) -> dict[str, Array]:
    """gate, up [M, D, F] and down [M, F, D]."""
    shapes = {"gate": (size.d, size.f), "up": (size.d, size.f), "down": (size.f, size.d)}
    return {
        name: rng.standard_normal((size.experts, *shape), np.float32) / np.float32(shape[0] ** 0.5)
        for name, shape in shapes.items()
    }


def swiglu(at: str) -> list[NodeProto]:
    """hidden = silu(gate) * up"""
    return [
        node("Sigmoid", [f"{at}gate_y"], f"{at}sigmoid"),
        node("Mul", [f"{at}gate_y", f"{at}sigmoid"], f"{at}silu"),
        node("Mul", [f"{at}silu", f"{at}up_y"], f"{at}hidden"),
    ]


def _loop(size: Size, product: Callable[[str, str, str], NodeProto], tensors: dict[str, Array]) -> Form:
    """An expert after the other on the tokens routed to it, as `dispatch-experts` writes it."""
    nodes = [node("Shape", ["x"], "size"), node("ConstantOfShape", ["size"], "sum0")]
    tensors |= {f"number{e}": np.array(e, np.int64) for e in range(size.experts)}
    tensors |= {"last": np.array([-1], np.int64), "one": np.array([1], np.int64)}
    for e in range(size.experts):
        at = f"e{e}."
        nodes += [
            node("Gather", ["gates", f"number{e}"], f"{at}column", axis=1),
            node("NonZero", [f"{at}column"], f"{at}found"),
            node("Reshape", [f"{at}found", "last"], f"{at}rows"),
            node("Gather", ["x", f"{at}rows"], f"{at}x", axis=0),
            product(f"{at}gate", f"{at}x", f"{at}gate_y"),
            product(f"{at}up", f"{at}x", f"{at}up_y"),
            *swiglu(at),
            product(f"{at}down", f"{at}hidden", f"{at}down_y"),
            node("Gather", [f"{at}column", f"{at}rows"], f"{at}weight", axis=0),
            node("Unsqueeze", [f"{at}weight", "one"], f"{at}weights"),
            node("Mul", [f"{at}down_y", f"{at}weights"], f"{at}share"),
            node("Unsqueeze", [f"{at}rows", "one"], f"{at}places"),
            node("ScatterND", [f"sum{e}", f"{at}places", f"{at}share"], f"sum{e + 1}", reduction="add"),
        ]
    nodes[-1].output[0] = "y"
    return nodes, tensors


def loop(rng: np.random.Generator, size: Size) -> Form:
    weights = float_weights(rng, size)
    tensors = {f"e{e}.{name}": array[e] for name, array in weights.items() for e in range(size.experts)}
    return _loop(size, lambda name, x, y: node("MatMul", [x, name], y), tensors)


def einsum(rng: np.random.Generator, size: Size) -> Form:
    """Every expert on all tokens."""
    nodes = [
        node("Einsum", ["x", "gate"], "gate_y", equation="td,mdf->tmf"),
        node("Einsum", ["x", "up"], "up_y", equation="td,mdf->tmf"),
        *swiglu(""),
        node("Einsum", ["hidden", "down", "gates"], "y", equation="tmf,mfd,tm->td"),
    ]
    return nodes, float_weights(rng, size)


def batched(rng: np.random.Generator, size: Size) -> Form:
    """Every expert on all tokens, as a batch of products."""
    nodes = [
        node("Unsqueeze", ["x", "first"], "each_x"),
        node("MatMul", ["each_x", "gate"], "gate_y"),
        node("MatMul", ["each_x", "up"], "up_y"),
        *swiglu(""),
        node("MatMul", ["hidden", "down"], "down_y"),
        node("Transpose", ["gates"], "by_expert", perm=[1, 0]),
        node("Unsqueeze", ["by_expert", "last"], "weights_of"),
        node("Mul", ["down_y", "weights_of"], "shares"),
        node("ReduceSum", ["shares", "first"], "y", keepdims=0),
    ]
    axes = {"first": np.array([0], np.int64), "last": np.array([2], np.int64)}
    return nodes, float_weights(rng, size) | axes


def gathered(rng: np.random.Generator, size: Size) -> Form:
    """The matrices of the chosen experts fetched for every token."""
    nodes = [
        node("Unsqueeze", ["x", "axes"], "rows"),
        node("Gather", ["gate", "chosen"], "gates_of", axis=0),
        node("Gather", ["up", "chosen"], "ups_of", axis=0),
        node("Gather", ["down", "chosen"], "downs_of", axis=0),
        node("MatMul", ["rows", "gates_of"], "gate_y"),
        node("MatMul", ["rows", "ups_of"], "up_y"),
        *swiglu(""),
        node("MatMul", ["hidden", "downs_of"], "down_y"),
        node("Unsqueeze", ["weights", "last"], "weights_of"),
        node("Mul", ["down_y", "weights_of"], "shares"),
        node("ReduceSum", ["shares", "axes"], "y", keepdims=0),
    ]
    axes = {"axes": np.array([1, 2], np.int64), "last": np.array([2, 3], np.int64)}
    return nodes, float_weights(rng, size) | axes


_SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}


def moe_float(rng: np.random.Generator, size: Size) -> Form:
    """ONNX Runtime's MoE."""
    weights = float_weights(rng, size)
    both = np.stack([weights["gate"], weights["up"]], axis=3).reshape(size.experts, size.d, -1)
    tensors = {"fc1": both.transpose(0, 2, 1), "fc2": weights["down"].transpose(0, 2, 1)}
    attributes = _SWIGLU | {"k": size.top, "normalize_routing_weights": 1}
    one = node("MoE", ["x", "logits", "fc1", "", "fc2"], "y", domain="com.microsoft", **attributes)
    return [one], {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def moe_int4(rng: np.random.Generator, size: Size) -> Form:
    """ONNX Runtime's QMoE: 4 bits in blocks of 32, rows quantized to 8 bits (accuracy_level 4)."""
    shapes = {"fc1": (size.experts, 2 * size.f, size.d), "fc2": (size.experts, size.d, size.f)}
    tensors = {name: rng.integers(0, 256, (m, n, k // 2)).astype(np.uint8) for name, (m, n, k) in shapes.items()}
    tensors |= {f"{name}_s": np.full((m, n, k // 32), 0.01, np.float32) for name, (m, n, k) in shapes.items()}
    attributes = _SWIGLU | {"k": size.top, "normalize_routing_weights": 1, "expert_weight_bits": 4, "block_size": 32}
    inputs = ["x", "logits", "fc1", "fc1_s", "", "fc2", "fc2_s"]
    return [node("QMoE", inputs, "y", domain="com.microsoft", accuracy_level=4, **attributes)], tensors


def _packed(rng: np.random.Generator, size: Size, name: str, table: Array, count: tuple[int, ...]) -> dict[str, Array]:
    """Random packed weights of a product, stacked where `count` says how many."""
    k, n = (size.f, size.d) if name.endswith("down") else (size.d, size.f)
    bits = table.shape[1].bit_length() - 1
    halves = rng.integers(0, len(table), (2, *count, n // 16, k // 32, 8)).astype(np.uint8)
    return {
        f"{name}_codes": rng.integers(0, 256, (*count, n // 16, k // 4, 8 * bits)).astype(np.uint8),
        f"{name}_selectors": halves[0] | halves[1] << 4,
        f"{name}_table": np.broadcast_to(table, (*count, *table.shape)).copy(),
        f"{name}_scales": np.full((*count, n), 1e-3, np.float32),
    }


def shift_loop(rng: np.random.Generator, size: Size) -> Form:
    """The layer after `dispatch-experts` and `quantize`."""
    tensors = {"zero": np.zeros(1, np.float32), "no_shift": np.zeros(1, np.uint8)}
    for e in range(size.experts):
        for role in ("gate", "up", "down"):
            tensors |= _packed(rng, size, f"e{e}.{role}", shift_table(4), ())

    def product(name: str, x: str, y: str) -> NodeProto:
        k = size.f if name.endswith("down") else size.d
        inputs = [x, *(f"{name}_{part}" for part in ("codes", "selectors", "table", "scales")), "zero", "zero"]
        range_ = {"activation_low": -127, "activation_high": 127}
        return node("ShiftMatMul", [*inputs, "no_shift"], y, domain="ai.edgefold", k=k, bits=4, **range_)

    return _loop(size, product, tensors)


def shift_moe(rng: np.random.Generator, size: Size, table: Array) -> Form:
    """The layer after `fuse-experts`."""
    tensors: dict[str, Array] = {}
    for role in ("gate", "up", "down"):
        tensors |= _packed(rng, size, role, table, (size.experts,)) | {f"{role}_bias": np.zeros((1, 1), np.float32)}
    attributes = {"k": size.d, "hidden": size.f, "bits": table.shape[1].bit_length() - 1, "gated": 1}
    silu = {"function": 4, "alpha": 1.0, "beta": 0.0, "limit": float("inf"), "up_offset": 0.0}
    inputs = ["x", "gates", *tensors]
    return [node("ShiftMoE", inputs, "y", domain="ai.edgefold", **attributes, **silu)], tensors


EXPORTED: dict[str, Callable[[np.random.Generator, Size], Form]] = {
    "loop": loop,
    "einsum": einsum,
    "batched": batched,
    "gathered": gathered,
}
RUNTIMES: dict[str, Callable[[np.random.Generator, Size], Form]] = {
    "MoE fp32": moe_float,
    "QMoE 4": moe_int4,
    "ShiftMatMul 4": shift_loop,
    "ShiftMoE shift 4": lambda rng, size: shift_moe(rng, size, shift_table(4)),
    "ShiftMoE shift-lut 4": lambda rng, size: shift_moe(rng, size, lut_table()),
}
