# SPDX-License-Identifier: Apache-2.0
"""Poolings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError
from edgefold.heal.operators.windows import Windows

_AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _average(node: BoundNode) -> Kernel:
    windows = Windows.of(node, node.integers("kernel_shape") or [])
    count_padding = bool(node.integer("count_include_pad", 0))
    ceil = bool(node.integer("ceil_mode", 0))
    fits_torch = all(2 * pad <= size for pad, size in zip(windows.begins, windows.kernel, strict=True))
    if windows.fixed_symmetric and not ceil and set(windows.dilations) == {1} and fits_torch:
        pool: Any = _AVERAGE[len(windows.kernel)]
        kernel, strides, padding = windows.kernel, windows.strides, windows.begins
        return lambda x: pool(x, kernel, strides, padding, False, count_padding)

    def general(x: Tensor) -> Tensor:
        extra = windows.overhang(x.shape[2:]) if ceil else None
        ones = torch.ones_like(x[:1, :1])
        counted = (
            functional.pad(windows.pad(ones, 1.0), _after(extra)) if count_padding else windows.pad(ones, 0.0, extra)
        )
        return _sums(windows.pad(x, 0.0, extra), windows) / _sums(counted, windows)

    return general


def _after(extra: tuple[int, ...] | None) -> list[int]:
    return [] if extra is None else [size for more in reversed(extra) for size in (0, more)]


def _sums(x: Tensor, windows: Windows) -> Tensor:
    """Sum of every window: a depthwise convolution with ones, the one form that knows dilations."""
    channels = x.shape[1]
    ones = torch.ones((channels, 1, *windows.kernel), dtype=x.dtype, device=x.device)
    convolve: Any = _CONV[len(windows.kernel)]
    result: Tensor = convolve(x, ones, None, windows.strides, 0, windows.dilations, channels)
    return result


def _maximum(node: BoundNode) -> Kernel:
    if node.reads_output(1):
        raise UnsupportedNodeError("gives the indices of its maxima, which cannot be trained")
    windows = Windows.of(node, node.integers("kernel_shape") or [])
    ceil = bool(node.integer("ceil_mode", 0))
    pool: Any = _MAXIMUM[len(windows.kernel)]
    kernel, strides, dilations = windows.kernel, windows.strides, windows.dilations
    fits_torch = all(2 * pad <= size for pad, size in zip(windows.begins, windows.kernel, strict=True))
    if windows.fixed_symmetric and not ceil and fits_torch:
        padding = windows.begins
        return lambda x: _floating(x, lambda y: pool(y, kernel, strides, padding, dilations))

    def general(x: Tensor) -> Tensor:
        padded = windows.pad(x, -math.inf, windows.overhang(x.shape[2:]) if ceil else None)
        return pool(padded, kernel, strides, 0, dilations)

    return lambda x: _floating(x, general)


def _floating(x: Tensor, pool: Kernel) -> Tensor:
    """Pools integers by way of floats, which hold those of 8 bits exactly."""
    return pool(x) if x.is_floating_point() else pool(x.float()).to(x.dtype)


def _norm(node: BoundNode) -> Kernel:
    windows = Windows.of(node, node.integers("kernel_shape") or [])
    p, ceil = node.integer("p", 2), bool(node.integer("ceil_mode", 0))

    def kernel(x: Tensor) -> Tensor:
        padded = windows.pad(x.abs() ** p, 0.0, windows.overhang(x.shape[2:]) if ceil else None)
        return _sums(padded, windows) ** (1.0 / p)

    return kernel


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def _global_average(node: BoundNode) -> Kernel:
    del node
    return lambda x: x.mean(_spatial(x), keepdim=True)


def _global_maximum(node: BoundNode) -> Kernel:
    del node
    return lambda x: x.amax(_spatial(x), keepdim=True)


def _global_norm(node: BoundNode) -> Kernel:
    p = node.integer("p", 2)
    return lambda x: (x.abs() ** p).sum(_spatial(x), keepdim=True) ** (1.0 / p)


OPERATORS: Mapping[str, Binding] = {
    "AveragePool": _average,
    "GlobalAveragePool": _global_average,
    "GlobalLpPool": _global_norm,
    "GlobalMaxPool": _global_maximum,
    "LpPool": _norm,
    "MaxPool": _maximum,
}
