# SPDX-License-Identifier: Apache-2.0
"""Signals, [batch, channels, length], between fused convolutions: images of one row, [batch, 1, length, channels].

So the operators of images are those of signals too. Packed weights of k taps are those of 1 by k, and a row counted or
not moves no byte; only where floats come in or go out does a node change their rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

# What a list of one number a spatial dimension holds for a row, the number of rows being 1.
_FOR_ROWS = {"kernel_shape": 1, "strides": 1, "dilations": 1}
HEIGHT, WIDTH = 2, 3
"""Axes of an image [batch, channels, height, width] that has one row, or one column."""


def is_of_signals(conv: ir.Node) -> bool:
    """Whether a convolution has one spatial dimension."""
    return len(conv.attributes.get_ints("kernel_shape", ())) == 1


def image_attributes(conv: ir.Node) -> Iterator[ir.Attr]:
    """The attributes of a convolution as one of two spatial dimensions has them."""
    for name, attribute in conv.attributes.items():
        if not is_of_signals(conv):
            yield attribute
        elif name in _FOR_ROWS:
            yield ir.AttrInt64s(name, [_FOR_ROWS[name], *attribute.as_ints()])
        elif name == "pads":
            begin, end = attribute.as_ints()
            yield ir.AttrInt64s(name, [0, begin, 0, end])
        else:
            yield attribute
