# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``ShiftAttention``, and of attention over a cache of codes, written over standard ONNX operators."""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, INT8, script
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
def AttendCodes(
    q: FLOAT[...],
    k_codes: FLOAT[...],
    k_scales: FLOAT[...],
    v_codes: FLOAT[...],
    v_scales: FLOAT[...],
    mask: FLOAT[...],
    scale: float,
    causal: int,
) -> FLOAT[...]:
    """What `ShiftAttention` and `CachedAttention` share, from codes of keys and values as floats.

    Heads of queries that share one of keys get an axis of their own, along which MatMul repeats it.
    """
    last = op.Constant(value_ints=[-1])
    nought = op.Constant(value_float=0.0)
    lowest = op.Constant(value_float=float("-inf"))
    levels = op.Constant(value_float=255.0)
    unit = op.Constant(value_float=32768.0)
    one_of = op.Constant(value_ints=[1])
    shared = op.Constant(value_ints=[2])
    heads = op.Shape(q, start=1, end=2)
    groups = op.Shape(k_codes, start=1, end=2)
    split = op.Concat(groups, op.Div(heads, op.Max(groups, one_of)), axis=0)
    batch = op.Shape(q, start=0, end=1)
    queries = op.Reshape(q, op.Concat(batch, split, op.Shape(q, start=2), axis=0), allowzero=1)
    whole = op.Equal(op.Shape(mask, start=1, end=2), heads)
    of_heads = op.Where(whole, split, op.Constant(value_ints=[1, 1]))
    of_mask = op.Concat(op.Shape(mask, start=0, end=1), of_heads, op.Shape(mask, start=2), axis=0)
    added = op.Reshape(mask, of_mask, allowzero=1)

    q_scales = RowScales(queries)
    keys = op.Unsqueeze(op.Transpose(k_codes, perm=[0, 1, 3, 2]), shared)
    of_keys = op.Unsqueeze(op.Transpose(k_scales, perm=[0, 1, 3, 2]), shared)
    of_values = op.Unsqueeze(op.Transpose(v_scales, perm=[0, 1, 3, 2]), shared)
    column_scales = op.Mul(of_keys, op.Constant(value_float=scale))
    products = op.MatMul(RowCodes(queries, q_scales), keys)
    scores = op.Add(op.Mul(products, op.Mul(q_scales, column_scales)), added)

    rows_count = op.Shape(q, start=2, end=3)
    keys_count = op.Shape(k_codes, start=2, end=3)
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
    shares = op.Mul(exponentials, of_values)
    top = op.ReduceMax(shares, last, keepdims=1)
    present = op.Greater(top, op.Constant(value_float=1e-30))
    weights = op.Round(op.Mul(shares, op.Where(present, op.Div(levels, top), nought)))
    step = op.Div(op.Mul(top, op.Div(unit, levels)), op.Max(total, op.Constant(value_float=1.0)))
    results = op.Mul(op.MatMul(weights, op.Unsqueeze(v_codes, shared)), step)
    rows_of = op.Concat(op.Shape(q, start=0, end=3), op.Shape(v_codes, start=3), axis=0)
    return op.Reshape(results, rows_of, allowzero=1)


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
      k: float32 [B, G, keys, depth], where G divides H: neighbouring heads of queries share one of keys.
      v: float32 [B, G, keys, values].
      mask: float32 of four axes that broadcasts to [B, H, rows, keys]; a single 0 where there is none.

    Attributes:
      scale: of the products, 1 / sqrt(depth) mostly.
      causal: 1 where query i sees only the keys up to ``i + keys - rows``.

    Output:
      float32 [B, H, rows, values].
    """
    k_scales = RowScales(k)
    v_scales = RowScales(v)
    return AttendCodes(
        q, RowCodes(k, k_scales), k_scales, RowCodes(v, v_scales), v_scales, mask, scale=scale, causal=causal
    )


@script(EDGEFOLD)
def SplitHeads(x: FLOAT[...], heads: int) -> FLOAT[...]:
    """``[B, rows, heads * columns]`` as ``[B, heads, rows, columns]``."""
    count = op.Reshape(op.Constant(value_int=heads), op.Constant(value_ints=[1]))
    apart = op.Concat(op.Shape(x, end=2), count, op.Div(op.Shape(x, start=2), count), axis=0)
    return op.Transpose(op.Reshape(x, apart, allowzero=1), perm=[0, 2, 1, 3])


@script(EDGEFOLD)
def ShiftMultiHeadAttention(
    q: FLOAT[...],
    k: FLOAT[...],
    v: FLOAT[...],
    mask: FLOAT[...],
    num_heads: int,
    kv_num_heads: int,
    scale: float,
    causal: int,
) -> FLOAT[...]:
    """`ShiftAttention` of heads that lie side by side in a row, as projections write and read them.

    Inputs:
      q: float32 [B, rows, H * depth].
      k: float32 [B, keys, G * depth], where G divides H: neighbouring heads of queries share one of keys.
      v: float32 [B, keys, G * values].
      mask: float32 of four axes that broadcasts to [B, H, rows, keys]; a single 0 where there is none.

    Attributes:
      num_heads: H.
      kv_num_heads: G.
      scale, causal: as in `ShiftAttention`.

    Output:
      float32 [B, rows, H * values].
    """
    queries = SplitHeads(q, heads=num_heads)
    keys = SplitHeads(k, heads=kv_num_heads)
    values = SplitHeads(v, heads=kv_num_heads)
    results = op.Transpose(ShiftAttention(queries, keys, values, mask, scale=scale, causal=causal), perm=[0, 2, 1, 3])
    count = op.Reshape(op.Constant(value_int=num_heads), op.Constant(value_ints=[1]))
    joined = op.Concat(op.Shape(results, end=2), op.Mul(count, op.Shape(results, start=3)), axis=0)
    return op.Reshape(results, joined, allowzero=1)


@script(EDGEFOLD)
def QuantizeRows(x: FLOAT[...]) -> tuple[INT8[...], FLOAT[...]]:
    """Rows to int8 codes with a scale each, as a cache of keys or values keeps them.

    ``codes = clip(round_half_even(x / scales), -127, 127)`` with ``scales = max|x| / 127`` of a row, the last axis; a
    row whose largest magnitude is at most 1e-30 has scale and codes 0. They stand for ``codes * scales``.

    Inputs:
      x: float32 of one axis or more; the last has at least one element.

    Outputs:
      codes: int8, the shape of x.
      scales: float32, the shape of x with 1 in place of the last size.
    """
    scales = RowScales(x)
    codes = op.Cast(RowCodes(x, scales), to=TensorProto.INT8)
    return codes, scales


@script(EDGEFOLD)
def CachedAttention(
    q: FLOAT[...],
    k_codes: INT8[...],
    k_scales: FLOAT[...],
    v_codes: INT8[...],
    v_scales: FLOAT[...],
    mask: FLOAT[...],
    scale: float,
    causal: int,
) -> FLOAT[...]:
    """Attention over a cache that holds keys and values as int8 codes with a scale a position and head.

    With codes and scales that `QuantizeRows` made of keys and values it gives, in every bit, what `ShiftAttention`
    gives of those keys and values: the cache costs no accuracy beyond that. A step of a decoder quantizes the rows of
    its new positions and reads the others as they are.

    Inputs:
      q: float32 [B, H, rows, depth].
      k_codes: int8 [B, G, keys, depth], where G divides H: neighbouring heads of queries share one of keys.
      k_scales: float32 [B, G, keys, 1], not negative.
      v_codes: int8 [B, G, keys, values].
      v_scales: float32 [B, G, keys, 1], not negative.
      mask: float32 of four axes that broadcasts to [B, H, rows, keys]; a single 0 where there is none.

    Attributes:
      scale, causal: as in `ShiftAttention`.

    Output:
      float32 [B, H, rows, values].
    """
    keys = op.Cast(k_codes, to=TensorProto.FLOAT)
    values = op.Cast(v_codes, to=TensorProto.FLOAT)
    return AttendCodes(q, keys, k_scales, values, v_scales, mask, scale=scale, causal=causal)
