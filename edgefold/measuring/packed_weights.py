# SPDX-License-Identifier: Apache-2.0
"""The packed weight matrices that a node holds, and their sizes."""

from __future__ import annotations

import dataclasses
import math

import onnx_ir as ir

EDGEFOLD = "ai.edgefold"


@dataclasses.dataclass(frozen=True)
class PackedWeights:
    """A packed matrix, or a stack of them, which counts as one that has the columns of all.

    Attributes:
        k: rows.
        n: columns.
        inputs: of the node, that hold it: codes first, then what they need to become weights.
    """

    k: int
    n: int
    inputs: tuple[ir.Value | None, ...]


# Operator -> of each of its packed matrices the input of the codes, which selectors, table and scales follow, and the
# attribute that holds the rows.
_SHIFT = {
    "ShiftMatMul": ((1, "k"),),
    "ShiftGather": ((1, "k"),),
    "ShiftConv": ((1, "k"),),
    "FloatConv": ((1, "k"),),
    "ShiftMoE": ((2, "k"), (7, "k"), (12, "hidden")),
}
# Inputs of QMoE that hold codes, which scales follow.
_QMOE = (2, 5)


def packed_weights(node: ir.Node) -> list[PackedWeights]:
    """The packed matrices of a node, those of unknown sizes left out; none for operators without such weights."""
    if node.domain == EDGEFOLD:
        return [one for first, rows in _SHIFT.get(node.op_type, ()) for one in _shift(node, first, rows)]
    if node.domain == "com.microsoft" and node.op_type == "MatMulNBits":
        k, n = (node.attributes.get_int(name, 0) for name in ("K", "N"))
        return [PackedWeights(k, n, tuple(node.inputs[1:4]))]
    if node.domain == "com.microsoft" and node.op_type == "QMoE":
        return [one for first in _QMOE for one in _qmoe(node, first)]
    return []


def _shift(node: ir.Node, first: int, rows: str) -> list[PackedWeights]:
    columns = _sizes(node.inputs[first + 3])
    inputs = tuple(node.inputs[first : first + 4])
    return [PackedWeights(node.attributes.get_int(rows, 0), math.prod(columns), inputs)] if columns else []


def _qmoe(node: ir.Node, first: int) -> list[PackedWeights]:
    """Codes are [experts, N, K * bits / 8]."""
    sizes = _sizes(node.inputs[first])
    if len(sizes) != 3:
        return []
    k = sizes[2] * 8 // node.attributes.get_int("expert_weight_bits", 4)
    return [PackedWeights(k, sizes[0] * sizes[1], tuple(node.inputs[first : first + 2]))]


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """A value's shape; empty where it is unknown."""
    shape = () if value is None or value.shape is None else tuple(value.shape)
    return tuple(size for size in shape if isinstance(size, int)) if all(isinstance(x, int) for x in shape) else ()
