# SPDX-License-Identifier: Apache-2.0
"""A working node of every operator, and what it is fed, for the fuzz of their boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import moe_oracle
import numpy as np
import one_node
import onnx
import test_channel_gate
import test_code_lookup
from conv_oracle import Geometry
from conv_oracle import model as shift_conv
from fused_conv import Block, conv_block, image
from oracle import random_weights
from test_cached_attention import model as cached_attention
from test_cached_attention import quantize_rows, random_cache
from test_feed_forward import RELU
from test_feed_forward import Block as FeedForwardBlock
from test_fused_inverted_residual import inverted_residual
from test_fused_linear import Layer
from test_l1_layer_normalization import model as l1_norm
from test_shift_attention import model as attention
from test_shift_multi_head_attention import model as multi_head_attention

Node = tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]  # and what it is fed


def matmul(rng: np.random.Generator) -> Node:
    weights = random_weights(rng, 40, 24, int(rng.integers(2, 9)), "rtn")
    bias = np.zeros(24, np.float32)
    made = one_node.matmul(weights, bias, float(rng.choice([0.0, 0.1])), -127, 127)
    return _parsed(made), {"x": rng.standard_normal((5, 40)).astype(np.float32)}


def gather(rng: np.random.Generator) -> Node:
    made = one_node.gather(random_weights(rng, 40, 24, 4))
    return _parsed(made), {"x": rng.integers(0, 24, (3, 4))}


def feed_forward(rng: np.random.Generator) -> Node:
    made = FeedForwardBlock(32, 64, 16).model()
    return made, {"x": rng.standard_normal((5, 32)).astype(np.float32)}


def linear(rng: np.random.Generator) -> Node:
    residual = rng.standard_normal((5, 16)).astype(np.float32) if rng.integers(2) else None
    return Layer(32, 16, RELU).model(residual), {"x": rng.standard_normal((5, 32)).astype(np.float32)}


def experts(rng: np.random.Generator) -> Node:
    made = moe_oracle.model(moe_oracle.random_layer(rng, (3, 32, 24), gated=bool(rng.integers(2))))
    x = rng.standard_normal((6, 32)).astype(np.float32)
    return made, {"x": x, "gates": moe_oracle.random_gates(rng, 6, 3, 2)}


def attended(rng: np.random.Generator) -> Node:
    shapes = {"q": (1, 2, 5, 8), "k": (1, 2, 7, 8), "v": (1, 2, 7, 6), "mask": (1, 1, 5, 7)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return _parsed(attention(list(feeds.values()), functions=False, causal=int(rng.integers(2)))), feeds


def attended_side_by_side(rng: np.random.Generator) -> Node:
    shapes = {"q": (1, 5, 16), "k": (1, 7, 8), "v": (1, 7, 6), "mask": (1, 1, 5, 7)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    causal = int(rng.integers(2))
    return _parsed(multi_head_attention(list(feeds.values()), 2, 1, functions=False, causal=causal)), feeds


def quantized(rng: np.random.Generator) -> Node:
    return _parsed(quantize_rows(functions=False)), {"x": rng.standard_normal((2, 3, 40)).astype(np.float32)}


def cached(rng: np.random.Generator) -> Node:
    feeds = random_cache(rng, (1, 4, 2), (int(rng.integers(1, 6)), 7), (8, 6))
    return _parsed(cached_attention(feeds, functions=False, causal=int(rng.integers(2)))), feeds


def normalized(rng: np.random.Generator) -> Node:
    x = rng.standard_normal((4, 33)).astype(np.float32)
    scale = rng.standard_normal((2, 33)).astype(np.float32)
    high = int(rng.choice([0, 127]))
    form = {"epsilon": 1e-5, "centred": 1, "activation_high": high}
    return l1_norm(x, scale[0], scale[1], np.zeros(1, np.uint8), **form), {"x": x}


def conv(rng: np.random.Generator) -> Node:
    group = int(rng.choice([1, 8]))
    g = Geometry(8, 8, (3, 3), (6, 7), pads=(1, 1, 1, 1), group=group)
    made = shift_conv(random_weights(rng, g.k, 8, 4), np.zeros(8, np.float32), 0.1, 0, 255, g)
    return _parsed(made), {"x": rng.standard_normal((2, 8, 6, 7)).astype(np.float32)}


def block(rng: np.random.Generator) -> Node:
    form = Block((16, 16), (3, 3), pads=(1, 1, 1, 1), group=int(rng.choice([1, 2, 16])))
    x, y, residual = (str(rng.choice(["float", "float last", "u8", "s8", "u4", "s4"])) for _ in range(3))
    adds = not residual.startswith("float")
    made, feeds = conv_block(form, x, y, residual if adds else None, int(adds))
    return _parsed(made), feeds


def residual_block(rng: np.random.Generator) -> Node:
    x, y = (str(rng.choice(["float", "u8", "u4"])) for _ in range(2))
    made, feeds = inverted_residual(x, y, residual=bool(rng.integers(2)))
    return _parsed(made), feeds


def means(rng: np.random.Generator) -> Node:
    made, feeds = test_channel_gate.mean(image(rng, str(rng.choice(["u8", "s8"])), 70, (3, 5)))
    return _parsed(made), feeds


def gated(rng: np.random.Generator) -> Node:
    x, y = (str(rng.choice(["u8", "s8"])) for _ in range(2))
    factors = rng.uniform(0, 1, (2, 20, 1, 1)).astype(np.float32)
    made, feeds = test_channel_gate.gate(image(rng, x, 20, (3, 5)), factors, y)
    return _parsed(made), feeds


def looked_up(rng: np.random.Generator) -> Node:
    made, feeds = test_code_lookup.lookup(rng, (2, 3, 5, 7), str(rng.choice(["u8", "s8"])))
    return _parsed(made), {"x": feeds["x"]}


def _parsed(made: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(made)


NODES: Mapping[str, Callable[[np.random.Generator], Node]] = {
    "ShiftMatMul": matmul,
    "ShiftGather": gather,
    "FusedLinear": linear,
    "FusedFeedForward": feed_forward,
    "ShiftMoE": experts,
    "ShiftAttention": attended,
    "ShiftMultiHeadAttention": attended_side_by_side,
    "QuantizeRows": quantized,
    "CachedAttention": cached,
    "L1LayerNormalization": normalized,
    "ShiftConv": conv,
    "FusedConvBlock": block,
    "FusedInvertedResidual": residual_block,
    "CodeMean": means,
    "CodeGate": gated,
    "CodeLookup": looked_up,
}
"""Operator -> a working node of it."""
