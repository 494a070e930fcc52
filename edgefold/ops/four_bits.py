# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""Codes of four bits, two a byte: the first of a pair of channels in the lower half.

Not ONNX's int4 and uint4: ONNX Runtime 1.20 knows them at no custom operator, and 1.22 and 1.23 lay other tensors over
them, so that results are wrong without a word.
"""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import FLOAT, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def StoredCodes(x: TensorType, packed: int, low: int = 0, dtype: int = TensorProto.UINT8) -> FLOAT[...]:
    """An image [B, H, W, C] of floats or bytes as floats; with ``packed`` 1, of bytes [B, H, W, C / 2].

    Codes are signed where the least one, ``low``, is negative, or their type, ``dtype``, is int8.
    """
    values = op.Cast(x, to=TensorProto.FLOAT)
    if op.Equal(op.Constant(value_int=packed), op.Constant(value_int=1)):
        sixteen = op.Constant(value_float=16.0)
        pairs = op.Mod(op.Add(values, op.Constant(value_float=256.0)), op.Constant(value_float=256.0), fmod=1)
        upper = op.Floor(op.Div(pairs, sixteen))
        lower = op.Sub(pairs, op.Mul(upper, sixteen))
        last = op.Constant(value_ints=[-1])
        both = op.Concat(op.Unsqueeze(lower, last), op.Unsqueeze(upper, last), axis=-1)
        unsigned = op.Reshape(both, op.Constant(value_ints=[0, 0, 0, -1]))
        is_negative = op.Less(op.Constant(value_int=low), op.Constant(value_int=0))
        is_int8 = op.Equal(op.Constant(value_int=dtype), op.Constant(value_int=TensorProto.INT8))
        turns = op.And(op.Or(is_negative, is_int8), op.Greater(unsigned, op.Constant(value_float=7.0)))
        codes = op.Where(turns, op.Sub(unsigned, sixteen), unsigned)
    else:
        codes = op.Identity(values)
    return codes


@script(EDGEFOLD)
def CodesToStore(codes: FLOAT[...], packed: int, dtype: int) -> TensorType:
    """The other way: an image of floats as a tensor of type ``dtype``, of bytes [B, H, W, C / 2] with ``packed`` 1."""
    if op.Equal(op.Constant(value_int=packed), op.Constant(value_int=1)):
        pairs = op.Reshape(codes, op.Constant(value_ints=[0, 0, 0, -1, 2]))
        sixteen = op.Constant(value_float=16.0)
        halves = op.Mod(op.Add(pairs, sixteen), sixteen, fmod=1)
        weights = op.Constant(value_floats=[1.0, 16.0])
        last = op.Constant(value_ints=[-1])
        unsigned = op.ReduceSum(op.Mul(halves, weights), last, keepdims=0)
        is_int8 = op.Equal(op.Constant(value_int=dtype), op.Constant(value_int=TensorProto.INT8))
        turns = op.And(is_int8, op.Greater(unsigned, op.Constant(value_float=127.0)))
        stored = op.Where(turns, op.Sub(unsigned, op.Constant(value_float=256.0)), unsigned)
    else:
        stored = op.Identity(codes)
    return op.Cast(stored, to=dtype)
