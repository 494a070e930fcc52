# SPDX-License-Identifier: Apache-2.0
"""Codes made of bytes, or of other codes, by a table of 256 entries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.fusion.conv_chains import CodeFormat

Codes = npt.NDArray[np.generic]


def codes_of(numbers: npt.NDArray[np.float32], to: CodeFormat) -> Codes:
    """Numbers as codes, which are uint8 where none is negative, else int8."""
    codes = np.clip(np.rint(numbers / np.float32(to.scale)), to.low, to.high)
    return np.asarray(codes, np.uint8 if to.low == 0 else np.int8)


def recoding(written: CodeFormat, wanted: CodeFormat) -> Codes:
    """The wanted code of every byte that holds a written one."""
    kind = np.uint8 if written.low == 0 else np.int8
    codes = np.arange(256, dtype=np.uint8).view(kind)
    return codes_of(codes.astype(np.float32) * np.float32(written.scale), wanted)


def code_lookup(source: ir.Value, table: Codes, name: str, store: InitializerStore) -> ir.Node:
    """A CodeLookup that stands in no graph yet.

    Args:
        source: uint8 or int8.
        table: [256], what each byte becomes.
        name: of what it gives.
        store: where the table is kept.
    """
    kind = ir.DataType.from_numpy(table.dtype)
    operands = [source, store.add(f"{name}.table", table)]
    attributes = ir.convenience.convert_attributes({"y_dtype": int(kind)})
    output = ir.Value(name=name, type=ir.TensorType(kind), shape=source.shape)
    node = ir.Node("ai.edgefold", "CodeLookup", operands, attributes, outputs=[output], name=f"{name}/lookup")
    node.metadata_props["edgefold.pass"] = "fuse-blocks"
    return node
