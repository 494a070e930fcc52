# SPDX-License-Identifier: Apache-2.0
"""Operators that compute each element by itself, under numpy's broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from edgefold.heal.operators.node import (
    Binding,
    BoundNode,
    Kernel,
    UnsupportedNodeError,
    held_by_constant,
    torch_dtype,
    torch_tensor,
)


def _always(function: Kernel) -> Binding:
    """An operator without attributes."""

    def bind(node: BoundNode) -> Kernel:
        del node
        return function

    return bind


def _arithmetic(function: Callable[[Tensor, Tensor], Tensor]) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        if node.version >= 7 or not node.integer("broadcast", 0):
            return function
        axis = node.integer("axis", -1)

        def aligned(a: Tensor, b: Tensor) -> Tensor:
            # Before opset 7 the second operand's axes could be aligned to begin at any of the first's.
            after = 0 if axis < 0 else a.dim() - axis - b.dim()
            return function(a, b.reshape((*b.shape, *[1] * after)))

        return aligned

    return bind


class RoundStraightThrough(torch.autograd.Function):  # type: ignore[misc]  # torch has no types here
    """Rounds half to even; its gradient is that of the identity.

    The true gradient is zero almost everywhere. Round stands in a network only as part of a quantizer, and what lies
    before it can then be trained by the straight-through estimator (Bengio et al., 1308.3432).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Rounds."""
        del ctx
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Passes the gradient on."""
        del ctx
        return gradient


def round_straight_through(x: Tensor) -> Tensor:
    """Rounds half to even with the gradient of the identity."""
    return RoundStraightThrough.apply(x)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(node: BoundNode) -> Kernel:
    exponent = node.constant(1)
    if exponent is not None and exponent.numel() == 1 and exponent.dim() == 0 and node.version >= 7:
        value = exponent.item()
        return lambda x, _: x.pow(value) if x.is_floating_point() else torch.pow(x, value).to(x.dtype)
    return _arithmetic(lambda a, b: torch.pow(a, b).to(a.dtype))(node)


def _modulo(node: BoundNode) -> Kernel:
    return torch.fmod if node.integer("fmod", 0) else torch.remainder  # type: ignore[no-any-return]


def _shift(node: BoundNode) -> Kernel:
    if node.text("direction", "LEFT") == "LEFT":
        return torch.bitwise_left_shift  # type: ignore[no-any-return]
    return torch.bitwise_right_shift  # type: ignore[no-any-return]


def _bitwise_not(node: BoundNode) -> Kernel:
    value = node.node.inputs[0]
    if value is None or value.dtype in (ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64):
        raise UnsupportedNodeError("inverts unsigned integers of more than 8 bits, which torch cannot hold")
    return torch.bitwise_not  # type: ignore[no-any-return]


def _is_infinite(node: BoundNode) -> Kernel:
    positive, negative = node.integer("detect_positive", 1), node.integer("detect_negative", 1)
    if positive and negative:
        return torch.isinf  # type: ignore[no-any-return]
    if positive:
        return torch.isposinf  # type: ignore[no-any-return]
    return torch.isneginf if negative else lambda x: torch.zeros_like(x, dtype=torch.bool)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Binding:
    return _always(lambda *operands: functools.reduce(function, operands))


def _cast(node: BoundNode) -> Kernel:
    if node.integer("to", 0) in (ir.DataType.INT4, ir.DataType.UINT4):
        raise UnsupportedNodeError("casts to 4 bits, which torch cannot hold; QuantizeLinear can be trained")
    dtype = torch_dtype(node.integer("to", 0))
    return lambda x: x.to(dtype)


def _cast_like(node: BoundNode) -> Kernel:
    like = node.node.inputs[1]
    if like is not None and like.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        raise UnsupportedNodeError("casts to 4 bits, which torch cannot hold; QuantizeLinear can be trained")
    return lambda x, like: x.to(like.dtype)


def _clip(node: BoundNode) -> Kernel:
    low, high = node.constant(1), node.constant(2)
    dynamic = (node.has(1) and low is None) or (node.has(2) and high is None)
    if dynamic:
        return _clip_to
    lowest = node.real("min", 0) if "min" in node.node.attributes else None if low is None else low.item()
    highest = node.real("max", 0) if "max" in node.node.attributes else None if high is None else high.item()
    if lowest is None and highest is None:
        return lambda x, *_: x
    return lambda x, *_: torch.clamp(x, lowest, highest)


def _clip_to(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def _dropout(node: BoundNode) -> Kernel:
    mode = node.constant(2)
    if node.has(2) and (mode is None or bool(mode.item())):
        raise UnsupportedNodeError("drops at random (training_mode); export the model for inference")
    if node.reads_output(1):
        return lambda x, *_: (x, torch.ones_like(x, dtype=torch.bool))
    return lambda x, *_: x


def _constant(node: BoundNode) -> Kernel:
    tensor = held_by_constant(node.node)
    if tensor is None:
        raise UnsupportedNodeError("holds text or a sparse tensor")
    value = torch_tensor(tensor)
    return lambda: value


OPERATORS: Mapping[str, Binding] = {
    "Abs": _always(torch.abs),
    "Acos": _always(torch.acos),
    "Acosh": _always(torch.acosh),
    "Add": _arithmetic(torch.add),
    "And": _arithmetic(torch.logical_and),
    "Asin": _always(torch.asin),
    "Asinh": _always(torch.asinh),
    "Atan": _always(torch.atan),
    "Atanh": _always(torch.atanh),
    "BitShift": _shift,
    "BitwiseAnd": _always(torch.bitwise_and),
    "BitwiseNot": _bitwise_not,
    "BitwiseOr": _always(torch.bitwise_or),
    "BitwiseXor": _always(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _always(torch.ceil),
    "Clip": _clip,
    "Constant": _constant,
    "Cos": _always(torch.cos),
    "Cosh": _always(torch.cosh),
    "Div": _arithmetic(_divide),
    "Dropout": _dropout,
    "Equal": _arithmetic(torch.eq),
    "Erf": _always(torch.erf),
    "Exp": _always(torch.exp),
    "Floor": _always(torch.floor),
    "Greater": _arithmetic(torch.gt),
    "GreaterOrEqual": _arithmetic(torch.ge),
    "Identity": _always(lambda x: x),
    "IsInf": _is_infinite,
    "IsNaN": _always(torch.isnan),
    "Less": _arithmetic(torch.lt),
    "LessOrEqual": _arithmetic(torch.le),
    "Log": _always(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _always(lambda *operands: functools.reduce(torch.add, operands) / len(operands)),
    "Min": _variadic(torch.minimum),
    "Mod": _modulo,
    "Mul": _arithmetic(torch.mul),
    "Neg": _always(torch.neg),
    "Not": _always(torch.logical_not),
    "Or": _arithmetic(torch.logical_or),
    "Pow": _power,
    "Reciprocal": _always(torch.reciprocal),
    "Round": _always(round_straight_through),
    "Sign": _always(torch.sign),
    "Sin": _always(torch.sin),
    "Sinh": _always(torch.sinh),
    "Sqrt": _always(torch.sqrt),
    "Sub": _arithmetic(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _always(torch.tan),
    "Where": _always(_where),
    "Xor": _arithmetic(torch.logical_xor),
}
