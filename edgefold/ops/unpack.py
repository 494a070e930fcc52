# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""How the packed weights become numbers, over standard operators: what the operators' bodies share.

No control flow, no tensor with an empty dimension, and one text for every width: a field that a width lacks is
masked out. Codes stay uint8 until the last lookup, because ONNX Runtime folds all of it into a constant when it
loads the model and keeps every step alive while it does.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, INT8, INT64, UINT8, script
from onnxscript import opset21 as op
from onnxscript.values import Opset

DOMAIN = "ai.edgefold"
VERSION = 1
EDGEFOLD = Opset(DOMAIN, VERSION)


@script(EDGEFOLD)
def ShiftField(rows_of_bytes: UINT8[...], columns: INT64[...], bits: INT64[...], width: int) -> UINT8[...]:
    """One bit field of the codes of some columns, at its place in the code; zeros where the width has no such field.

    Inputs:
      rows_of_bytes: uint8 [panels * 2 * bits, K4 * 4], the packed codes with one row a dword of the unit.
      columns: int64 [R, 1], the column numbers.
      bits: int64 [1], the width of a code.

    Attributes:
      width: 8, 4, 2 or 1, the width of the field.

    Output:
      uint8 [R, K4 * 4].
    """
    one = op.Constant(value_ints=[1])
    two = op.Constant(value_ints=[2])
    sixteen = op.Constant(value_ints=[16])
    w = op.Reshape(op.Constant(value_int=width), one)
    dwords = op.Mul(w, two)
    column = op.Mod(columns, sixteen)
    position = op.Mul(op.Div(bits, dwords), dwords)
    present = op.Mod(op.Div(bits, w), two)
    panel_row = op.Mul(op.Mul(op.Div(columns, sixteen), bits), two)
    row = op.Add(panel_row, op.Mul(op.Add(op.Mul(position, two), op.Mod(column, dwords)), present))
    bytes_ = op.Gather(rows_of_bytes, op.Squeeze(row, one), axis=0)
    down = op.Cast(op.Mul(w, op.Div(column, dwords)), to=TensorProto.UINT8)
    mask = op.Cast(op.Mul(op.Sub(op.Pow(two, w), one), present), to=TensorProto.UINT8)
    up = op.Cast(op.Mul(position, present), to=TensorProto.UINT8)
    field = op.BitwiseAnd(op.BitShift(bytes_, down, direction="RIGHT"), mask)
    return op.BitShift(field, up, direction="LEFT")


@script(EDGEFOLD)
def ShiftUnpack(
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    columns: INT64[...],
    k: int,
    bits: int,
) -> FLOAT[...]:
    """The integer weights of some columns of a packed matrix: ``table[selector, code]``, as floats.

    Inputs:
      codes: uint8 [ceil(N/16), ceil(K/4), 8*bits], packed codes (layout 1).
      selectors: uint8 [ceil(N/16), ceil(K/32), 8], packed table numbers, or [1, 1, 8] zeros where there is one table.
      table: int8 [T, 2**bits], T * 2**bits at most 256.
      columns: int64 [R], column numbers in [0, N).

    Attributes:
      k: K, the length of a column.
      bits: the width of a code, 2 to 8.

    Output:
      float32 [R, K], whole numbers in [-127, 127].
    """
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    eight = op.Constant(value_ints=[8])
    depth = op.Reshape(op.Constant(value_int=k), one)
    width = op.Reshape(op.Constant(value_int=bits), one)
    column = op.Unsqueeze(columns, one)
    panels = op.Shape(codes, start=0, end=1)
    units = op.Shape(codes, start=1, end=2)
    four = op.Constant(value_ints=[4])
    dwords = op.Reshape(codes, op.Concat(panels, units, op.Mul(width, op.Constant(value_ints=[2])), four, axis=0))
    by_dword = op.Transpose(dwords, perm=[0, 2, 1, 3])
    rows = op.Reshape(by_dword, op.Concat(op.Constant(value_ints=[-1]), op.Mul(units, four), axis=0))
    high = op.BitwiseOr(ShiftField(rows, column, width, width=8), ShiftField(rows, column, width, width=4))
    low = op.BitwiseOr(ShiftField(rows, column, width, width=2), ShiftField(rows, column, width, width=1))
    code = op.Slice(op.BitwiseOr(high, low), zero, depth, one)

    groups = op.Shape(selectors, start=1, end=2)
    by_column = op.Concat(op.Constant(value_ints=[-1]), groups, axis=0)
    blocks = op.Reshape(op.Transpose(selectors, perm=[0, 2, 1]), by_column)
    sixteen = op.Constant(value_ints=[16])
    panel_row = op.Mul(op.Div(column, sixteen), eight)
    row = op.Min(op.Add(panel_row, op.Mod(column, eight)), op.Sub(op.Shape(blocks, start=0, end=1), one))
    nibbles = op.Gather(blocks, op.Squeeze(row, one), axis=0)
    upper = op.Mod(op.Div(column, eight), op.Constant(value_ints=[2]))
    shifted = op.BitShift(nibbles, op.Cast(op.Mul(upper, four), to=TensorProto.UINT8), direction="RIGHT")
    number = op.BitwiseAnd(shifted, op.Cast(op.Constant(value_ints=[15]), to=TensorProto.UINT8))
    entry = op.Mul(op.Cast(number, to=TensorProto.INT32), op.Cast(op.Shape(table, start=1), to=TensorProto.INT32))
    first = op.Cast(entry, to=TensorProto.UINT8)
    group = op.Div(op.Range(op.Squeeze(zero), op.Squeeze(depth), op.Squeeze(one)), op.Constant(value_ints=[32]))
    per_k = op.Gather(first, op.Min(group, op.Sub(groups, one)), axis=1)

    index = op.Cast(op.BitwiseOr(per_k, code), to=TensorProto.INT32)
    levels = op.Cast(op.Reshape(table, op.Constant(value_ints=[-1])), to=TensorProto.FLOAT)
    return op.Gather(levels, index, axis=0)
