# SPDX-License-Identifier: Apache-2.0
"""Whose rows the tensors inside experts hold: another model may send other tokens to an expert."""

from __future__ import annotations

import onnx_ir as ir

from edgefold.passes.experts.dispatched import DispatchedExpert, find_dispatched


def routed_rows(model: ir.Model) -> dict[str, str]:
    """The values inside the experts of layers in dispatch form, by name, with the name of their tokens' row numbers."""
    return {
        str(value.name): str(expert.rows.name)
        for layer in find_dispatched(model)
        for expert in layer.experts
        for value in _inside(expert)
    }


def _inside(expert: DispatchedExpert) -> set[ir.Value]:
    """What is computed of the tokens before they go back to the sum."""
    found: set[ir.Value] = set()
    pending = [expert.tokens]
    while pending:
        value = pending.pop()
        if value not in found:
            found.add(value)
            readers = (use.node for use in value.uses())
            pending += [output for node in readers if node is not expert.scatter for output in node.outputs]
    return found
