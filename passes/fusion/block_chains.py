# SPDX-License-Identifier: Apache-2.0
"""FusedConvBlocks of which each alone reads the one before: what the blocks of an architecture are in a region."""

from __future__ import annotations

import math

import onnx_ir as ir

RESIDUAL, RESIDUAL_SCALE, Y_SCALE = 8, 9, 10
"""Operands of a FusedConvBlock."""

PIXELS_AT_ONCE = 64
"""Output pixels for which a kernel that streams rows reads the weights of its 1x1 convolutions again."""


def is_block(node: ir.Node) -> bool:
    """Whether a node is a FusedConvBlock."""
    return node.domain == "ai.edgefold" and node.op_type == "FusedConvBlock"


def is_pointwise(node: ir.Node) -> bool:
    """Whether a block is a 1x1 convolution at every pixel."""
    if not is_block(node) or node.attributes.get_int("group", 1) != 1:
        return False
    places = (*node.attributes.get_ints("kernel_shape", ()), *node.attributes.get_ints("strides", ()))
    return all(size == 1 for size in places) and not any(node.attributes.get_ints("pads", ()))


def is_depthwise(node: ir.Node) -> bool:
    """Whether a block convolves every channel for itself."""
    taps = math.prod(node.attributes.get_ints("kernel_shape", ()))
    return (
        is_block(node)
        and node.attributes.get_int("k", 0) == taps
        and node.attributes.get_int("group", 0) == channels(node)
    )


def channels(node: ir.Node) -> int:
    """How many channels a block gives."""
    scales = node.inputs[4]
    assert scales is not None
    assert scales.shape is not None
    return int(scales.shape.numpy()[0])


def residual_at(node: ir.Node) -> int:
    """0: a block adds nothing; 1: before its activation; 2: after it."""
    return node.attributes.get_int("residual_at", 0)


def sole_reader(node: ir.Node) -> ir.Node | None:
    """The block that alone reads, as its x, what another one gives a byte a code."""
    value = node.outputs[0]
    uses = list(value.uses())
    if node.attributes.get_int("y_packed", 0) == 1:
        return None
    if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output() or not is_block(uses[0].node):
        return None
    return uses[0].node


def adds_only(project: ir.Node, expand: ir.Node) -> bool:
    """Whether the last block adds nothing, or, before its activation, the codes that the first one reads."""
    place = residual_at(project)
    return place == 0 or (place == 1 and project.inputs[RESIDUAL] is expand.inputs[0])


def weight_bytes(node: ir.Node) -> int:
    """Bytes of the weights of a block."""
    codes = node.inputs[1]
    return codes.const_value.nbytes if codes is not None and codes.const_value is not None else 0
