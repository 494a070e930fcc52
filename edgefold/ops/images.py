# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802, ARG001  (operators are named as ONNX names them; nothing is packed here)
# mypy: disable-error-code="untyped-decorator"
"""How fused convolutions read and write images, in a model that packs none: as functions without branches.

`edgefold.ops.four_bits` has the functions of the same names for a model in which codes of four bits lie two a byte.
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
    """An image of floats or bytes, turned, as floats."""
    return op.Cast(op.Transpose(x, perm=perm), to=TensorProto.FLOAT)


@script(EDGEFOLD)
def ImageToStore(image: FLOAT[...], packed: int, perm: Sequence[int], dtype: int) -> TensorType:
    """The other way: an image of floats as a tensor of type ``dtype``."""
    return op.Transpose(op.Cast(image, to=dtype), perm=perm)
