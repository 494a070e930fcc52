# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, ARG001  (operators are named as ONNX names them; `layout` is for the kernels)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of every ``ai.edgefold`` operator, written over standard ONNX operators.

Each function here is what stock ONNX Runtime runs when the EdgeFold library is absent, what tests compare the kernels
with, and the source of the operator's page in the documentation. The bodies use only operators whose form is the
same from opset 21 to 26, and multiply integer codes in float MatMul and Conv: exact up to 2**24, on every execution
provider, where MatMulInteger and ConvInteger saturate their 16-bit sums on x86 without VNNI.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, helper
from onnxscript import FLOAT, INT8, INT64, UINT8, script
from onnxscript import opset21 as op

from edgefold.ops.unpack import EDGEFOLD, ShiftLevels, ShiftUnpack

_ONE = helper.make_tensor("one", TensorProto.UINT8, [1], [1])


@script(EDGEFOLD)
def ShiftGather(
    ids: INT64[...],
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    k: int,
    bits: int,
    layout: int = 1,
) -> FLOAT[...]:
    """Rows of a quantized embedding table: row v is column v of the packed matrix times ``scales[v]``.

    A table that is also the weight of a `ShiftMatMul` (a tied head) shares all four tensors with it.

    Inputs:
      ids: int64 or int32 of any shape, row numbers in [-N, N); negative ones count from the end.
      codes, selectors, table: as in `ShiftUnpack`, for a matrix of K rows and N columns.
      scales: float32 [N].

    Attributes:
      k: K, the length of a row of the embedding table.
      bits: the width of a code, 2 to 8.
      layout: version of the packed layout.

    Output:
      float32, the shape of ids with K appended.
    """
    last = op.Constant(value_ints=[-1])
    flat = op.Reshape(op.Cast(ids, to=TensorProto.INT64), last)
    count = op.Shape(scales, start=0, end=1)
    wrapped = op.Add(flat, op.Mul(count, op.Cast(op.Less(flat, op.Constant(value_ints=[0])), to=TensorProto.INT64)))
    rows = ShiftUnpack(codes, selectors, table, wrapped, k=k, bits=bits)
    scaled = op.Mul(rows, op.Unsqueeze(op.Gather(scales, wrapped, axis=0), op.Constant(value_ints=[1])))
    depth = op.Reshape(op.Constant(value_int=k), op.Constant(value_ints=[1]))
    return op.Reshape(scaled, op.Concat(op.Shape(ids), depth, axis=0))


