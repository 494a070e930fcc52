# SPDX-License-Identifier: Apache-2.0
"""Matrix products and convolutions of integers whose gradients are products of integers too.

The operands hold integers in float32 containers, and so do the codes that the gradient is rounded to. Every sum is
proven to stay below 2**24, where float32 holds each integer, whatever the order of the terms; where that bound fails
the same sum is computed in float64, up to the limit of the integer accumulators that it stands for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.errors import UsageError
from edgefold.heal.integer.shift_quantizer import ShiftCodes, ShiftQuantizer

FLOAT32_INTEGERS = 1 << 24
INT32_LIMIT = 1 << 31
FLOAT64_INTEGERS = 1 << 53


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """What is known of the integers of one layer.

    Attributes:
        x_largest: magnitude that no input code exceeds.
        w_largest: magnitude that no weight code exceeds.
        gradient: how the gradient of the result is rounded; None leaves it float, and the backward products with it.
    """

    x_largest: int
    w_largest: int
    gradient: ShiftQuantizer | None


def integer_linear(x: Tensor, w: Tensor, arithmetic: Arithmetic) -> Tensor:
    """The integer product x w', differentiable.

    Args:
        x: float32 [..., K], integer values.
        w: float32 [N, K], integer values.
        arithmetic: their bounds, and how to round the gradient.

    Returns:
        float32 [..., N]: integer sums, exact up to 2**24 and beyond it rounded once to float32.

    Raises:
        UsageError: a sum, here or in the backward pass, that could leave int32.
    """
    result: Tensor = _Linear.apply(x, w, arithmetic)
    return result


def integer_convolution(
    x: Tensor,
    w: Tensor,
    arithmetic: Arithmetic,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The integer convolution of x with w, differentiable.

    Args:
        x: float32 [B, C, ...], integer values; one to three spatial dimensions.
        w: float32 [N, C / groups, ...], integer values.
        arithmetic: their bounds, and how to round the gradient.
        stride: one a spatial dimension, as the two that follow.
        padding: on both sides.
        dilation: of the kernel.
        groups: of channels.

    Returns:
        float32 [B, N, ...], as of `integer_linear`.

    Raises:
        UsageError: as `integer_linear`.
    """
    geometry = (tuple(stride), tuple(padding), tuple(dilation), False, (0,) * len(stride), groups)
    result: Tensor = _Convolution.apply(x, w, geometry, arithmetic)
    return result


def container(bound: int, what: str, limit: int = INT32_LIMIT) -> torch.dtype:
    """The float type in which sums of this magnitude are exact.

    Args:
        bound: what no partial sum exceeds.
        what: names the product in the error.
        limit: of the accumulators that the sum stands for.

    Raises:
        UsageError: the sum could leave the accumulators.
    """
    if bound < FLOAT32_INTEGERS:
        return torch.float32
    if bound < limit:
        return torch.float64
    raise UsageError(
        f"integer training: sums of the {what} could reach {bound}, beyond the accumulators' {limit}; take fewer bits"
    )


_Geometry = tuple[Sequence[int], Sequence[int], Sequence[int], bool, Sequence[int], int]
"""Stride, padding, dilation, transposed, output padding and groups, as torch's convolution takes them."""


class _Linear(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, arithmetic: Arithmetic) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.arithmetic = arithmetic
        dtype = _forward_container(w, arithmetic)
        return functional.linear(x.to(dtype), w.to(dtype)).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        found = _rounded(gradients[0], ctx.arithmetic, -1)
        rows = found.codes.reshape(-1, w.shape[0])
        dx = dw = None
        if need_x:
            dtype = _dx_container(w, ctx.arithmetic)
            dx = (found.codes.to(dtype) @ w.to(dtype)).float() * found.step
        if need_w:
            dtype = _dw_container(len(rows), ctx.arithmetic)
            dw = (rows.T.to(dtype) @ x.reshape(-1, w.shape[1]).to(dtype)).float() * found.step
        return dx, dw, None


class _Convolution(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, geometry: _Geometry, arithmetic: Arithmetic) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry, ctx.arithmetic = geometry, arithmetic
        dtype = _forward_container(w, arithmetic)
        return torch.convolution(x.to(dtype), w.to(dtype), None, *geometry).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        need_x, need_w = ctx.needs_input_grad[:2]
        found = _rounded(gradients[0], ctx.arithmetic, 1)
        positions = found.codes.numel() // found.codes.shape[1]
        x_type, w_type = _dx_container(w, ctx.arithmetic), _dw_container(positions, ctx.arithmetic)
        operands = (found.codes, x, w, ctx.geometry)
        if x_type == w_type:
            dx, dw = _convolution_gradients(*operands, x_type, (need_x, need_w))
        else:
            dx = _convolution_gradients(*operands, x_type, (True, False))[0] if need_x else None
            dw = _convolution_gradients(*operands, w_type, (False, True))[1] if need_w else None
        return _scaled(dx, found.step), _scaled(dw, found.step), None, None


def _convolution_gradients(
    codes: Tensor, x: Tensor, w: Tensor, geometry: _Geometry, dtype: torch.dtype, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Those of the input and of the weights, each where it is wanted, computed in ``dtype``."""
    operands = (codes.to(dtype), x.to(dtype), w.to(dtype))
    dx, dw, _ = torch.ops.aten.convolution_backward(*operands, None, *geometry, (*wanted, False))
    return dx, dw


def _scaled(sums: Tensor | None, step: Tensor) -> Tensor | None:
    return None if sums is None else sums.float() * step


def _rounded(gradient: Tensor, arithmetic: Arithmetic, channel: int) -> ShiftCodes:
    """The gradient as integers; as it is, with step 1, where it stays float."""
    if arithmetic.gradient is None:
        channels, samples = (torch.zeros(gradient.shape[axis], dtype=torch.int32) for axis in (channel, 0))
        return ShiftCodes(gradient, channels, samples, gradient.new_ones(()))
    return arithmetic.gradient(gradient, channel)


def _forward_container(w: Tensor, arithmetic: Arithmetic) -> torch.dtype:
    return container(math.prod(w.shape[1:]) * arithmetic.x_largest * arithmetic.w_largest, "forward product")


def _dx_container(w: Tensor, arithmetic: Arithmetic) -> torch.dtype:
    """Of sums over the output channels and taps, with their shifts inside. All terms have one sample's shift."""
    if arithmetic.gradient is None:
        return torch.float32
    code = arithmetic.gradient.largest << arithmetic.gradient.largest_shift
    return container(len(w) * math.prod(w.shape[2:]) * code * arithmetic.w_largest, "input gradient")


def _dw_container(positions: int, arithmetic: Arithmetic) -> torch.dtype:
    """Of sums over samples and places, with the samples' shifts inside. All terms have one channel's shift.

    Such a sum may be long: it stands for int32 accumulators that are emptied into int64 between samples.
    """
    if arithmetic.gradient is None:
        return torch.float32
    code = arithmetic.gradient.largest << arithmetic.gradient.largest_sample_shift
    bound = positions * code * arithmetic.x_largest
    return container(bound, "weight gradient", FLOAT64_INTEGERS)
