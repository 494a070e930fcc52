# SPDX-License-Identifier: Apache-2.0
"""What a part of a network is to a person: attention, feed-forward, convolution."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import has_matrix

_PRODUCTS = frozenset(("MatMul", "Einsum", "FusedMatMul", "MatMulInteger"))
_CONVOLUTIONS = frozenset((
    "Conv", "FusedConv", "QLinearConv", "ConvInteger", "ConvTranspose", "ShiftConv", "FloatConv",
))  # fmt: skip


def kind_of(nodes: Sequence[ir.Node], flow: Dataflow) -> str:
    """The kind of a part with these nodes: "attention", "convolution", "feed-forward" or "other"."""
    if _attends(nodes, flow):
        return "attention"
    if any(node.op_type in _CONVOLUTIONS and _is_spatial(node, flow) for node in nodes):
        return "convolution"
    return "feed-forward" if any(has_matrix(node, flow) for node in nodes) else "other"


def _attends(nodes: Sequence[ir.Node], flow: Dataflow) -> bool:
    """Whether there is a fused attention, or a product of two contents beside a softmax."""
    types = {node.op_type for node in nodes}
    products = (node.inputs[:2] for node in nodes if node.op_type in _PRODUCTS)
    mixes = any(all(value in flow.content for value in factors) for factors in products)
    return any("Attention" in one for one in types) or (mixes and "Softmax" in types)


def _is_spatial(node: ir.Node, flow: Dataflow) -> bool:
    """Whether a convolution looks at more than one place; one whose kernel cannot be seen does."""
    stored = (one for value in flow.constants_of(node) for one in flow.stored_behind(value) if one.is_matrix)
    return any(len(one.shape) < 3 or any(size > 1 for size in one.shape[2:]) for one in stored)
