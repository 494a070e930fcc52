# SPDX-License-Identifier: Apache-2.0
"""Codes of four bits between fused convolutions lie two a byte, as ONNX stores int4 and uint4."""

from __future__ import annotations

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.block_chains import RESIDUAL

_PACKED = {ir.DataType.UINT8: (ir.DataType.UINT4, 0, 15), ir.DataType.INT8: (ir.DataType.INT4, -8, 7)}
_SCALES = {"FusedConvBlock": 4, "FusedInvertedResidual": 14}
_READS = {"FusedConvBlock": (0, RESIDUAL), "FusedInvertedResidual": (0,)}


def pack_codes(graph: ir.Graph) -> Notes:
    """Changes the type of what fused convolutions, and nothing else, make and read, in place.

    Numerics: bit-equal.
    """
    edits: list[Edit] = []
    skips: list[Skip] = []
    for node in graph:
        packed = _packed_type(node)
        if packed is None:
            continue
        why = _obstacle(node)
        if why:
            detail = f"its codes of four bits take a byte: {why}"
            skips.append(Skip(node_label(node), SkipReason.NOTHING_TO_GAIN, detail))
            continue
        node.attributes["y_dtype"] = ir.AttrInt64("y_dtype", int(packed))
        node.outputs[0].type = ir.TensorType(packed)
        edits.append(Edit(node_label(node), "gives two codes a byte"))
    return Notes(tuple(edits), tuple(skips), {"packed_tensors": len(edits)})


def _packed_type(node: ir.Node) -> ir.DataType | None:
    """The type of four bits that holds all codes of a fused convolution."""
    if node.domain != "ai.edgefold" or node.op_type not in _SCALES:
        return None
    given = ir.DataType(node.attributes.get_int("y_dtype", 0))
    packed, low, high = _PACKED.get(given, (None, 0, 0))
    fits = node.attributes.get_int("y_low", 0) >= low and node.attributes.get_int("y_high", 0) <= high
    return packed if fits else None


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
        if reader.domain != "ai.edgefold" or use.idx not in _READS.get(reader.op_type, ()):
            return f"read by {node_label(reader)} ({reader.op_type})"
    return ""
