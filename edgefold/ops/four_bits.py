# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""How fused convolutions store images: codes of four bits also two a byte, the first of a pair in the lower half.

Not ONNX's int4 and uint4: ONNX Runtime 1.20 knows them at no custom operator, and 1.22 and 1.23 lay other tensors over
them, so that results are wrong without a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto
from onnxscript import FLOAT, script
from onnxscript import opset21 as op
from onnxscript.onnx_types import TensorType

from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def StoredImage(
    x: TensorType, packed: int, perm: Sequence[int], low: int = 0, dtype: int = TensorProto.UINT8
) -> FLOAT[...]:
    """An image of floats or bytes, turned, as floats; with ``packed`` 1, of bytes [B, H, W, C / 2].

    Codes are signed where the least one, ``low``, is negative, or their type, ``dtype``, is int8.
    """
    if op.Equal(op.Constant(value_int=packed), op.Constant(value_int=1)):
        sixteen = op.Constant(value_float=16.0)
        values = op.Cast(x, to=TensorProto.FLOAT)
        pairs = op.Mod(op.Add(values, op.Constant(value_float=256.0)), op.Constant(value_float=256.0), fmod=1)
        upper = op.Floor(op.Div(pairs, sixteen))
        lower = op.Sub(pairs, op.Mul(upper, sixteen))
        last = op.Constant(value_ints=[-1])
        both = op.Concat(op.Unsqueeze(lower, last), op.Unsqueeze(upper, last), axis=-1)
        unsigned = op.Reshape(both, op.Constant(value_ints=[0, 0, 0, -1]))
        is_negative = op.Less(op.Constant(value_int=low), op.Constant(value_int=0))
        is_int8 = op.Equal(op.Constant(value_int=dtype), op.Constant(value_int=TensorProto.INT8))
        turns = op.And(op.Or(is_negative, is_int8), op.Greater(unsigned, op.Constant(value_float=7.0)))
        image = op.Transpose(op.Where(turns, op.Sub(unsigned, sixteen), unsigned), perm=perm)
    else:
        image = op.Cast(op.Transpose(x, perm=perm), to=TensorProto.FLOAT)
    return image


@script(EDGEFOLD)
def ImageToStore(image: FLOAT[...], packed: int, perm: Sequence[int], dtype: int) -> TensorType:
    """The other way: an image of floats as a tensor of type ``dtype``, of bytes [B, H, W, C / 2] with ``packed`` 1."""
    if op.Equal(op.Constant(value_int=packed), op.Constant(value_int=1)):
        pairs = op.Reshape(op.Transpose(image, perm=perm), op.Constant(value_ints=[0, 0, 0, -1, 2]))
        sixteen = op.Constant(value_float=16.0)
        halves = op.Mod(op.Add(pairs, sixteen), sixteen, fmod=1)
        weights = op.Constant(value_floats=[1.0, 16.0])
        last = op.Constant(value_ints=[-1])
        unsigned = op.ReduceSum(op.Mul(halves, weights), last, keepdims=0)
        is_int8 = op.Equal(op.Constant(value_int=dtype), op.Constant(value_int=TensorProto.INT8))
        turns = op.And(is_int8, op.Greater(unsigned, op.Constant(value_float=127.0)))
        stored = op.Cast(op.Where(turns, op.Sub(unsigned, op.Constant(value_float=256.0)), unsigned), to=dtype)
    else:
        stored = op.Transpose(op.Cast(image, to=dtype), perm=perm)
    return stored
