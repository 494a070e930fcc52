# SPDX-License-Identifier: Apache-2.0
"""Convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError
from edgefold.heal.operators.windows import Windows

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _kernel_shape(node: BoundNode) -> list[int]:
    given = node.integers("kernel_shape")
    if given is not None:
        return given
    weight = node.node.inputs[1]
    if weight is None or weight.shape is None or not weight.shape.is_static():
        raise UnsupportedNodeError("does not state its kernel_shape, and its weight has no static shape")
    return [int(size) for size in weight.shape.numpy()[2:]]


def bind_convolution(node: BoundNode, convolve: Any = None) -> Kernel:
    """Binds a convolution of operands x, w and optionally a bias.

    Args:
        node: with the attributes of Conv.
        convolve: takes what torch's convolutions take, and stands for them.
    """
    windows = Windows.of(node, _kernel_shape(node))
    group = node.integer("group", 1)
    convolve = convolve or _CONV[len(windows.kernel)]
    strides, dilations = windows.strides, windows.dilations
    if windows.fixed_symmetric:
        padding = windows.begins
        return lambda x, w, b=None: convolve(x, w, b, strides, padding, dilations, group)
    return lambda x, w, b=None: convolve(windows.pad(x, 0.0), w, b, strides, 0, dilations, group)


def _transposed_convolution(node: BoundNode) -> Kernel:
    windows = Windows.of(node, _kernel_shape(node))
    rank = len(windows.kernel)
    group = node.integer("group", 1)
    beyond = tuple(node.integers("output_padding") or [0] * rank)
    wanted = node.integers("output_shape")
    convolve: Any = _TRANSPOSED[rank]

    def kernel(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        begins, ends = _cropping(windows, x.shape[2:], beyond, wanted[-rank:] if wanted else None)
        if begins == ends and min(begins) >= 0:
            return convolve(x, w, b, windows.strides, begins, beyond, group, windows.dilations)
        whole = convolve(x, w, b, windows.strides, 0, 0, group, windows.dilations)
        # Output padding widens the end; as a negative crop it is filled with what the windows do not reach: the bias.
        pairs = [pair for axis in reversed(range(rank)) for pair in (-begins[axis], beyond[axis] - ends[axis])]
        if all(amount <= 0 for amount in pairs):
            return functional.pad(whole, pairs)
        without_bias = convolve(x, w, None, windows.strides, 0, 0, group, windows.dilations)
        padded = functional.pad(without_bias, pairs)
        return padded if b is None else padded + b.reshape(-1, *[1] * rank)

    return kernel


def _cropping(
    windows: Windows, sizes: Any, beyond: tuple[int, ...], wanted: list[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How much of the full output is cut off before and after each axis."""
    same = windows.rule.startswith("SAME")
    if wanted is None and not same:
        return windows.begins, windows.ends
    begins, ends = [], []
    for axis, size in enumerate(sizes):
        stride = windows.strides[axis]
        reach = (windows.kernel[axis] - 1) * windows.dilations[axis] + 1
        target = size * stride if wanted is None else wanted[axis]
        total = stride * (size - 1) + beyond[axis] + reach - target
        less, more = total // 2, total - total // 2
        begins.append(more if windows.rule == "SAME_LOWER" or not same else less)
        ends.append(less if windows.rule == "SAME_LOWER" or not same else more)
    return tuple(begins), tuple(ends)


OPERATORS: Mapping[str, Binding] = {
    "Conv": bind_convolution,
    "ConvTranspose": _transposed_convolution,
}
