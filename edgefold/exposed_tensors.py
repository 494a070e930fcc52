# SPDX-License-Identifier: Apache-2.0
"""A copy of a model whose outputs are tensors from its inside."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def visible_values(model: ir.Model) -> dict[str, ir.Value]:
    """The values of the main graph by name."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {value.name: value for value in values if value.name}


def exposing(model: ir.Model, names: Sequence[str], shapes: Sequence[str] | None = None) -> ir.Model:
    """A copy of the model (sharing its tensors) whose only outputs are the named tensors, or their shapes."""
    copy = model.clone()
    visible = visible_values(copy)
    copy.graph.outputs.clear()
    for number, name in enumerate(names):
        value = visible[name]
        if shapes:
            node = ir.node("Shape", [value], name=shapes[number])
            node.outputs[0].name = shapes[number]
            node.outputs[0].dtype = ir.DataType.INT64
            copy.graph.append(node)
            value = node.outputs[0]
        copy.graph.outputs.append(value)
    return copy
