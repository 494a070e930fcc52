# SPDX-License-Identifier: Apache-2.0
"""Layers that train in integers, in the places of ``nn.Conv2d`` and ``nn.Linear``."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from edgefold.heal.integer.codes import InputCodes, weight_codes
from edgefold.heal.integer.products import Arithmetic, integer_convolution, integer_linear
from edgefold.heal.integer.shift_quantizer import ShiftQuantizer


@dataclasses.dataclass(frozen=True)
class Precision:
    """Widths of one layer's integers.

    Attributes:
        weights: bits of a weight, 2 to 8.
        inputs: bits of an input, 2 to 8.
        unsigned: the inputs are never negative.
        gradient: how the gradient of the outputs is rounded; None leaves it float.
    """

    weights: int = 4
    inputs: int = 4
    unsigned: bool = True
    gradient: ShiftQuantizer | None = dataclasses.field(default_factory=ShiftQuantizer)


class IntegerConv2d(nn.Conv2d):  # type: ignore[misc]  # torch has no types here
    """A convolution without bias that multiplies integers, forward and backward; the weights it keeps are float.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: side of the window; odd, and padded by half of it.
        stride: of the windows.
        groups: of channels.
        precision: widths of the integers.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, precision: Precision, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.precision = precision
        self.input_codes = InputCodes(precision.inputs, precision.unsigned)

    def forward(self, x: Tensor) -> Tensor:
        x_codes, step = self.input_codes(x)
        w_codes, scales = weight_codes(self.weight, self.precision.weights)
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        sums = integer_convolution(x_codes, w_codes, _arithmetic(self), *geometry)
        return sums * (step * scales)[:, None, None]


class IntegerLinear(nn.Linear):  # type: ignore[misc]  # torch has no types here
    """A fully connected layer that multiplies integers, forward and backward; weights and bias are kept in float.

    Args:
        inputs: features.
        outputs: features.
        precision: widths of the integers.
    """

    def __init__(self, inputs: int, outputs: int, *, precision: Precision) -> None:
        super().__init__(inputs, outputs)
        self.precision = precision
        self.input_codes = InputCodes(precision.inputs, precision.unsigned)

    def forward(self, x: Tensor) -> Tensor:
        x_codes, step = self.input_codes(x)
        w_codes, scales = weight_codes(self.weight, self.precision.weights)
        return integer_linear(x_codes, w_codes, _arithmetic(self)) * (step * scales) + self.bias


def _arithmetic(layer: Any) -> Arithmetic:
    precision: Precision = layer.precision
    return Arithmetic(layer.input_codes.high, 2 ** (precision.weights - 1) - 1, precision.gradient)
