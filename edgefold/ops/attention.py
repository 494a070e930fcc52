# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``ShiftAttention``, written over standard ONNX operators."""

from __future__ import annotations

from onnxscript import FLOAT, script
from onnxscript import opset21 as op

from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def RowScales(x: FLOAT[...]) -> FLOAT[...]:
    """``max|x| / 127`` along the last axis, which stays; 0 where the largest is at most 1e-30."""
    largest = op.ReduceMax(op.Abs(x), op.Constant(value_ints=[-1]), keepdims=1)
    present = op.Greater(largest, op.Constant(value_float=1e-30))
    return op.Where(present, op.Div(largest, op.Constant(value_float=127.0)), op.Constant(value_float=0.0))


@script(EDGEFOLD)
def RowCodes(x: FLOAT[...], scales: FLOAT[...]) -> FLOAT[...]:
    """``clip(round_half_even(x / scales), -127, 127)``; 0 where the scale is 0."""
    never = op.Constant(value_float=float("inf"))
    divisor = op.Where(op.Greater(scales, op.Constant(value_float=0.0)), scales, never)
    return op.Clip(op.Round(op.Div(x, divisor)), op.Constant(value_float=-127.0), op.Constant(value_float=127.0))


@script(EDGEFOLD)
def ShiftAttention(
    q: FLOAT[...],
    k: FLOAT[...],
    v: FLOAT[...],
    mask: FLOAT[...],
    scale: float,
    causal: int,
) -> FLOAT[...]:
    """Attention of every head on integer operands: ``softmax(q k' * scale + mask) v``.

    Rows of q, k and v become int8 with a scale each, found at run time as in `ShiftMatMul`. The scale of a position's
    value belongs to its weight: weights become ``w = round_half_even(255 * u / max(u))`` along a row, where ``u =
    exp(score - largest score of the row) * scale of v``, and the sum that normalizes them is one of integers too, of
    ``round_half_even(32768 * exp(...))``. So a result depends on the positions that its query sees and on no other: a
    key/value cache, read by giving all keys and values with the queries of the newest positions alone, gives what the
    whole gives, in every bit. A row without a finite score gives zeros. The kernel multiplies integers, exactly; here
    products of weights and values are sums in float, exact up to 518 keys, and the sum of a row is exact to 2^24.

    Inputs:
      q: float32 [B, H, rows, depth].
      k: float32 [B, H, keys, depth].
      v: float32 [B, H, keys, values].
      mask: float32 of four axes that broadcasts to [B, H, rows, keys]; a single 0 where there is none.

    Attributes:
      scale: of the products, 1 / sqrt(depth) mostly.
      causal: 1 where query i sees only the keys up to ``i + keys - rows``.

    Output:
      float32 [B, H, rows, values].
    """
    last = op.Constant(value_ints=[-1])
    nought = op.Constant(value_float=0.0)
    lowest = op.Constant(value_float=float("-inf"))
    levels = op.Constant(value_float=255.0)
    unit = op.Constant(value_float=32768.0)
    q_scales = RowScales(q)
    k_scales = RowScales(k)
    v_scales = RowScales(v)
    keys = op.Transpose(RowCodes(k, k_scales), perm=[0, 1, 3, 2])
    column_scales = op.Mul(op.Transpose(k_scales, perm=[0, 1, 3, 2]), op.Constant(value_float=scale))
    products = op.MatMul(RowCodes(q, q_scales), keys)
    scores = op.Add(op.Mul(products, op.Mul(q_scales, column_scales)), mask)

    rows_count = op.Shape(q, start=2, end=3)
    keys_count = op.Shape(k, start=2, end=3)
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    row = op.Unsqueeze(op.Range(zero, op.Squeeze(rows_count), one), last)
    column = op.Range(zero, op.Squeeze(keys_count), one)
    later = op.Greater(column, op.Add(row, op.Sub(keys_count, rows_count)))
    hidden = op.And(later, op.Equal(op.Constant(value_int=causal), one))
    seen = op.Where(hidden, lowest, scores)

    largest = op.ReduceMax(seen, last, keepdims=1)
    nothing = op.Equal(largest, lowest)
    exponentials = op.Exp(op.Sub(seen, op.Where(nothing, nought, largest)))
    total = op.ReduceSum(op.Round(op.Mul(exponentials, unit)), last, keepdims=1)
    shares = op.Mul(exponentials, op.Transpose(v_scales, perm=[0, 1, 3, 2]))
    top = op.ReduceMax(shares, last, keepdims=1)
    present = op.Greater(top, op.Constant(value_float=1e-30))
    weights = op.Round(op.Mul(shares, op.Where(present, op.Div(levels, top), nought)))
    step = op.Div(op.Mul(top, op.Div(unit, levels)), op.Max(total, op.Constant(value_float=1.0)))
    return op.Mul(op.MatMul(weights, RowCodes(v, v_scales)), step)
