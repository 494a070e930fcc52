# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""How the packed weights become numbers, over standard operators: what the operators' bodies share.

No control flow, no tensor with an empty dimension, and one text for every width: of the fields of 8, 4, 2 and 1 bits
those that it has, three at most, are taken side by side. Codes stay uint8 until the last lookup, because ONNX
Runtime folds all of it into a constant when it loads the model and keeps every step alive while it does. The steps
are few for the same reason: each is a kernel that the folding starts.
"""

from __future__ import annotations

from onnx import TensorProto, helper
from onnxscript import FLOAT, INT8, INT64, UINT8, script
from onnxscript import opset21 as op
from onnxscript.values import Opset

DOMAIN = "ai.edgefold"
VERSION = 1
EDGEFOLD = Opset(DOMAIN, VERSION)

# One row a field. A field of w bits fills 2 * w of a unit's dwords; dword d holds columns d, d + 2 * w, ...
_WIDTHS = helper.make_tensor("widths", TensorProto.INT64, [4], [8, 4, 2, 1])
_MASKS = helper.make_tensor("masks", TensorProto.UINT8, [4], [255, 15, 3, 1])
_NIBBLE = helper.make_tensor("nibble", TensorProto.UINT8, [1, 1], [15])


@script(EDGEFOLD)
def ShiftLevels(
    codes: UINT8[...],
    selectors: UINT8[...],
    columns: INT64[...],
    tables: INT64[...],
    k: int,
    bits: int,
) -> UINT8[...]:
    """The positions of some columns' weights in the flat table: ``selector << bits | code``.

    Inputs:
      codes: uint8 [ceil(N/16), ceil(K/4), 8*bits], packed codes (layout 1).
      selectors: uint8 [ceil(N/16), ceil(K/32), 8], packed table numbers, or [1, 1, 8] zeros where there is one table.
      columns: int64 [R], column numbers in [0, N).
      tables: int64 [1], how many tables there are.

    Attributes:
      k: K, the length of a column.
      bits: the width of a code, 2 to 8.

    Output:
      uint8 [R, K], below tables * 2**bits.
    """
    one = op.Constant(value_int=1)
    two = op.Constant(value_int=2)
    eight = op.Constant(value_int=8)
    last = op.Constant(value_ints=[-1])
    depth = op.Constant(value_int=k)
    width = op.Constant(value_int=bits)
    every = op.Unsqueeze(columns, last)
    panel = op.Div(every, op.Constant(value_int=16))
    column = op.Mod(every, op.Constant(value_int=16))

    # The fields that the width has; Compress would choose them too, but ONNX Runtime does not fold it.
    widths = op.Constant(value=_WIDTHS)
    present = op.Mod(op.Div(width, widths), two)
    _, fields = op.TopK(present, op.ReduceSum(present), axis=0)
    field_width = op.Unsqueeze(op.Gather(widths, fields, axis=0), op.Constant(value_ints=[1, 2]))
    dwords = op.Mul(field_width, two)
    position = op.Mul(op.Div(width, dwords), dwords)
    row = op.Add(op.Mul(panel, op.Mul(width, two)), op.Add(op.Mul(position, two), op.Mod(column, dwords)))
    dwords_apart = op.Reshape(codes, op.Constant(value_ints=[0, 0, -1, 4]))
    rows = op.Flatten(op.Transpose(dwords_apart, perm=[0, 2, 1, 3]), axis=2)
    taken = op.Gather(rows, op.Squeeze(row, last), axis=0)
    down = op.Cast(op.Mul(op.Div(column, dwords), field_width), to=TensorProto.UINT8)
    mask = op.Unsqueeze(op.Gather(op.Constant(value=_MASKS), fields, axis=0), op.Constant(value_ints=[1, 2]))
    field = op.BitwiseAnd(op.BitShift(taken, down, direction="RIGHT"), mask)
    placed = op.BitShift(field, op.Cast(position, to=TensorProto.UINT8), direction="LEFT")
    # The first, the last and what is between; of fewer than three, one is taken again, which changes nothing.
    final = op.Sub(op.Size(field_width), one)
    between = op.Gather(placed, op.Div(op.Add(final, one), two), axis=0)
    outer = op.BitwiseOr(op.Gather(placed, op.Constant(value_int=0), axis=0), op.Gather(placed, final, axis=0))
    padded = op.BitwiseOr(outer, between)
    code = op.Slice(padded, op.Constant(value_ints=[0]), op.Reshape(depth, last), last)

    several = op.Min(op.Sub(tables, one), one)
    block = op.Add(op.Mul(op.Mul(panel, eight), several), op.Mod(column, eight))
    blocks = op.Flatten(op.Transpose(selectors, perm=[0, 2, 1]), axis=2)
    nibbles = op.Gather(blocks, op.Squeeze(block, last), axis=0)
    upper = op.Cast(op.Mul(op.Div(column, eight), op.Constant(value_int=4)), to=TensorProto.UINT8)
    number = op.BitwiseAnd(op.BitShift(nibbles, upper, direction="RIGHT"), op.Constant(value=_NIBBLE))
    first = op.BitShift(number, op.Cast(width, to=TensorProto.UINT8), direction="LEFT")
    group = op.Div(op.Range(op.Constant(value_int=0), depth, one), op.Constant(value_int=32))
    per_k = op.Gather(first, op.Mul(group, several), axis=1)

    return op.BitwiseOr(per_k, code)


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
    tables = op.Shape(table, start=0, end=1)
    index = op.Cast(ShiftLevels(codes, selectors, columns, tables, k=k, bits=bits), to=TensorProto.INT32)
    levels = op.Cast(op.Reshape(table, op.Constant(value_ints=[-1])), to=TensorProto.FLOAT)
    return op.Gather(levels, index, axis=0)
