# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, ARG001  (operators are named as ONNX names them; `layout` is for the kernels)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``ShiftMoE``, written over standard ONNX operators.

The loop has the weights of all experts as constants from outside: unpacking hangs on nothing that a run brings, so
ONNX Runtime folds it when it loads the model, as it does for ``ShiftMatMul``.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, INT8, UINT8, script
from onnxscript import opset21 as op

from edgefold.ops.activation import Activation
from edgefold.ops.unpack import EDGEFOLD, ShiftLevels

HIGH = 127.0
"""The largest code of a row."""


@script(EDGEFOLD)
def ShiftUnpackStack(
    codes: UINT8[...],
    selectors: UINT8[...],
    table: INT8[...],
    scales: FLOAT[...],
    k: int,
    bits: int,
) -> FLOAT[...]:
    """The integer weights of a stack of packed matrices, as floats.

    Inputs:
      codes, selectors, table: as in `ShiftUnpack`, each with a leading dimension M.
      scales: float32 [M, N].

    Attributes:
      k: K, the rows of each matrix.
      bits: the width of a code, 2 to 8.

    Output:
      float32 [M, K, N], whole numbers in [-127, 127].
    """
    nought = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    last = op.Constant(value_ints=[-1])
    count = op.Shape(scales, start=0, end=1)
    matrices = op.Unsqueeze(op.Range(nought, op.Squeeze(count), one), last)
    within = op.Range(nought, op.Squeeze(op.Shape(scales, start=1, end=2)), one)
    padded = op.Mul(op.Shape(codes, start=1, end=2), op.Constant(value_int=16))
    columns = op.Reshape(op.Add(op.Mul(matrices, padded), within), last)
    flat_codes = op.Reshape(codes, op.Concat(last, op.Shape(codes, start=2), axis=0))
    flat_selectors = op.Reshape(selectors, op.Concat(last, op.Shape(selectors, start=2), axis=0))
    tables = op.Shape(table, start=1, end=2)
    levels = ShiftLevels(flat_codes, flat_selectors, columns, tables, k=k, bits=bits)

    by_matrix = op.Reshape(levels, op.Concat(op.Shape(scales), last, axis=0))
    size = op.Mul(tables, op.Shape(table, start=2, end=3))
    first = op.Cast(op.Unsqueeze(op.Mul(matrices, size), last), to=TensorProto.INT32)
    index = op.Add(op.Cast(by_matrix, to=TensorProto.INT32), first)
    weights = op.Gather(op.Cast(op.Reshape(table, last), to=TensorProto.FLOAT), index, axis=0)
    return op.Transpose(weights, perm=[0, 2, 1])


@script(EDGEFOLD)
def ShiftRows(x: FLOAT[...], weight: FLOAT[...], scales: FLOAT[...], bias: FLOAT[...]) -> FLOAT[...]:
    """``ShiftMatMul`` of dynamic int8 activations with weights that are unpacked already.

    Inputs:
      x: float32 [n, K].
      weight: float32 [K, N], whole numbers in [-127, 127].
      scales, bias: float32 [N].

    Output:
      float32 [n, N].
    """
    high = op.Constant(value_float=HIGH)
    nought = op.Constant(value_float=0.0)
    absmax = op.ReduceMax(op.Abs(x), op.Constant(value_ints=[1]), keepdims=1)
    present = op.Greater(absmax, op.Constant(value_float=1e-30))
    scale = op.Where(present, op.Div(absmax, high), nought)
    divisor = op.Where(op.Greater(scale, nought), scale, op.Constant(value_float=float("inf")))
    quantized = op.Clip(op.Round(op.Div(x, divisor)), op.Neg(high), high)
    return op.Add(op.Mul(op.MatMul(quantized, weight), op.Mul(scale, scales)), bias)


