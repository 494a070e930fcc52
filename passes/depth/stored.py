# SPDX-License-Identifier: Apache-2.0
"""Stored values, told apart by type and shape: weights, or the axes, sizes and indices of arithmetic around them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

_MATRIX_CODES = 64  # one-dimensional small integers from here on are packed weights rather than scales or zero points


@dataclass(frozen=True)
class Stored:
    """An initializer, or the output of a Constant node.

    Attributes:
        value: itself.
        dtype: of its elements.
        shape: as stored.
    """

    value: ir.Value
    dtype: ir.DataType
    shape: tuple[int, ...]

    @staticmethod
    def of(value: ir.Value) -> Stored:
        """The stored value; one that is no tensor (a sparse or textual constant) counts as text."""
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return Stored(value, ir.DataType.STRING, ())
        return Stored(value, ir.DataType(tensor.dtype), tuple(int(size) for size in tensor.shape.numpy()))

    @property
    def is_parameter(self) -> bool:
        """Whether it holds weights, float or quantized (the biases of quantized layers are int32)."""
        return self.dtype not in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight of two dimensions or more, or packed codes."""
        floating = self.dtype.is_floating_point()
        if not self.is_parameter or not (floating or self.dtype.bitwidth <= 8):
            return False
        return sum(size > 1 for size in self.shape) >= 2 or (not floating and math.prod(self.shape) >= _MATRIX_CODES)