@script(EDGEFOLD)
def ShiftMatMul(
    x: FLOAT[...],
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    x_scale: FLOAT[...],
    x_shifts: UINT8[...],
    k: int,
    bits: int,
    activation_low: int,
    activation_high: int,
    x_codes: int = 0,
    layout: int = 1,
) -> FLOAT[...]:
    """Matrix product with packed integer weights: ``float(xq . W) * (row scale * scales) + bias``.

    ``xq = clip(round_half_even(x / (row scale * step)), activation_low, activation_high) * step`` with the power of two
    ``step = 2**x_shifts`` of each k (ShiftQuant: groups of channels whose scales differ by powers of two). The row
    scale of static activations (x_scale > 0) is x_scale, that of dynamic ones (x_scale = 0) is
    ``max|x / step| / activation_high`` of the row; rows below 1e-30 have scale and codes 0. With activation_high = 0
    the activations stay float: ``(x . W) * scales + bias``. With x_codes = 1 x is ``xq`` itself, and x_scale its scale.

    Inputs:
      x: float32 [..., K]; with x_codes = 1 int8 (uint8 where activation_low is 0) within -127 to 127 (0 to 255).
      codes, selectors, table: as in `ShiftUnpack`, for a matrix W of K rows and N columns.
      scales: float32 [N], one a column.
      bias: float32 [N], or [1] for all columns.
      x_scale: float32 [1].
      x_shifts: uint8 [K], or [1] for all; |activation_low| and activation_high times the largest step are at most 127,
        or 255 where activation_low is 0.

    Attributes:
      k: K.
      bits: the width of a code, 2 to 8.
      activation_low, activation_high: the range of activation codes, within [-127, 255]; high 0: float activations.
      x_codes: 1 where x holds the integers that a quantizing producer made; x_scale is then positive.
      narrow_bits, narrow_scales: widths below 8, and column scales [widths, N] for each, of weights that a session may
        run at fewer bits than are stored. The library rounds them when the session's option `edgefold.weight_bits`
        says so; the function takes no notice of it.
      layout: version of the packed layout.

    Output:
      float32 [..., N].
    """
    low = op.Cast(op.Constant(value_int=activation_low), to=TensorProto.FLOAT)
    high = op.Cast(op.Constant(value_int=activation_high), to=TensorProto.FLOAT)
    nought = op.Constant(value_float=0.0)
    unit = op.Constant(value_float=1.0)
    keep_float = op.Equal(high, nought)
    as_it_is = op.Or(keep_float, op.Equal(op.Constant(value_int=x_codes), op.Constant(value_int=1)))
    values = op.Cast(x, to=TensorProto.FLOAT)
    static = op.Greater(x_scale, nought)
    steps = op.Cast(op.BitShift(op.Constant(value=_ONE), x_shifts, direction="LEFT"), to=TensorProto.FLOAT)
    # The last axis by its number: of no rows at all, ONNX Runtime 1.31 does not reduce the axis -1.
    last = op.Sub(op.Shape(op.Shape(values)), op.Constant(value_ints=[1]))
    absmax = op.ReduceMax(op.Abs(op.Div(values, steps)), last, keepdims=1)
    present = op.Greater(absmax, op.Constant(value_float=1e-30))
    scale = op.Where(static, x_scale, op.Where(present, op.Div(absmax, high), nought))
    divisor = op.Where(op.Greater(scale, nought), scale, op.Constant(value_float=float("inf")))
    quantized = op.Mul(op.Clip(op.Round(op.Div(values, op.Mul(divisor, steps))), low, high), steps)
    row_scale = op.Where(keep_float, unit, scale)

    count = op.Squeeze(op.Shape(scales, start=0, end=1))
    columns = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    weight = op.Transpose(ShiftUnpack(codes, selectors, table, columns, k=k, bits=bits), perm=[1, 0])
    product = op.MatMul(op.Where(as_it_is, values, quantized), weight)
    return op.Add(op.Mul(product, op.Mul(row_scale, scales)), bias)


