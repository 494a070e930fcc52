# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's own operators MoE and QMoE, whose meaning has changed between its versions: all of them are tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.experts.activation import Expression, clamped_swiglu, named
from edgefold.passes.experts.dispatch import Array, Expert, Product
from edgefold.passes.experts.recognition.bodies import sources_of
from edgefold.passes.experts.recognition.gates import TopScores
from edgefold.passes.experts.recognition.proposal import Proposal, Reading, with_tokens
from edgefold.passes.pruning.groups import Trace

OPERATORS = ("MoE", "QMoE")
_NO_LIMIT = 1e30

# Positions of (weights, scales, bias, zero points) of fc1, fc2 and fc3.
_PLACES = {
    "MoE": ((2, None, 3, None), (4, None, 5, None), (6, None, 7, None)),
    "QMoE": ((2, 3, 4, 11), (5, 6, 7, 12), (8, 9, 10, 13)),
}
_ROUTER_WEIGHTS = 14


class _UnreadError(Exception):
    """The node has a form that is not read; says which."""


def propose(graph: ir.Graph, trace: Trace) -> list[Proposal | Skip]:
    """The MoE and QMoE nodes of a graph."""
    nodes = [node for node in graph if node.domain == "com.microsoft" and node.op_type in OPERATORS]
    return [_proposal(node, trace) for node in nodes]


def _proposal(node: ir.Node, trace: Trace) -> Proposal | Skip:
    name = node_label(node)
    x, logits = node.inputs[:2]
    assert x is not None
    assert logits is not None
    sources = sources_of(x)
    outputs = with_tokens(node.outputs[:1], sources, trace)
    top = node.attributes.get_int("k", 1)
    try:
        experts = tuple(_experts(node))
        activations = _activations(node, len(experts[0].inputs))
    except _UnreadError as reason:
        return Skip(name, SkipReason.ATTRIBUTE, str(reason))
    if not outputs or str(sources[0].name) not in trace.shapes:
        return Skip(name, SkipReason.DYNAMIC_SHAPE, "its input was not seen in a run")
    weights = _input(node, _ROUTER_WEIGHTS)
    gates = [TopScores(logits, top, normalized, weights) for normalized in (False, True)]
    readings = tuple(Reading(activation, one) for activation in activations for one in gates)
    return Proposal(name, node.op_type, sources[0], outputs, experts, readings, logits, top)


def _activations(node: ir.Node, inputs: int) -> list[Expression]:
    """What the attribute may mean: `gelu` is an approximation on the CPU."""
    kind = node.attributes.get_string("activation_type", "relu")
    if node.attributes.get_int("use_sparse_mixer", 0):
        raise _UnreadError("the sparse mixer")
    if kind != "swiglu":
        kinds = [kind] if kind != "gelu" else ["gelu", "gelu-tanh"]
        return [named(one, gated=inputs == 2) for one in kinds]
    alpha, beta = (node.attributes.get_float(f"activation_{one}", None) for one in ("alpha", "beta"))
    limit = node.attributes.get_float("swiglu_limit", _NO_LIMIT)
    choices = (
        [(1.0, 0.0), (1.702, 1.0)] if alpha is None or beta is None else [(alpha, beta)]
    )  # the defaults have changed
    return [_swiglu(*choice, limit) for choice in choices]


def _swiglu(alpha: float, beta: float, limit: float) -> Expression:
    plain = (alpha, beta) == (1.0, 0.0) and limit >= _NO_LIMIT
    return named("silu", gated=True) if plain else clamped_swiglu(alpha, limit, beta)


def _experts(node: ir.Node) -> Iterator[Expert]:
    """The experts of a node; its matrices are stored as [E, out, in]."""
    first, second, third = (_stack(node, place) for place in _PLACES[node.op_type])
    if first is None or second is None:
        raise _UnreadError("its weights are not constants")
    fused = (
        node.attributes.get_int("swiglu_fusion", 0)
        if node.attributes.get_string("activation_type", "") == "swiglu"
        else 0
    )
    for number in range(len(first.weight)):
        up = first.expert(number)
        if third is not None:
            inputs: tuple[Product, ...] = (up, third.expert(number))
        elif fused == 0:
            inputs = (up,)
        else:
            width = up.weight.shape[1] // 2
            halves = (slice(0, None, 2), slice(1, None, 2)) if fused == 1 else (slice(width), slice(width, None))
            inputs = tuple(_columns(up, half) for half in halves)
        yield Expert(inputs, second.expert(number))


@dataclasses.dataclass(frozen=True, eq=False)
class _Stack:
    """Weights [E, out, in] and biases [E, out]."""

    weight: Array
    bias: Array | None

    def expert(self, number: int) -> Product:
        return Product(self.weight[number].T, None if self.bias is None else self.bias[number])


def _columns(product: Product, part: slice) -> Product:
    return Product(product.weight[:, part], None if product.bias is None else product.bias[part])


def _stack(node: ir.Node, places: tuple[int, int | None, int, int | None]) -> _Stack | None:
    weight, scales, bias, zeros = (None if place is None else _constant(node, place) for place in places)
    if weight is None:
        return None
    if scales is not None:
        weight = _dequantized(node, weight, scales, zeros)
    return _Stack(weight, bias) if weight.dtype.kind == "f" else None


def _dequantized(node: ir.Node, codes: Array, scales: Array, zeros: Array | None) -> Array:
    """(code - zero) * scale, [E, out, in], of codes packed along the inputs, the first in the low bits."""
    bits = node.attributes.get_int("expert_weight_bits", 4)
    if node.attributes.get_string("quant_type", "int") != "int" or bits not in (2, 4, 8):
        raise _UnreadError("a quantization that is not to integers of 2, 4 or 8 bits")
    if any(f"fc{one}_expert_weight_bits" in node.attributes for one in (1, 2, 3)):
        raise _UnreadError("other widths for some of its matrices")
    values = _unpacked(codes, bits).astype(np.float32)
    scales = scales.reshape(*values.shape[:2], -1)
    block = values.shape[2] // scales.shape[2]
    zero: Array = np.full((1, 1, 1, 1), 2 ** (bits - 1), np.float32)
    if zeros is not None:  # a row of them is padded to whole bytes
        zero = _unpacked(zeros.reshape(*values.shape[:2], -1), bits)[..., : scales.shape[2], None].astype(np.float32)
    blocks = (values.reshape(*scales.shape, block) - zero) * scales[..., None]
    return np.asarray(blocks.reshape(values.shape), scales.dtype)


def _unpacked(packed: Array, bits: int) -> Array:
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = packed[..., None] >> shifts & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)


def _constant(node: ir.Node, place: int) -> Array | None:
    stored = trace_constant(_input(node, place))
    if stored is None and _input(node, place) is not None:
        raise _UnreadError("its weights are not constants")
    return None if stored is None else stored.array()


def _input(node: ir.Node, place: int) -> ir.Value | None:
    return node.inputs[place] if len(node.inputs) > place else None
