# SPDX-License-Identifier: Apache-2.0
"""Activation functions and normalized exponentials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel


def _plain(function: Kernel) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        del node
        return function

    return bind


def _parametric(function: Callable[..., Tensor], **defaults: float) -> Binding:
    """An activation whose attributes are floats, passed on in the order of `defaults`."""

    def bind(node: BoundNode) -> Kernel:
        values = [node.real(name, default) for name, default in defaults.items()]
        return lambda x: function(x, *values)

    return bind


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def _celu(x: Tensor, alpha: float) -> Tensor:
    return torch.clamp(x, min=0) + torch.clamp(alpha * torch.expm1(x / alpha), max=0)


def _shrink(x: Tensor, bias: float, threshold: float) -> Tensor:
    zero = torch.zeros_like(x)
    return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, zero))


def _thresholded(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def _prelu(node: BoundNode) -> Kernel:
    by_channel = node.version < 7  # later opsets broadcast the slope as numpy does

    def kernel(x: Tensor, slope: Tensor) -> Tensor:
        if by_channel and slope.dim() == 1:
            slope = slope.reshape(-1, *[1] * (x.dim() - 2))
        return torch.where(x < 0, x * slope, x)

    return kernel


def _gelu(node: BoundNode) -> Kernel:
    approximation = node.text("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximation)


def _swish(x: Tensor, alpha: float) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def _along_axis(function: Callable[[Tensor, int], Tensor]) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        if node.version >= 13:
            last = node.integer("axis", -1)
            return lambda x: function(x, last)
        axis = node.integer("axis", 1)

        def flattened(x: Tensor) -> Tensor:
            # Before opset 13 all axes from `axis` on were taken together.
            rows = math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()])
            return function(x.reshape(rows, -1), -1).reshape(x.shape)

        return flattened

    return bind


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)


OPERATORS: Mapping[str, Binding] = {
    "Celu": _parametric(_celu, alpha=1.0),
    "Elu": _parametric(lambda x, alpha: functional.elu(x, alpha), alpha=1.0),
    "Gelu": _gelu,
    "HardSigmoid": _parametric(_hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _plain(functional.hardswish),
    "Hardmax": _along_axis(_hardmax),
    "LeakyRelu": _parametric(lambda x, alpha: functional.leaky_relu(x, alpha), alpha=0.01),
    "LogSoftmax": _along_axis(torch.log_softmax),
    "Mish": _plain(functional.mish),
    "PRelu": _prelu,
    "Relu": _plain(torch.relu),
    "Selu": _parametric(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": _parametric(_shrink, bias=0.0, lambd=0.5),
    "Sigmoid": _plain(torch.sigmoid),
    "Softmax": _along_axis(torch.softmax),
    "Softplus": _plain(functional.softplus),
    "Softsign": _plain(functional.softsign),
    "Swish": _parametric(_swish, alpha=1.0),
    "Tanh": _plain(torch.tanh),
    "ThresholdedRelu": _parametric(_thresholded, alpha=1.0),
}
