# SPDX-License-Identifier: Apache-2.0
"""Quantizers. Codes are floats with whole numbers, so that gradients pass: by the straight-through estimator where a
value is rounded, none where it is clipped. For the scale that is the gradient of learned step size quantization (LSQ,
1902.08153, section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch
from torch import Tensor

from edgefold.heal.operators.convolution import bind_convolution
from edgefold.heal.operators.elementwise import round_straight_through
from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError, held_by_constant

_RANGES = {
    ir.DataType.INT4: (-8, 7),
    ir.DataType.INT8: (-128, 127),
    ir.DataType.INT16: (-32768, 32767),
    ir.DataType.UINT4: (0, 15),
    ir.DataType.UINT8: (0, 255),
    ir.DataType.UINT16: (0, 65535),
}


def _code_range(node: BoundNode) -> tuple[int, int]:
    zero_point = node.node.inputs[2] if node.has(2) else None
    stated = node.integer("output_dtype", 0)
    if stated:
        dtype = ir.DataType(stated)
    elif zero_point is None:
        dtype = ir.DataType.UINT8
    else:
        producer = zero_point.producer()
        is_constant = producer is not None and producer.op_type == "Constant"
        stored = held_by_constant(producer) if producer is not None and is_constant else zero_point.const_value
        known = zero_point.dtype if stored is None else stored.dtype
        if known is None:
            raise UnsupportedNodeError("has a zero point of unknown type")
        dtype = ir.DataType(known)
    if dtype not in _RANGES:
        raise UnsupportedNodeError(f"quantizes to {dtype.name}; integers of 4, 8 and 16 bits can be trained")
    return _RANGES[dtype]


def _spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point in the shape that multiplies `x`: of all, one an index of an axis, or one a block of it."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def _quantize(node: BoundNode) -> Kernel:
    low, high = _code_range(node)
    axis, block = node.integer("axis", 1), node.integer("block_size", 0)

    def kernel(x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        codes = round_straight_through(x / _spread(scale, x, axis, block))
        if zero_point is not None:
            codes = codes + _spread(zero_point, x, axis, block)
        return torch.clamp(codes, low, high)

    return kernel


def _dequantize(node: BoundNode) -> Kernel:
    axis, block = node.integer("axis", 1), node.integer("block_size", 0)

    def kernel(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        codes = codes.to(scale.dtype)
        if zero_point is not None:
            codes = codes - _spread(zero_point, codes, axis, block)
        return codes * _spread(scale, codes, axis, block)

    return kernel


def _quantize_dynamically(node: BoundNode) -> Kernel:
    del node

    def kernel(x: Tensor) -> tuple[Tensor, ...]:
        low, high = torch.clamp(x.min(), max=0), torch.clamp(x.max(), min=0)
        scale = (high - low) / 255
        zero_point = torch.clamp(torch.round(-low / scale), 0, 255).detach()
        return torch.clamp(round_straight_through(x / scale) + zero_point, 0, 255), scale, zero_point

    return kernel


def _without_zero(codes: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    codes = codes.float()
    if zero_point is None:
        return codes
    if zero_point.dim() == 1 and zero_point.numel() > 1:
        zero_point = zero_point.unsqueeze(axis)
    return codes - zero_point


def _integer_product(node: BoundNode) -> Kernel:
    del node

    def kernel(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return torch.matmul(_without_zero(a, a_zero, -1), _without_zero(b, b_zero, 0))

    return kernel


def _integer_convolution(node: BoundNode) -> Kernel:
    convolve = bind_convolution(node)

    def kernel(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        zero = None if w_zero is None else w_zero.reshape(-1, *[1] * (w.dim() - 1))
        result: Tensor = convolve(_without_zero(x, x_zero, 0), w.float() if zero is None else w.float() - zero)
        return result

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "ConvInteger": _integer_convolution,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _quantize_dynamically,
    "MatMulInteger": _integer_product,
    "QuantizeLinear": _quantize,
}
