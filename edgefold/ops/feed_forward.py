# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``FusedFeedForward``: the operators that it stands for, one after the other."""

from __future__ import annotations

import math

from onnxscript import FLOAT, INT8, UINT8, script
from onnxscript import opset21 as op

from edgefold.ops.activation import Activation
from edgefold.ops.functions import ShiftMatMul
from edgefold.ops.unpack import EDGEFOLD

_LOWEST, _HIGHEST = -math.inf, math.inf


@script(EDGEFOLD)
def FusedFeedForward(
    x: FLOAT[...],
    up_codes: UINT8[...],
    up_selectors: UINT8[...],
    up_table: INT8[...],
    up_scales: FLOAT[...],
    up_bias: FLOAT[...],
    up_x_scale: FLOAT[...],
    up_x_shifts: UINT8[...],
    down_codes: UINT8[...],
    down_selectors: UINT8[...],
    down_table: INT8[...],
    down_scales: FLOAT[...],
    down_bias: FLOAT[...],
    down_x_scale: FLOAT[...],
    down_x_shifts: UINT8[...],
    residual: FLOAT[...],
    up_k: int,
    up_bits: int,
    up_activation_low: int,
    up_activation_high: int,
    down_k: int,
    down_bits: int,
    down_activation_low: int,
    down_activation_high: int,
    function: int,
    alpha: float,
    beta: float,
    down_function: int = 0,
    down_alpha: float = _LOWEST,
    down_beta: float = _HIGHEST,
) -> FLOAT[...]:
    """Two linear layers, as a transformer's feed-forward block or a perceptron has them.

    ``Activation(ShiftMatMul(Activation(ShiftMatMul(x)))) + residual``.

    The hidden tensor is quantized as the second product's attributes say, dynamically row by row where down_x_scale is
    0. The kernel takes some rows through all of it before the next ones, with the same result in every bit as the
    kernels of the two products would give around the same activation.

    Inputs:
      x: float32 [..., K].
      up_codes, up_selectors, up_table, up_scales, up_bias, up_x_scale, up_x_shifts: the first product, K to H columns,
        as in `ShiftMatMul`.
      down_codes, down_selectors, down_table, down_scales, down_bias, down_x_scale, down_x_shifts: the second, H to N.
      residual: float32 [..., N], added last; [1], holding 0, where there is none.

    Attributes:
      up_k, up_bits, up_activation_low, up_activation_high: k, bits, activation_low and activation_high of the first
        product, as in `ShiftMatMul`; it may also have up_narrow_bits, up_narrow_scales and up_layout.
      down_k, down_bits, down_activation_low, down_activation_high: those of the second; down_k is H.
      function, alpha, beta: the activation function between them, as `Activation` takes them; a clipping to -inf and
        inf is none.
      down_function, down_alpha, down_beta: that of what the second product gives; none where it has none of them.

    Output:
      float32 [..., N].
    """
    hidden = ShiftMatMul(
        x,
        up_codes,
        up_selectors,
        up_table,
        up_scales,
        up_bias,
        up_x_scale,
        up_x_shifts,
        k=up_k,
        bits=up_bits,
        activation_low=up_activation_low,
        activation_high=up_activation_high,
    )
    y = ShiftMatMul(
        Activation(hidden, function=function, alpha=alpha, beta=beta),
        down_codes,
        down_selectors,
        down_table,
        down_scales,
        down_bias,
        down_x_scale,
        down_x_shifts,
        k=down_k,
        bits=down_bits,
        activation_low=down_activation_low,
        activation_high=down_activation_high,
    )
    return op.Add(Activation(y, function=down_function, alpha=down_alpha, beta=down_beta), residual)
