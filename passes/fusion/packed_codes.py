# SPDX-License-Identifier: Apache-2.0
"""Codes of four bits between fused convolutions lie two a byte."""

from __future__ import annotations

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.block_chains import RESIDUAL

_RANGES = {ir.DataType.UINT8: (0, 15), ir.DataType.INT8: (-8, 7)}
_SCALES = {"FusedConvBlock": 4, "FusedInvertedResidual": 14}
_READS = {"FusedConvBlock": {0: "x_packed", RESIDUAL: "residual_packed"}, "FusedInvertedResidual": {0: "x_packed"}}


def pack_codes(graph: ir.Graph) -> Notes:
    """Halves the tensors that fused convolutions, and nothing else, make and read, in place.

    Numerics: bit-equal.
    """
    edits: list[Edit] = []
    skips: list[Skip] = []
    for node in graph:
        if not _gives_four_bits(node):
            continue
        why = _obstacle(node)
        if why:
            detail = f"its codes of four bits take a byte: {why}"
            skips.append(Skip(node_label(node), SkipReason.NOTHING_TO_GAIN, detail))
            continue
        node.attributes.add(ir.AttrInt64("y_packed", 1))
        node.outputs[0].shape = None
        for use in node.outputs[0].uses():
            use.node.attributes.add(ir.AttrInt64(_READS[use.node.op_type][use.idx], 1))
        edits.append(Edit(node_label(node), "gives two codes a byte"))
    return Notes(tuple(edits), tuple(skips), {"packed_tensors": len(edits)})


def _gives_four_bits(node: ir.Node) -> bool:
    """Whether a node is a fused convolution whose codes, a byte each, are all of four bits."""
    if node.domain != "ai.edgefold" or node.op_type not in _SCALES or node.attributes.get_int("y_packed", 0) == 1:
        return False
    low, high = _RANGES.get(ir.DataType(node.attributes.get_int("y_dtype", 0)), (0, -1))
    return node.attributes.get_int("y_low", 0) >= low and node.attributes.get_int("y_high", 0) <= high


def _obstacle(node: ir.Node) -> str:
    """Why the codes that a fused convolution gives cannot lie two a byte; nothing where they can."""
    scales = node.inputs[_SCALES[node.op_type]]
    if scales is None or scales.shape is None or int(scales.shape.numpy()[0]) % 2:
        return "an odd number of channels"
    value = node.outputs[0]
    if value.is_graph_output():
        return "an output of the model"
    for use in value.uses():
        reader = use.node
        if reader.domain != "ai.edgefold" or use.idx not in _READS.get(reader.op_type, {}):
            return f"read by {node_label(reader)} ({reader.op_type})"
    return ""
