# SPDX-License-Identifier: Apache-2.0
"""A layer in dispatch form as one node QMoE of ONNX Runtime: 4-bit weights in blocks of 32 with a float scale each.

The operator is told the gates as `router_weights`, so that it computes no softmax of its own, and may choose all
experts: it skips those whose weight is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.base import SkipReason
from edgefold.passes.experts.activation import name_of
from edgefold.passes.experts.dispatch import Expert, Product
from edgefold.passes.experts.dispatched import DispatchedLayer
from edgefold.passes.experts.packed import CannotFuseError

Array = npt.NDArray[Any]
BITS = 4
BLOCK = 32
_ZERO = 8  # the code of 0
_SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1}
_ACTIVATIONS: dict[tuple[str, bool], dict[str, Any]] = {
    ("silu", True): _SWIGLU | {"activation_alpha": 1.0, "activation_beta": 0.0},
    ("swiglu-clamped", True): _SWIGLU | {"activation_alpha": 1.702, "activation_beta": 1.0, "swiglu_limit": 7.0},
    ("relu", False): {"activation_type": "relu"},
    ("silu", False): {"activation_type": "silu"},
    ("identity", False): {"activation_type": "identity"},
}
Version = tuple[int, int, int]
# Of ONNX Runtime's CPU provider, found by running the operator of each version against numpy.
_OLDEST: Version = (1, 26, 0)  # the first that takes router_weights
_HANGS: Version = (1, 27, 0)  # can wait for ever with more than one thread
_QUANTIZES_ROWS: Version = (1, 31, 0)  # takes accuracy_level, which 1.28 refuses


def version_of(text: str) -> Version:
    """The numbers of a version such as "1.28" or "1.28.1".

    Raises:
        ValueError: it is none.
    """
    numbers = [int(part) for part in text.split(".")]
    if not 2 <= len(numbers) <= 3:
        raise ValueError(text)
    return numbers[0], numbers[1], numbers[2] if len(numbers) == 3 else 0


def why_not(version: Version) -> str:
    """Why this version of ONNX Runtime must not be given a QMoE node; empty where it may."""
    if version < _OLDEST:
        return "QMoE takes the gates from 1.26 on; before, it computes a softmax of its own"
    if version == _HANGS:
        return "QMoE of 1.27.0 can wait for ever with more than one thread"
    return ""


def qmoe(graph: ir.Graph, layer: DispatchedLayer, gates: ir.Value, version: Version) -> list[ir.Node]:
    """The nodes that compute a layer, the QMoE last; its weights are added to the graph.

    Args:
        graph: that the layer is in.
        layer: with float experts; not changed.
        gates: [T, M], a column for each of the layer's experts, in their order.
        version: the oldest that will run the model; from 1.31 on the rows are quantized to 8 bits too.

    Raises:
        CannotFuseError: packed weights, an activation that the operator lacks, depths that no blocks of 32 divide.
    """
    name, gated = name_of(layer.activation), len(layer.experts[0].inputs) == 2
    if name is None or (name, gated) not in _ACTIVATIONS:
        raise CannotFuseError(SkipReason.ATTRIBUTE, "QMoE lacks the experts' activation function")
    if any(product.packed for expert in layer.experts for product in (*expert.inputs, expert.down)):
        raise CannotFuseError(SkipReason.ALREADY_QUANTIZED, "QMoE holds codes of its own: fuse before quantize")
    experts = [expert.value() for expert in layer.experts]
    weight = experts[0].inputs[0].weight
    depths = {*weight.shape}
    if any(depth % BLOCK or depth == BLOCK for depth in depths):
        raise CannotFuseError(SkipReason.RANK, f"widths {sorted(depths)}; QMoE takes two or more blocks of {BLOCK}")
    if weight.dtype != np.float32:
        raise CannotFuseError(SkipReason.DTYPE, "its weights are not float32")
    store = InitializerStore(graph)
    first = _stored(store, f"{layer.name}.fc1", [_interleaved(expert) for expert in experts])
    second = _stored(store, f"{layer.name}.fc2", [expert.down for expert in experts])
    router = ir.node("Abs", [gates], name=f"{layer.name}/router")
    inputs = [layer.x, router.outputs[0], *first, *second, *[None] * 6, gates]
    attributes = {"k": len(experts), "normalize_routing_weights": 0, "expert_weight_bits": BITS, "block_size": BLOCK}
    if version >= _QUANTIZES_ROWS:
        attributes["accuracy_level"] = 4
    attributes |= _ACTIVATIONS[name, gated]
    return [router, ir.node("QMoE", inputs, attributes, domain="com.microsoft", name=layer.name)]


def _interleaved(expert: Expert) -> Product:
    """The products that read tokens as one: column 2 j is of gate, column 2 j + 1 of up."""
    if len(expert.inputs) == 1:
        return expert.inputs[0]
    gate, up = expert.inputs
    weight = np.stack([gate.weight, up.weight], axis=2).reshape(len(gate.weight), -1)
    if gate.bias is None and up.bias is None:
        return Product(weight)
    biases = [np.zeros(one.weight.shape[1], np.float32) if one.bias is None else one.bias for one in (gate, up)]
    return Product(weight, np.stack(biases, axis=1).reshape(-1))


def _stored(store: InitializerStore, name: str, products: Sequence[Product]) -> list[ir.Value | None]:
    """Codes, scales and biases of all experts, as inputs of the operator."""
    quantized = [quantize_blocks(product.weight) for product in products]
    codes, scales = (np.stack(arrays) for arrays in zip(*quantized, strict=True))
    biases = [np.zeros(one.weight.shape[1], np.float32) if one.bias is None else one.bias for one in products]
    bias = store.add_own(f"{name}.bias", np.stack(biases)) if any(one.any() for one in biases) else None
    return [store.add_own(f"{name}.codes", codes), store.add_own(f"{name}.scales", scales), bias]


def quantize_blocks(weight: Array) -> tuple[Array, Array]:
    """Codes uint8 [N, K / 2] and scales float32 [N, K / 32] of a weight [K, N], rounded to nearest.

    The value of largest magnitude in a block becomes the code 0, which stands for -8 scales, so that the scale has its
    sign; an even k lies in the lower half of a byte.
    """
    columns = np.ascontiguousarray(weight.T, np.float32)
    blocks = columns.reshape(len(columns), -1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)
    scales = largest / -_ZERO
    divisor = np.where(scales == 0, 1, scales)
    codes = np.clip(np.rint(blocks / divisor) + _ZERO, 0, 2 * _ZERO - 1).astype(np.uint8)
    flat = codes.reshape(len(columns), -1)
    return flat[:, ::2] | flat[:, 1::2] << 4, scales[..., 0]