@script(EDGEFOLD)
def ShiftConv(
    x: FLOAT[...],
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    x_scale: FLOAT[...],
    x_shifts: UINT8[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    k: int,
    bits: int,
    activation_low: int,
    activation_high: int,
    x_codes: int = 0,
    layout: int = 1,
) -> FLOAT[...]:
    """Convolution (1 to 3 spatial dimensions, grouped too) with packed integer weights.

    ``float(conv(xq, W)) * (x_scale * scales) + bias`` a channel, where
    ``xq = clip(round_half_even(x / (x_scale * step)), activation_low, activation_high) * step`` with the power of two
    ``step = 2**x_shifts`` of each input channel. With activation_high = 0 the activations stay float:
    ``conv(x, W) * scales + bias``. With x_codes = 1 x is ``xq`` itself, and x_scale its scale. Padding
    is the code 0.

    Inputs:
      x: float32 [B, C, spatial dimensions]; with x_codes = 1 int8 or uint8, as in `ShiftMatMul`.
      codes, selectors, table: as in `ShiftUnpack`; column m is output channel m, and k runs over kernel positions
        (row-major), then over the C / group input channels of the channel's group.
      scales: float32 [M], one an output channel.
      bias: float32 [M], or [1] for all channels.
      x_scale: float32 [1].
      x_shifts: uint8 [C], or [1] for all channels; bounded as in `ShiftMatMul`.

    Attributes:
      kernel_shape, strides, dilations: one number a spatial dimension.
      pads: explicit, all the beginnings, then all the ends.
      group: number of groups; output channel m belongs to group m // (M / group).
      k: kernel positions times C / group.
      bits: the width of a code, 2 to 8.
      activation_low, activation_high: the range of activation codes, within [-127, 255]; high 0: float activations.
      x_codes: 1 where x holds the integers that a quantizing producer made; x_scale is then positive.
      narrow_bits, narrow_scales: as in `ShiftMatMul`.
      layout: version of the packed layout.

    Output:
      float32 [B, M, spatial dimensions].
    """
    low = op.Cast(op.Constant(value_int=activation_low), to=TensorProto.FLOAT)
    high = op.Cast(op.Constant(value_int=activation_high), to=TensorProto.FLOAT)
    keep_float = op.Equal(high, op.Constant(value_float=0.0))
    as_it_is = op.Or(keep_float, op.Equal(op.Constant(value_int=x_codes), op.Constant(value_int=1)))
    values = op.Cast(x, to=TensorProto.FLOAT)
    unit = op.Constant(value_float=1.0)
    row_scale = op.Where(keep_float, unit, x_scale)
    kernel = op.Constant(value_ints=kernel_shape)
    across = op.Concat(op.Constant(value_ints=[1, -1]), op.Div(kernel, kernel), axis=0)
    shifted = op.BitShift(op.Constant(value=_ONE), x_shifts, direction="LEFT")
    steps = op.Reshape(op.Cast(shifted, to=TensorProto.FLOAT), across)
    quantized = op.Mul(op.Clip(op.Round(op.Div(values, op.Mul(x_scale, steps))), low, high), steps)

    count = op.Squeeze(op.Shape(scales, start=0, end=1))
    columns = op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    rows = ShiftUnpack(codes, selectors, table, columns, k=k, bits=bits)
    keep = op.Constant(value_ints=[0])
    rest = op.Constant(value_ints=[-1])
    by_position = op.Reshape(rows, op.Concat(keep, op.ReduceProd(kernel, keepdims=1), rest, axis=0))
    by_channel = op.Transpose(by_position, perm=[0, 2, 1])
    weight = op.Reshape(by_channel, op.Concat(keep, rest, kernel, axis=0))
    product = op.Conv(
        op.Where(as_it_is, values, quantized),
        weight,
        kernel_shape=kernel_shape,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
    )
    return op.Add(op.Mul(product, op.Mul(row_scale, op.Reshape(scales, across))), op.Reshape(bias, across))


@script(EDGEFOLD)
def FloatConv(
    x: FLOAT[...],
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    bias: FLOAT[...],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    k: int,
    bits: int,
    layout: int = 1,
) -> FLOAT[...]:
    """Convolution of floats whose weights are stored as packed integers: ``conv(x, W * scales) + bias``.

    No kernel of the library takes its place: every runtime runs this body, whose weights are constants. ONNX Runtime
    computes them when it loads the model, and convolves as fast as in the float model, from weights as large as there.

    Inputs:
      x: float32 [B, C, spatial dimensions].
      codes, selectors, table, scales, bias: as in `ShiftConv`.

    Attributes:
      kernel_shape, strides, pads, dilations, group, k, bits, layout: as in `ShiftConv`.

    Output:
      float32 [B, M, spatial dimensions].
    """
    kernel = op.Constant(value_ints=kernel_shape)
    keep = op.Constant(value_ints=[0])
    rest = op.Constant(value_ints=[-1])
    channels = op.Shape(scales)
    columns = op.Range(op.Constant(value_int=0), op.Squeeze(channels), op.Constant(value_int=1))
    tables = op.Shape(table, start=0, end=1)
    levels = ShiftLevels(codes, selectors, columns, tables, k=k, bits=bits)
    by_position = op.Reshape(levels, op.Concat(keep, op.ReduceProd(kernel, keepdims=1), rest, axis=0))
    by_channel = op.Transpose(by_position, perm=[0, 2, 1])
    index = op.Cast(op.Reshape(by_channel, op.Concat(keep, rest, kernel, axis=0)), to=TensorProto.INT32)
    values = op.Gather(op.Cast(op.Reshape(table, rest), to=TensorProto.FLOAT), index, axis=0)
    across = op.Concat(rest, op.Constant(value_ints=[1]), op.Div(kernel, kernel), axis=0)
    return op.Conv(
        x,
        op.Mul(values, op.Reshape(scales, across)),
        op.Expand(bias, channels),
        kernel_shape=kernel_shape,
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
    )
