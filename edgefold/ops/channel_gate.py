# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``CodeMean`` and ``CodeGate``: squeeze and excitation between codes, over standard ONNX operators.

What lies between the two, a few small layers on one pixel, needs no operator of its own.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def CodeMean(x: TensorType, x_scale: FLOAT[...]) -> FLOAT[...]:
    """The mean of every channel of an image of codes: ``float(sum of codes) * (x_scale / pixels)``.

    A global average pool whose sum is of integers, so that it is the same in every order.

    Inputs:
      x: uint8 or int8 codes [B, H, W, C], at most 2**23 pixels.
      x_scale: float32 [1], positive.

    Output:
      float32 [B, C, 1, 1].
    """
    total = op.ReduceSum(op.Cast(x, to=TensorProto.INT32), op.Constant(value_ints=[1, 2]), keepdims=1)
    pixels = op.Cast(op.ReduceProd(op.Shape(x, start=1, end=3), keepdims=1), to=TensorProto.FLOAT)
    means = op.Mul(op.Cast(total, to=TensorProto.FLOAT), op.Div(x_scale, pixels))
    return op.Transpose(means, perm=[0, 3, 1, 2])


@script(EDGEFOLD)
def CodeGate(
    x: TensorType,
    gate: FLOAT[...],
    x_scale: FLOAT[...],
    y_scale: FLOAT[...],
    y_low: int,
    y_high: int,
    y_dtype: int,
) -> TensorType:
    """Every channel of an image of codes times a factor of its own, as codes.

    ``y = clip(round_half_even(float(x) * (x_scale * gate) / y_scale), y_low, y_high)``.

    Inputs:
      x: uint8 or int8 codes [B, H, W, C].
      gate: float32 [B, C, 1, 1].
      x_scale, y_scale: float32 [1], positive.

    Attributes:
      y_low, y_high: the range of output codes, within [-127, 255]; y_high is positive.
      y_dtype: 2 (uint8) or 3 (int8), what y holds.

    Output:
      uint8 or int8 codes [B, H, W, C].
    """
    scale = op.Mul(x_scale, op.Transpose(gate, perm=[0, 2, 3, 1]))
    v = op.Mul(op.Cast(x, to=TensorProto.FLOAT), scale)
    low = op.Cast(op.Constant(value_int=y_low), to=TensorProto.FLOAT)
    high = op.Cast(op.Constant(value_int=y_high), to=TensorProto.FLOAT)
    return op.Cast(op.Clip(op.Round(op.Div(v, y_scale)), low, high), to=y_dtype)
