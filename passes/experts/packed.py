# SPDX-License-Identifier: Apache-2.0
"""The experts of a layer in dispatch form as the stacked integer weights of one ``ShiftMoE`` node."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes.base import SkipReason
from edgefold.passes.experts.activation import name_of
from edgefold.passes.experts.dispatched import DispatchedExpert, DispatchedLayer, DispatchedProduct
from edgefold.passes.fusion.activations import ActivationKind
from edgefold.passes.quantization.packing import LAYOUT_VERSION

Array = npt.NDArray[Any]
DOMAIN = "ai.edgefold"
HIGH = 127
"""The largest code of an activation that `ShiftMoE` knows."""

_SILU = {"function": ActivationKind.SWISH, "alpha": 1.0, "beta": 0.0}
_PLAIN: dict[str, Any] = {"limit": math.inf, "up_offset": 0.0}
_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "identity": {"function": ActivationKind.CLIP, "alpha": -math.inf, "beta": math.inf} | _PLAIN,
    "relu": {"function": ActivationKind.CLIP, "alpha": 0.0, "beta": math.inf} | _PLAIN,
    "silu": _SILU | _PLAIN,
    "gelu": {"function": ActivationKind.GELU, "alpha": 0.0, "beta": 0.0} | _PLAIN,
    "gelu-tanh": {"function": ActivationKind.GELU_TANH, "alpha": 0.0, "beta": 0.0} | _PLAIN,
    "swiglu-clamped": _SILU | {"alpha": 1.702, "limit": 7.0, "up_offset": 1.0},
}


class CannotFuseError(Exception):
    """Why a layer stays as it is."""

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class _Packed:
    """One product of one expert, as its ShiftMatMul holds it: [K, N] at some width."""

    k: int
    n: int
    bits: int
    codes: Array
    selectors: Array
    table: Array
    scales: Array
    bias: Array

    @property
    def form(self) -> tuple[int, int]:
        return self.k, self.n


def shift_moe(graph: ir.Graph, layer: DispatchedLayer, gates: ir.Value) -> list[ir.Node]:
    """The ``ShiftMoE`` node that computes a layer; its stacked weights are added to the graph.

    Args:
        graph: that the layer is in.
        layer: not changed.
        gates: [T, M], a column for each of the layer's experts, in their order.

    Raises:
        CannotFuseError: products that are not quantized, or not alike, or an activation that the operator lacks.
    """
    name = name_of(layer.activation)
    if name not in _ACTIVATIONS:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "ShiftMoE lacks the experts' activation function")
    gated = len(layer.experts[0].inputs) == 2
    roles = ("gate", "up", "down") if gated else ("gate", "down")
    experts = [_packed_products(expert) for expert in layer.experts]
    stacks = {role: _alike(list(products)) for role, products in zip(roles, zip(*experts, strict=True), strict=True)}
    bits = {one.bits for products in stacks.values() for one in products}
    if len(bits) > 1:
        widths = ", ".join(map(str, sorted(bits)))
        raise CannotFuseError(SkipReason.ATTRIBUTE, f"its weights have {widths} bits; ShiftMoE holds one width")
    stored = {role: _store(InitializerStore(graph), f"{layer.name}.{role}", stacks[role]) for role in roles}
    inputs = [layer.x, gates, *stored["gate"], *stored.get("up", stored["gate"]), *stored["down"]]
    first = stacks["gate"][0]
    attributes = {"k": first.k, "hidden": first.n, "bits": first.bits, "gated": int(gated), "layout": LAYOUT_VERSION}
    return [ir.node("ShiftMoE", inputs, attributes | _ACTIVATIONS[name], domain=DOMAIN, name=layer.name)]


def _packed_products(expert: DispatchedExpert) -> list[_Packed]:
    return [_packed(one) for one in (*expert.inputs, expert.down)]


def _packed(product: DispatchedProduct) -> _Packed:
    node = product.nodes[0]
    if len(product.nodes) > 1:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "its matrices are products of two thin ones")
    if node.op_type != "ShiftMatMul":
        raise CannotFuseError(SkipReason.DTYPE, "its weights are floats: quantize comes first")
    if product.bias is not None:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "a bias is added outside of its ShiftMatMul")
    codes, selectors, table, scales, bias, x_scale, x_shifts = (small_constant(one) for one in node.inputs[1:])
    if codes is None or selectors is None or table is None or scales is None or bias is None:
        raise CannotFuseError(SkipReason.NOT_CONSTANT, "its weights are computed")
    attributes = node.attributes
    range_ = attributes.get_int("activation_low", 0), attributes.get_int("activation_high", 0)
    dynamic = x_scale is not None and not x_scale.any() and x_shifts is not None and not x_shifts.any()
    if range_ != (-HIGH, HIGH) or not dynamic:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "ShiftMoE takes dynamic 8-bit activations only")
    if "narrow_bits" in attributes:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "its weights have further widths for sessions to choose")
    k, bits = attributes.get_int("k", 0), attributes.get_int("bits", 0)
    return _Packed(k, len(scales), bits, codes, selectors, table, scales, bias)


def _alike(products: list[_Packed]) -> list[_Packed]:
    """The same product of all experts, with as many tables each."""
    if len({one.form for one in products}) > 1:
        raise CannotFuseError(SkipReason.RANK, "its experts have different widths")
    most = max(len(one.table) for one in products)
    return [_with_tables(one, most) for one in products]


def _with_tables(product: _Packed, count: int) -> _Packed:
    """The same product with further tables that nothing selects."""
    missing = count - len(product.table)
    if not missing:
        return product
    panels, units, _ = product.codes.shape
    table = np.concatenate([product.table, np.zeros((missing, product.table.shape[1]), np.int8)])
    single = len(product.table) == 1
    selectors = np.zeros((panels, -(-units // 8), 8), np.uint8) if single else product.selectors
    return dataclasses.replace(product, table=table, selectors=selectors)


def _store(store: InitializerStore, name: str, products: Sequence[_Packed]) -> list[ir.Value]:
    """The stacked tensors of a product, in the order of the operator's inputs."""
    biases = [one.bias for one in products]
    none = not any(bias.any() for bias in biases)
    bias = np.zeros((1, 1), np.float32) if none else np.stack([np.broadcast_to(one, products[0].n) for one in biases])
    return [
        store.add_own(f"{name}.codes", np.stack([one.codes for one in products])),
        store.add_own(f"{name}.selectors", np.stack([one.selectors for one in products])),
        store.add_own(f"{name}.table", np.stack([one.table for one in products])),
        store.add_own(f"{name}.scales", np.stack([one.scales for one in products])),
        store.add_own(f"{name}.bias", bias),
    ]
