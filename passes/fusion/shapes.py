# SPDX-License-Identifier: Apache-2.0
"""Shapes that kinds of blocks ask for, and the additions they allow to be taken in."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Context

Shapes = Mapping[str, tuple[int, ...]]


def run_shapes(model: ir.Model, context: Context) -> Shapes:
    """Shapes of values by name, as a run of the model shows them; none where it cannot be run."""
    try:
        return context.probe(model).shapes if context.probe else {}
    except ModelError:
        return {}


def sole_addition(value: ir.Value, shapes: Shapes) -> ir.Node | None:
    """The Add that alone reads a value; None where its other operand may have another shape."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    other = node.inputs[1 - uses[0].idx] if node.op_type == "Add" and node.domain in ("", "ai.onnx") else None
    if other is None or other is value or node.graph is not value.graph:
        return None
    own = known_shape(value, shapes)
    return node if own is not None and own == known_shape(other, shapes) else None


def known_shape(value: ir.Value, shapes: Shapes) -> tuple[object, ...] | None:
    """Sizes as a run shows them, else as the graph declares them; None with an unknown one among them."""
    if str(value.name) in shapes:
        return shapes[str(value.name)]
    if value.shape is None or any(isinstance(size, ir.SymbolicDim) and size.value is None for size in value.shape):
        return None
    return tuple(value.shape)


def known_rank(value: ir.Value | None, shapes: Shapes) -> int | None:
    """How many dimensions a value has, as a run shows it, else as the graph declares it."""
    if value is None or (str(value.name) not in shapes and value.shape is None):
        return None
    return len(shapes.get(str(value.name), value.shape or ()))
