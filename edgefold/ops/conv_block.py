# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, ARG001  (operators are named as ONNX names them; `layout` is for the kernels)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``FusedConvBlock``, written over `ShiftConv`, `Activation` and standard ONNX operators.

Between fused blocks tensors are codes that lie channel-last, those of four bits also two a byte; where a region of
them meets the rest of the graph, a block reads or writes a float tensor that lies channel-first or channel-last.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto
from onnxscript import FLOAT, INT8, UINT8, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.activation import Activation
from edgefold.ops.functions import ShiftConv
from edgefold.ops.images import ImageToStore, StoredImage
from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def FusedConvBlock(
    x: TensorType,
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    x_scale: FLOAT[...],
    x_shifts: UINT8[...],
    residual: TensorType,
    residual_scale: FLOAT[...],
    y_scale: FLOAT[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    k: int,
    bits: int,
    activation_low: int,
    activation_high: int,
    x_codes: int,
    x_perm: Sequence[int],
    function: int,
    alpha: float,
    beta: float,
    residual_at: int,
    residual_dtype: int,
    y_low: int,
    y_high: int,
    y_dtype: int,
    y_perm: Sequence[int],
    x_packed: int = 0,
    residual_packed: int = 0,
    y_packed: int = 0,
    layout: int = 1,
) -> TensorType:
    """A convolution of two spatial dimensions, what is added to it and its activation function, from codes to codes.

    One of a single dimension is one of images of a single row: its packed weights are the same.

    ``v = ShiftConv(x)``, to which ``residual * residual_scale`` is added before or after ``v = Activation(v)``;
    ``y = clip(round_half_even(v / y_scale), y_low, y_high)``, or v itself.

    Inputs:
      x: uint8 or int8 codes [B, H, W, C], or float32 [B, C, H, W] or [B, H, W, C].
      codes, selectors, table, scales, bias, x_scale, x_shifts: as in `ShiftConv`; x_scale is positive.
      residual: uint8 or int8 codes, with the shape of y channel-last; [1, 1, 1, 1] where there is none.
      residual_scale, y_scale: float32 [1], positive.

    Attributes:
      kernel_shape, strides, pads, dilations, group, k, bits, activation_low, activation_high: as in `ShiftConv`.
      x_codes: 1 where x holds codes.
      x_perm: the axes of x that are batch, channels, height and width: [0, 3, 1, 2], or for floats [0, 1, 2, 3].
        Floats that lie channel-last have an x_shifts of 0.
      function, alpha, beta: as in `Activation`.
      residual_at: 0: nothing is added; 1: before the activation; 2: after it.
      residual_dtype: 2 (uint8) or 3 (int8), what the residual is.
      y_low, y_high: the range of output codes, within [-127, 255]; y_high 0: float.
      y_dtype: 2 (uint8) or 3 (int8) for codes, else 1 (float32).
      y_perm: the order of y: [0, 2, 3, 1], or for floats [0, 1, 2, 3].
      x_packed, residual_packed, y_packed: 1 where codes of 0 to 15, or of -8 to 7, and of an even number of channels
        lie two a byte, the first in its lower half: the last size is half the number of channels, the type uint8 or
        int8 as it would be else.
      narrow_bits, narrow_scales: as in `ShiftMatMul`.
      layout: version of the packed layout.

    Output:
      uint8 or int8 codes [B, H', W', M], or float32 [B, M, H', W'] or [B, H', W', M].
    """
    nought = op.Constant(value_float=0.0)
    place = op.Constant(value_int=residual_at)
    residual_codes = StoredImage(residual, packed=residual_packed, perm=[0, 3, 1, 2], dtype=residual_dtype)
    added = op.Mul(residual_codes, residual_scale)
    before = op.Where(op.Equal(place, op.Constant(value_int=1)), added, nought)
    after = op.Where(op.Equal(place, op.Constant(value_int=2)), added, nought)
    product = ShiftConv(
        StoredImage(x, packed=x_packed, perm=x_perm, low=activation_low),
        codes,
        selectors,
        table,
        scales,
        bias,
        x_scale,
        x_shifts,
        kernel_shape=kernel_shape,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
        k=k,
        bits=bits,
        activation_low=activation_low,
        activation_high=activation_high,
        x_codes=x_codes,
    )
    v = op.Add(Activation(op.Add(product, before), function=function, alpha=alpha, beta=beta), after)
    low = op.Cast(op.Constant(value_int=y_low), to=TensorProto.FLOAT)
    high = op.Cast(op.Constant(value_int=y_high), to=TensorProto.FLOAT)
    quantized = op.Clip(op.Round(op.Div(v, y_scale)), low, high)
    y = op.Where(op.Equal(high, nought), v, quantized)
    return ImageToStore(y, packed=y_packed, perm=y_perm, dtype=y_dtype)