@script(EDGEFOLD)
def ShiftMoE(
    x: FLOAT[...],
    gates: FLOAT[...],
    gate_codes: UINT8[...],
    gate_selectors: UINT8[...],
    gate_table: INT8[...],
    gate_scales: FLOAT[...],
    gate_bias: FLOAT[...],
    up_codes: UINT8[...],
    up_selectors: UINT8[...],
    up_table: INT8[...],
    up_scales: FLOAT[...],
    up_bias: FLOAT[...],
    down_codes: UINT8[...],
    down_selectors: UINT8[...],
    down_table: INT8[...],
    down_scales: FLOAT[...],
    down_bias: FLOAT[...],
    k: int,
    hidden: int,
    bits: int,
    gated: int,
    function: int,
    alpha: float,
    beta: float,
    limit: float,
    up_offset: float,
    layout: int = 1,
) -> FLOAT[...]:
    """A mixture of experts with packed integer weights: each expert's share of the tokens that are routed to it.

    ``y[t] = sum over e of gates[t, e] * down_e(h_e(x[t]))``, added in ascending order of the experts e whose gate of
    the token is not 0, with ``h_e(x) = f(min(gate_e(x), limit)) * (clip(up_e(x), -limit, limit) + up_offset)``, or
    ``f(min(gate_e(x), limit))`` alone where gated is 0. The products gate, up and down are those of `ShiftMatMul` with
    dynamic 8-bit activations: the tokens and h are quantized with one scale a row.

    Inputs:
      x: float32 [..., K], T rows in all.
      gates: float32 [T, M], exactly 0 where a token is not routed to an expert.
      gate_codes, gate_selectors, gate_table: as in `ShiftUnpack`, each with a leading dimension M, for matrices of K
        rows and F columns.
      gate_scales: float32 [M, F].
      gate_bias: float32 [M, F], or [1, 1] for all.
      up_codes, up_selectors, up_table, up_scales, up_bias: likewise; where gated is 0 they are not used, and those of
        gate may stand here.
      down_codes, down_selectors, down_table, down_scales, down_bias: likewise, for matrices of F rows and K columns.

    Attributes:
      k: K.
      hidden: F.
      bits: the width of a code, 2 to 8.
      gated: 1 where up is multiplied in.
      function, alpha, beta: f, as in `Activation`.
      limit: of what enters f, and of up; infinity for none.
      up_offset: what is added to up.
      layout: version of the packed layout.

    Output:
      float32, the shape of x.
    """
    gate_weights = ShiftUnpackStack(gate_codes, gate_selectors, gate_table, gate_scales, k=k, bits=bits)
    up_weights = ShiftUnpackStack(up_codes, up_selectors, up_table, up_scales, k=k, bits=bits)
    down_weights = ShiftUnpackStack(down_codes, down_selectors, down_table, down_scales, k=hidden, bits=bits)
    gate_biases = op.Expand(gate_bias, op.Shape(gate_scales))
    up_biases = op.Expand(up_bias, op.Shape(up_scales))
    down_biases = op.Expand(down_bias, op.Shape(down_scales))
    high = op.Constant(value_float=limit)
    offset = op.Constant(value_float=up_offset)
    is_gated = op.Equal(op.Constant(value_int=gated), op.Constant(value_int=1))
    last = op.Constant(value_ints=[-1])
    axis = op.Constant(value_ints=[1])
    rows = op.Reshape(x, op.Concat(last, op.Shape(x, start=-1), axis=0))
    y = op.ConstantOfShape(op.Shape(rows))
    for e in range(op.Squeeze(op.Shape(gates, start=1, end=2))):
        column = op.Gather(gates, e, axis=1)
        routed = op.Reshape(op.NonZero(column), last)
        tokens = op.Gather(rows, routed, axis=0)
        gate = ShiftRows(tokens, op.Gather(gate_weights, e), op.Gather(gate_scales, e), op.Gather(gate_biases, e))
        up = ShiftRows(tokens, op.Gather(up_weights, e), op.Gather(up_scales, e), op.Gather(up_biases, e))
        active = Activation(op.Min(gate, high), function=function, alpha=alpha, beta=beta)
        factor = op.Add(op.Clip(up, op.Neg(high), high), offset)
        h = op.Where(is_gated, op.Mul(active, factor), active)
        result = ShiftRows(h, op.Gather(down_weights, e), op.Gather(down_scales, e), op.Gather(down_biases, e))
        share = op.Mul(result, op.Unsqueeze(op.Gather(column, routed), axis))
        y = op.ScatterND(y, op.Unsqueeze(routed, axis), share, reduction="add")
    return op.Reshape(y, op.Shape(x))
