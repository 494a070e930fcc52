# SPDX-License-Identifier: Apache-2.0
"""Squeeze and excitation: the mean of every channel of an image, or of a signal, and every channel times a factor.

Both work on codes of any format. What lies between them, a few layers on one pixel, is left as it is.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes.fusion.shapes import Shapes, known_rank, known_shape

_RANKS = (3, 4)


@dataclasses.dataclass(frozen=True)
class ChannelGate:
    """A product of an image and a factor for each of its channels.

    Attributes:
        node: the Mul.
        image: [B, C, H, W], or a signal [B, C, L].
    """

    node: ir.Node
    image: ir.Value

    @property
    def gate(self) -> ir.Value:
        """The factors, [B, C, 1, 1] or [B, C, 1], of whichever node gives them by now."""
        return next(value for value in self.node.inputs if value is not None and value is not self.image)


def find_gates(graph: ir.Graph, shapes: Shapes) -> dict[ir.Value, ChannelGate]:
    """The gates of a graph by the value that each gives; none where shapes are unknown."""
    found = (_gate(node, shapes) for node in graph if node.op_type == "Mul" and node.domain in ("", "ai.onnx"))
    return {one.node.outputs[0]: one for one in found if one is not None}


def is_channel_mean(node: ir.Node, shapes: Shapes) -> bool:
    """Whether a node gives the mean of every channel of an image or a signal, as [B, C, 1, 1] or [B, C, 1]."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type != "ReduceMean":
        return node.op_type == "GlobalAveragePool"
    given = node.inputs[1] if len(node.inputs) > 1 else None
    stored = small_constant(given) if given is not None else None
    axes = {int(axis) for axis in stored.ravel()} if stored is not None else set(node.attributes.get_ints("axes", ()))
    rank = known_rank(node.inputs[0], shapes)
    spatial = () if rank not in _RANKS else (set(range(2, rank)), set(range(2 - rank, 0)))
    return axes in spatial and node.attributes.get_int("keepdims", 1) == 1


def _gate(node: ir.Node, shapes: Shapes) -> ChannelGate | None:
    for image, gate in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        if image is None or gate is None:
            continue
        whole, factors = known_shape(image, shapes), known_shape(gate, shapes)
        if whole is None or factors is None or len(whole) not in _RANKS or set(whole[2:]) == {1}:
            continue
        if factors == (*whole[:2], *(1 for _ in whole[2:])):
            return ChannelGate(node, image)
    return None
