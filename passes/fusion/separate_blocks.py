# SPDX-License-Identifier: Apache-2.0
"""Bottleneck and ConvFirst blocks of a region: what streaming their rows would move, and why no operator does.

A bottleneck (arXiv 1512.03385, section 4.1) is a 1x1 convolution to few channels, a dense or grouped one, and a 1x1
back; a ConvFirst block (arXiv 2404.03617) a grouped convolution and two 1x1 ones by way of many channels. Rows of
either can stream through all three as in an inverted residual block. Measured (docs/results/fused_linear.md), that
neither costs nor gains more than a few percent, unlike where a wide tensor goes through a depthwise convolution: what
lies between is small beside the products. So the blocks stay three nodes, and the report says what is left on the
table on the device at hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Notes, Skip, SkipReason
from edgefold.passes.fusion.block_chains import (
    PIXELS_AT_ONCE,
    adds_only,
    channels,
    is_block,
    is_depthwise,
    is_pointwise,
    residual_at,
    sole_reader,
    weight_bytes,
)
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class SeparateBlock:
    """Three FusedConvBlocks of which each alone reads the one before, and the last adds what the first reads.

    Attributes:
        kind: "bottleneck" or "conv-first".
    """

    kind: str
    nodes: tuple[ir.Node, ir.Node, ir.Node]

    @property
    def label(self) -> str:
        return node_label(self.nodes[0])


def separate_blocks(graph: ir.Graph, shapes: Shapes, device: Device) -> Notes:
    """Says of every such block what it moves, and would move as one node; changes nothing."""
    skips: list[Skip] = []
    table: list[Mapping[str, Any]] = []
    for block in _candidates(graph):
        decision = _decision(block, shapes, device)
        if decision is not None:
            why = f"{block.kind}: streaming its rows was measured to gain nothing; {decision.why}"
            row = dataclasses.replace(decision, fuse=False, why=why)
            skips.append(Skip(block.label, SkipReason.NOTHING_TO_GAIN, why))
            table.append({"block": block.label, "kind": block.kind} | dataclasses.asdict(row))
    return Notes(skips=tuple(skips), table=tuple(table))


def _candidates(graph: ir.Graph) -> Iterator[SeparateBlock]:
    for first in graph:
        second = sole_reader(first) if is_block(first) and not residual_at(first) else None
        third = sole_reader(second) if second is not None and not residual_at(second) else None
        if second is None or third is None or not is_pointwise(third):
            continue
        kind = _kind(first, second)
        if kind and residual_at(third) and adds_only(third, first):
            yield SeparateBlock(kind, (first, second, third))


def _kind(first: ir.Node, second: ir.Node) -> str | None:
    if is_pointwise(first) and not is_pointwise(second) and not is_depthwise(second):
        return "bottleneck"
    grouped = first.attributes.get_int("group", 1) > 1
    if grouped and is_pointwise(second) and channels(second) > channels(first):
        return "conv-first"
    return None


def _decision(block: SeparateBlock, shapes: Shapes, device: Device) -> Decision | None:
    """What both tensors between the three move whole, and as the rows that one step of the last convolution takes."""
    first, second, _ = block.nodes
    sizes = shapes.get(str(first.outputs[0].name))
    if sizes is None:
        return None
    _, height, width, _ = sizes
    kernel = second.attributes.get_ints("kernel_shape", (1, 1))
    rows = min(height, -(-PIXELS_AT_ONCE // width))
    narrow, wide = (math.prod((height, width, channels(node))) for node in (first, second))
    part = (rows + kernel[0] - 1) * width * channels(first), rows * width * channels(second)
    weights = sum(weight_bytes(node) for node in block.nodes)
    unfused = (Move("first", 2 * narrow, narrow), Move("second", 2 * wide, wide))
    streamed = (
        Move("first", 2 * narrow, part[0]),
        Move("second", 2 * wide, sum(part)),
        Move("weights", (-(-height // rows) - 1) * weights, sum(part) + weights),
    )
    return decide(Plan(3, unfused), Plan(1, streamed), device)
