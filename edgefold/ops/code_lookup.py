# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  (operators are named as ONNX names them)
# mypy: disable-error-code="untyped-decorator"
"""The meaning of ``CodeLookup``: any function of one byte, as a table."""

from __future__ import annotations

from onnx import TensorProto
from onnxscript import opset21 as op
from onnxscript import script
from onnxscript.onnx_types import TensorType

from edgefold.ops.unpack import EDGEFOLD


@script(EDGEFOLD)
def CodeLookup(x: TensorType, table: TensorType, y_dtype: int) -> TensorType:
    """Bytes become codes by a table: ``y[i] = table[x[i]]``, for a negative x ``table[256 + x[i]]``.

    What stands between the bytes of a camera image and the codes of the first convolution is a function of one byte;
    so is the way from codes of one scale to those of another.

    Inputs:
      x: uint8 or int8, of any shape.
      table: uint8 or int8 [256].

    Attributes:
      y_dtype: 2 (uint8) or 3 (int8), what the table and y hold.

    Output:
      uint8 or int8, with the shape of x.
    """
    return op.Cast(op.Gather(table, op.Cast(x, to=TensorProto.INT32)), to=y_dtype)
