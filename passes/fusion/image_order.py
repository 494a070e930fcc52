# SPDX-License-Identifier: Apache-2.0
"""In which order the numbers of a float image lie, and the nodes that read or write it in either.

`Channel-first` is [batch, channels, height, width], `channel-last` [batch, height, width, channels].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.fusion.conv_chains import CodeFormat, code_format

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)
_AS_IT_IS = (0, 1, 2, 3)
_FUSED = ("FusedConvBlock", "FusedInvertedResidual")


def turns(node: ir.Node | None, order: Sequence[int]) -> TypeGuard[ir.Node]:
    """Whether a node is the transposition to this order."""
    return (
        node is not None
        and node.op_type == "Transpose"
        and node.domain in ("", "ai.onnx")
        and tuple(node.attributes.get_ints("perm", ())) == tuple(order)
    )


def reads_either(node: ir.Node) -> bool:
    """Whether a quantized convolution reads a channel-first float image, in place of which it can read the other."""
    if _is_fused(node):
        first = tuple(node.attributes.get_ints("x_perm", ())) == _AS_IT_IS
        return first and not node.attributes.get_int("x_codes", 0)
    return _is_shift_conv(node)


def writes_either(node: ir.Node | None) -> bool:
    """Whether a quantized convolution writes a channel-first float image, in place of which it can write the other."""
    if node is not None and _is_fused(node):
        first = tuple(node.attributes.get_ints("y_perm", ())) == _AS_IT_IS
        return first and not node.attributes.get_int("y_high", 0)
    return node is not None and _is_shift_conv(node)


def read_last(node: ir.Node, store: InitializerStore) -> None:
    """Lets a convolution that can read either order read channel-last."""
    _as_block(node, store)
    node.attributes["x_perm"] = ir.AttrInt64s("x_perm", TO_FIRST)


def write_last(node: ir.Node, store: InitializerStore) -> None:
    """Lets a convolution that can write either order write channel-last."""
    _as_block(node, store)
    node.attributes["y_perm"] = ir.AttrInt64s("y_perm", TO_LAST)


def _is_fused(node: ir.Node) -> bool:
    return node.domain == "ai.edgefold" and node.op_type in _FUSED


def _is_shift_conv(node: ir.Node) -> bool:
    shift_conv = node.domain == "ai.edgefold" and node.op_type == "ShiftConv"
    return shift_conv and isinstance(code_format(node), CodeFormat)


def _as_block(conv: ir.Node, store: InitializerStore) -> None:
    """Makes a ShiftConv the FusedConvBlock of it alone."""
    if _is_fused(conv):
        return
    one = store.add("edgefold.code_scale", np.ones(1, np.float32))
    operands = [store.add("edgefold.no_residual", np.zeros((1, 1, 1, 1), np.uint8)), one, one]
    conv.op_type = "FusedConvBlock"
    conv.resize_inputs(8 + len(operands))
    for index, operand in enumerate(operands):
        conv.replace_input_with(8 + index, operand)
    attributes: dict[str, Any] = {
        "x_codes": 0,
        "x_perm": _AS_IT_IS,
        "function": 0,
        "alpha": -math.inf,
        "beta": math.inf,
        "residual_at": 0,
        "residual_dtype": int(ir.DataType.UINT8),
        "y_low": 0,
        "y_high": 0,
        "y_dtype": int(ir.DataType.FLOAT),
        "y_perm": _AS_IT_IS,
    }
    conv.attributes.update({one.name: one for one in ir.convenience.convert_attributes(attributes)})
