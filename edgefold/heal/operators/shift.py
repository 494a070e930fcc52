# SPDX-License-Identifier: Apache-2.0
"""The quantized layers of `ai.edgefold`, in the integers that their kernels compute with.

The codes of a node are not fed as codes: their place is taken by the latent weights [K, N] (see
`edgefold.heal.packed_weights`). Sums of products of integers are exact in float32 below 2**24, as they are in the
functions that travel in the file, so a module gives what those give.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgefold.heal.integer.products import Arithmetic, integer_convolution, integer_linear
from edgefold.heal.integer.shift_quantizer import ShiftQuantizer
from edgefold.heal.operators.convolution import bind_convolution
from edgefold.heal.operators.learned_step import Levels, activation_codes
from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError
from edgefold.heal.packed_weights import CODES, SCALES, SELECTORS, TABLE
from edgefold.passes.quantization.packing import GROUP_DEPTH, unpack_selectors

_X_SCALE, _X_SHIFTS = 6, 7
_SMALLEST_ROW = 1e-30  # below it a dynamic row has codes 0


def _levels(node: BoundNode) -> Levels:
    parts = [node.node.inputs[position] for position in (CODES, SELECTORS, TABLE, SCALES)]
    codes, selectors, table, scales = (None if part is None else part.const_value for part in parts)
    if node.constant(CODES) is not None or codes is None or selectors is None or table is None or scales is None:
        raise UnsupportedNodeError("has codes that are computed, or that another node reads with other scales")
    k = node.integer("k", 0)
    return Levels(table.numpy(), unpack_selectors(selectors.numpy(), -(-k // GROUP_DEPTH), scales.size), k)


class _Activations:
    """How a node turns activations into integers: statically, by the range of each row, or not at all."""

    def __init__(self, node: BoundNode, channel_axis: int) -> None:
        self._low, self._high = node.integer("activation_low", 0), node.integer("activation_high", 0)
        self._are_codes = bool(node.integer("x_codes", 0))
        scale, shifts = node.constant(_X_SCALE), node.constant(_X_SHIFTS)
        self._dynamic = scale is not None and not scale.any()
        self._shifted = shifts is not None and bool(shifts.any())
        self._axis = channel_axis

    def __call__(self, x: Tensor, scale: Tensor, shifts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Integers, and the scale that makes activations of them."""
        if self._high == 0:
            return x, torch.ones_like(scale)
        if self._are_codes:
            return x.float(), scale  # the producer that rounded them gives the other half of its gradient
        powers = self._powers(x, shifts)
        if self._dynamic:
            scale = self._of_rows(x, powers)
        return activation_codes(x, scale, powers, self._low, self._high), scale.detach()

    def _powers(self, x: Tensor, shifts: Tensor | None) -> Tensor | None:
        if shifts is None or not self._shifted:
            return None
        shape = [1] * x.dim()
        shape[self._axis] = -1
        return torch.exp2(shifts.float()).reshape(shape)

    def _of_rows(self, x: Tensor, powers: Tensor | None) -> Tensor:
        magnitudes = x.detach().abs() if powers is None else x.detach().abs() / powers
        largest = magnitudes.amax(dim=-1, keepdim=True)
        return torch.where(largest > _SMALLEST_ROW, largest / self._high, 0)


def _arithmetic(node: BoundNode, levels: Levels) -> Arithmetic | None:
    """Of integer training (arXiv 2411.10948); None where gradients, or the activations, stay float.

    A layer that was kept wider than the others has wider gradients too.
    """
    high, shifts = node.integer("activation_high", 0), node.constant(_X_SHIFTS)
    if node.gradient_bits is None or high == 0:
        return None
    bits = max(node.gradient_bits, node.integer("bits", 8))
    largest = 127 if node.integer("x_codes", 0) else high << (0 if shifts is None else int(shifts.max()))
    return Arithmetic(largest, levels.largest, ShiftQuantizer(bits, 9 - bits))


def _integer_convolution(node: BoundNode, levels: Levels) -> Any:
    """In the place of torch's convolution; None where its own will do."""
    arithmetic = _arithmetic(node, levels)
    if arithmetic is None:
        return None

    def convolve(x: Tensor, w: Tensor, _bias: None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
        return integer_convolution(x, w, arithmetic, stride, padding or [0] * len(stride), dilation, groups)

    return convolve


def _shift_matmul(node: BoundNode) -> Kernel:
    levels, activations = _levels(node), _Activations(node, -1)
    arithmetic = _arithmetic(node, levels)

    def kernel(
        x: Tensor,
        latent: Tensor,
        _selectors: Tensor,
        _table: Tensor,
        scales: Tensor,
        bias: Tensor,
        x_scale: Tensor,
        x_shifts: Tensor | None = None,
    ) -> Tensor:
        integers, x_scale = activations(x, x_scale, x_shifts)
        weights = levels.nearest(latent, scales)
        product = integer_linear(integers, weights.t(), arithmetic) if arithmetic else torch.matmul(integers, weights)
        return product * (x_scale * scales.detach()) + bias

    return kernel


def _shift_conv(node: BoundNode) -> Kernel:
    levels, activations = _levels(node), _Activations(node, 1)
    convolve = bind_convolution(node, _integer_convolution(node, levels))
    positions = torch.Size(node.integers("kernel_shape") or ())
    across = (-1, *[1] * len(positions))

    def kernel(
        x: Tensor,
        latent: Tensor,
        _selectors: Tensor,
        _table: Tensor,
        scales: Tensor,
        bias: Tensor,
        x_scale: Tensor,
        x_shifts: Tensor | None = None,
    ) -> Tensor:
        integers, x_scale = activations(x, x_scale, x_shifts)
        rows = levels.nearest(latent, scales).t()
        by_channel = rows.reshape(len(rows), positions.numel(), -1).transpose(1, 2)
        product = convolve(integers, by_channel.reshape(len(rows), -1, *positions))
        return product * (x_scale * scales.detach()).reshape(across) + bias.reshape(across)

    return kernel


def _float_conv(node: BoundNode) -> Kernel:
    levels, convolve = _levels(node), bind_convolution(node, None)
    positions = torch.Size(node.integers("kernel_shape") or ())

    def kernel(x: Tensor, latent: Tensor, _selectors: Tensor, _table: Tensor, scales: Tensor, bias: Tensor) -> Tensor:
        rows = levels.nearest(latent, scales).t() * scales.detach().unsqueeze(1)
        by_channel = rows.reshape(len(rows), positions.numel(), -1).transpose(1, 2)
        return convolve(x, by_channel.reshape(len(rows), -1, *positions)) + bias.reshape(-1, *[1] * len(positions))

    return kernel


def _shift_gather(node: BoundNode) -> Kernel:
    levels = _levels(node)

    def kernel(ids: Tensor, latent: Tensor, _selectors: Tensor, _table: Tensor, scales: Tensor) -> Tensor:
        flat = ids.reshape(-1).long()
        columns = torch.where(flat < 0, flat + scales.numel(), flat)
        taken = scales[columns]
        rows = levels.nearest(latent[:, columns], taken, columns).t() * taken.detach().unsqueeze(1)
        return rows.reshape(*ids.shape, -1)

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "FloatConv": _float_conv,
    "ShiftConv": _shift_conv,
    "ShiftGather": _shift_gather,
    "ShiftMatMul": _shift_matmul,
}
