# SPDX-License-Identifier: Apache-2.0
"""The numbers of a convolution with every default filled in and the padding made explicit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class ConvGeometry:
    """One entry a spatial dimension; pads holds all the beginnings, then all the ends."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int


def conv_geometry(node: ir.Node, weight_shape: Sequence[int]) -> ConvGeometry | None:
    """Geometry of a Conv; None where auto_pad depends on an input size that is not known.

    Args:
        node: the Conv.
        weight_shape: [M, C / group, kernel].
    """
    kernel = tuple(weight_shape[2:])
    ones = (1,) * len(kernel)
    strides = tuple(node.attributes.get_ints("strides", ones))
    dilations = tuple(node.attributes.get_ints("dilations", ones))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    none = (0,) * (2 * len(kernel))
    pads: tuple[int, ...] | None = tuple(node.attributes.get_ints("pads", none)) if auto == "NOTSET" else none
    if auto.startswith("SAME"):
        pads = _same_pads(node.inputs[0], kernel, strides, dilations, lower=auto == "SAME_LOWER")
    if pads is None:
        return None
    return ConvGeometry(kernel, strides, pads, dilations, node.attributes.get_int("group", 1))


def _same_pads(
    data: ir.Value | None, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, lower: bool
) -> tuple[int, ...] | None:
    """Padding that keeps ceil(size / stride) positions; with stride 1 it does not depend on the size."""
    begins, ends = [], []
    for axis, (width, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        reach = (width - 1) * dilation + 1
        size = 1
        if stride > 1:
            dimension = None if data is None or data.shape is None else data.shape[axis + 2]
            if not isinstance(dimension, int):
                return None
            size = dimension
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        begins.append(total - total // 2 if lower else total // 2)
        ends.append(total - begins[-1])
    return (*begins, *ends)
