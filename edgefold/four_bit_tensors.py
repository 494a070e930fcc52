# SPDX-License-Identifier: Apache-2.0
"""Tensors of int4 and uint4, which ONNX Runtime's Python interface cannot hand over: they come and go as bytes."""

from __future__ import annotations

import onnx_ir as ir

BYTES = {ir.DataType.INT4: ir.DataType.INT8, ir.DataType.UINT4: ir.DataType.UINT8}


def as_bytes(value: ir.Value) -> ir.Node | None:
    """The node that makes bytes of a tensor of four bits; None where it is none."""
    return None if value.dtype not in BYTES else _cast(value, BYTES[value.dtype])


def of_bytes(value: ir.Value, wanted: ir.DataType | None) -> ir.Node | None:
    """The node that makes ``wanted``, a type of four bits, of a tensor of bytes; None where it is another one."""
    return None if wanted not in BYTES else _cast(value, wanted)


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    output = ir.Value(name=f"{value.name}.{to.name.lower()}", type=ir.TensorType(to), shape=value.shape)
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(to))], outputs=[output], name=f"{output.name}/cast")
