# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``L1LayerNormalization``, written over standard ONNX operators.

Its sums are of integers, in int64 here and in int32 in the kernels, so that body and kernels agree in every bit
whatever the order of their additions.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, UINT8, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.unpack import EDGEFOLD

LEVELS = 16383.0
"""Largest magnitude of the 15-bit integers that a row of float32 becomes."""


@script(EDGEFOLD)
def L1LayerNormalization(
    x: TensorType,
    gamma: FLOAT[...],
    beta: FLOAT[...],
    shifts: UINT8[...],
    epsilon: float,
    centred: int,
    x_codes: int,
    activation_high: int,
    y_dtype: int,
) -> TensorType:
    """Rows divided by their mean absolute deviation, in integers: ``(x - mean) / max(mean|x - mean|, epsilon)``.

    That quotient, times gamma, plus beta, is the output y, or its codes. The scale of x has no influence (but through
    epsilon): a row becomes integers t, ``round_half_even(x * 16383 / max|x|)`` for float32 and ``128 * x`` for codes;
    mean and deviation are sums of integers. A row of one value gives beta. Codes are
    ``clip(round_half_even(y), -activation_high, activation_high) << shifts``: to quantize with a scale s and a shift,
    divide gamma and beta by s and by the power of two.

    Where it stands for a LayerNormalization, gamma holds the ratio of deviations too, sqrt(2 / pi) for Gaussian rows
    (Wu et al., L1-norm batch normalization, arXiv 1802.09769, section 3).

    Inputs:
      x: float32, or int8 codes, [..., D].
      gamma, beta: float32 [D].
      shifts: uint8 [D], or [1] for all.

    Attributes:
      epsilon: the least mean absolute deviation to divide by, in units of x; at least 0.
      centred: 0 leaves the mean in: ``x / max(mean|x|, epsilon)``, the L1 form of RMSNormalization.
      x_codes: 1 where x holds codes.
      activation_high: the largest code, 1 to 127; 0: y is float32.
      y_dtype: 3 (int8) where y holds codes, else 1 (float32).

    Output:
      float32 or int8, the shape of x.
    """
    last = op.Constant(value_ints=[-1])
    nought = op.Constant(value_float=0.0)
    values = op.Cast(x, to=TensorProto.FLOAT)
    absmax = op.ReduceMax(op.Abs(values), last, keepdims=1)
    present = op.Greater(absmax, op.Constant(value_float=1e-30))
    spread = op.Where(present, op.Div(op.Constant(value_float=LEVELS), absmax), nought)
    is_codes = op.Cast(op.Constant(value_int=x_codes), to=TensorProto.BOOL)
    factor = op.Where(is_codes, op.Constant(value_float=128.0), spread)
    levels = op.Cast(op.Round(op.Mul(values, factor)), to=TensorProto.INT64)

    columns = op.Cast(op.Shape(gamma, start=0, end=1), to=TensorProto.FLOAT)
    total = op.Cast(op.ReduceSum(levels, last, keepdims=1), to=TensorProto.FLOAT)
    mean = op.Cast(op.Round(op.Div(total, columns)), to=TensorProto.INT64)
    differences = op.Sub(levels, op.Mul(mean, op.Constant(value_int=centred)))
    deviation = op.Cast(op.ReduceSum(op.Abs(differences), last, keepdims=1), to=TensorProto.FLOAT)
    divisor = op.Max(deviation, op.Mul(columns, op.Mul(op.Constant(value_float=epsilon), factor)))
    scale = op.Where(op.Greater(divisor, nought), op.Div(columns, divisor), nought)
    y = op.Add(op.Mul(op.Cast(differences, to=TensorProto.FLOAT), op.Mul(scale, gamma)), beta)

    high = op.Cast(op.Constant(value_int=activation_high), to=TensorProto.FLOAT)
    steps = op.BitShift(op.Cast(op.Constant(value_int=1), to=TensorProto.UINT8), shifts, direction="LEFT")
    codes = op.Mul(op.Clip(op.Round(y), op.Neg(high), high), op.Cast(steps, to=TensorProto.FLOAT))
    return op.Cast(op.Where(op.Equal(high, nought), y, codes), to=y_dtype)
