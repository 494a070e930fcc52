# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``FusedLinear``: a product, an activation function and an addition, one after the other."""

from __future__ import annotations

from onnxscript import FLOAT, INT8, UINT8, script
from onnxscript import opset21 as op

from edgefold.ops.activation import Activation
from edgefold.ops.functions import ShiftMatMul
from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def FusedLinear(
    x: FLOAT[...],
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    x_scale: FLOAT[...],
    x_shifts: UINT8[...],
    residual: FLOAT[...],
    k: int,
    bits: int,
    activation_low: int,
    activation_high: int,
    function: int,
    alpha: float,
    beta: float,
    x_codes: int = 0,
) -> FLOAT[...]:
    """A linear layer with what follows it: ``Activation(ShiftMatMul(x)) + residual``.

    The kernel does both on some columns of some rows, while the results of their product are in the cache, with the
    same result in every bit as the kernels of the three operators.

    Inputs:
      x, codes, selectors, table, scales, bias, x_scale, x_shifts: as in `ShiftMatMul`, [..., K] to N columns.
      residual: float32 [..., N], added last; [1], holding 0, where there is none.

    Attributes:
      k, bits, activation_low, activation_high, x_codes: as in `ShiftMatMul`; it may also have narrow_bits,
        narrow_scales and layout.
      function, alpha, beta: the activation function, as `Activation` takes them; a clipping to -inf and inf is none.

    Output:
      float32 [..., N].
    """
    product = ShiftMatMul(
        x,
        codes,
        selectors,
        table,
        scales,
        bias,
        x_scale,
        x_shifts,
        k=k,
        bits=bits,
        activation_low=activation_low,
        activation_high=activation_high,
        x_codes=x_codes,
    )
    return op.Add(Activation(product, function=function, alpha=alpha, beta=beta), residual)
