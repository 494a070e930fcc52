# SPDX-License-Identifier: Apache-2.0
"""Fused operators as the layers that they compute, for what counts layers."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

_ATTENTION = ("ShiftAttention", "RowCodes", "RowScales")


def unfused(model: ir.Model) -> ir.Model:
    """The model with ``Fused...`` operators of ``ai.edgefold`` and attention replaced by the bodies of their functions.

    That leaves `ShiftConv`, `ShiftMatMul` and MatMul nodes, with the weights that the fused node has. The model itself
    where it has none; else a copy that shares its tensors.
    """
    if not any(_is_fused(function) for function in model.functions.values()):
        return model
    return InlinePass(criteria=_is_fused)(model.clone()).model


def _is_fused(function: ir.Function) -> bool:
    return function.domain == "ai.edgefold" and (function.name.startswith("Fused") or function.name in _ATTENTION)
