# SPDX-License-Identifier: Apache-2.0
"""Nodes that repeat or rearrange whole pixels, written for codes that lie channel-last.

There the channels of a pixel are neighbours, and repeating pixels or giving each a block of them moves runs of bytes:
an Expand or a Transpose between two views. ONNX Runtime's own operators take an element at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore

_HEIGHT, _WIDTH = 2, 3
_ROW = 2
# How an output position is taken to the input, and then rounded, where f outputs in a row read the same input.
_CENTRES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
_REPEATS = {
    ("asymmetric", "floor"),
    *itertools.product(_CENTRES, ("round_prefer_floor", "round_prefer_ceil")),
}


def moves_pixels(node: ir.Node, is_signal: bool) -> bool:
    """Whether a node that picks elements of an image, or of a signal, can be written by `pixel_moves`."""
    return node.op_type == "DepthToSpace" or whole_factors(node, is_signal) is not None


def whole_factors(node: ir.Node, is_signal: bool) -> tuple[int, int] | None:
    """How often a Resize repeats every row and every column; None where it does anything else."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    scales = small_constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if (mode, rounding) not in _REPEATS or scales is None or scales.size == 0:
        return None
    axes = node.attributes.get_ints("axes", tuple(range(scales.size)))
    rank, spatial = (3, (_ROW,)) if is_signal else (4, (_HEIGHT, _WIDTH))
    factors = {axis % rank: float(scale) for axis, scale in zip(axes, scales, strict=True) if scale != 1}
    whole = all(factor.is_integer() and factor > 1 for factor in factors.values())
    if not whole or not factors.keys() <= set(spatial):
        return None
    repeats = [int(factors.get(axis, 1)) for axis in spatial]
    return 1 if is_signal else repeats[0], repeats[-1]


def pixel_moves(node: ir.Node, x: ir.Value, is_signal: bool, store: InitializerStore) -> list[ir.Node]:
    """The nodes that do to x [B, H, W, C] what the node does to an image channel-first; the last one gives it.

    Args:
        node: for which `moves_pixels` holds.
        x: what it reads, channel-last.
        is_signal: whether the node works on [B, C, L], of which x is an image of one row.
        store: where sizes are kept.
    """
    factors = whole_factors(node, is_signal)
    return list(_repeated(x, factors, store) if factors else _spread(node, x, store))


def _repeated(x: ir.Value, factors: tuple[int, int], store: InitializerStore) -> Iterator[ir.Node]:
    """[B, H, 1, W, 1, C] to [B, H, rows, W, columns, C]."""
    rows, columns = factors
    single = _node("Unsqueeze", [x, _sizes(store, 2, 4)])
    several = _node("Expand", [single.outputs[0], _sizes(store, 1, 1, rows, 1, columns, 1)])
    yield from (single, several)
    yield from _reshaped(several, x, (rows, columns), 1, store)


def _spread(node: ir.Node, x: ir.Value, store: InitializerStore) -> Iterator[ir.Node]:
    """Depth to space: the channels of a pixel, [block, block, C] or [C, block, block], become a block of pixels."""
    block = node.attributes.get_int("blocksize", 1)
    if node.attributes.get_string("mode", "DCR") == "DCR":
        sizes, order = [block, -1], [0, 1, 3, 2, 4]  # a row of the block with its channels stays together
    else:
        sizes, order = [-1, block, block], [0, 1, 4, 2, 5, 3]
    apart = _node("Reshape", [x, _sizes(store, 0, 0, 0, *sizes)])
    turned = _node("Transpose", [apart.outputs[0]], perm=order)
    yield from (apart, turned)
    yield from _reshaped(turned, x, (block, block), block * block, store)


def _reshaped(
    moved: ir.Node, x: ir.Value, factors: tuple[int, int], divisor: int, store: InitializerStore
) -> Iterator[ir.Node]:
    """As an image of so many times the rows and columns of x, and a part of its channels."""
    shape = _node("Shape", [x])
    sizes = _node("Mul", [shape.outputs[0], _sizes(store, 1, *factors, 1)])
    yield from (shape, sizes)
    if divisor > 1:
        sizes = _node("Div", [sizes.outputs[0], _sizes(store, 1, 1, 1, divisor)])
        yield sizes
    yield _node("Reshape", [moved.outputs[0], sizes.outputs[0]])


def _node(op_type: str, inputs: list[ir.Value], **attributes: list[int]) -> ir.Node:
    return ir.node(op_type, inputs, attributes)


def _sizes(store: InitializerStore, *sizes: int) -> ir.Value:
    return store.add("edgefold.sizes", np.array(sizes, np.int64))
