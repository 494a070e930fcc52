# SPDX-License-Identifier: Apache-2.0
"""Brings the mixture-of-experts layers of a model into dispatch form."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgefold.passes.base import Context, Edit, Skip
from edgefold.passes.experts.dispatch import write_dispatch
from edgefold.passes.experts.recognition.layers import Layer, find_layers


def to_dispatch(model: ir.Model, context: Context) -> tuple[list[Edit], list[Skip]]:
    """Rewrites every layer that is recognised; `find_dispatched` then finds it.

    Args:
        model: edited.
        context: `probe` and `compute` are needed.

    Returns:
        What was rewritten, and what was left alone with the reason. Layers in dispatch form are neither.
    """
    layers, skips = find_layers(model, context)
    edits = []
    for layer in layers:
        _rewrite(model.graph, layer)
        edits.append(Edit(layer.name, f"{len(layer.experts)} experts, {layer.form}: to dispatch form"))
    return edits, skips


def _rewrite(graph: ir.Graph, layer: Layer) -> None:
    """Puts the dispatch form in the place of a layer; the output keeps its name."""
    last, old = layer.output.producer(), layer.output
    assert last is not None
    x = layer.x
    if x.shape is None:
        x.shape = ir.Shape([None] * layer.rank)
    dtype = x.dtype = x.dtype or ir.DataType.from_numpy(layer.experts[0].down.weight.dtype)
    gates, end = layer.gates.write(graph, layer.name, len(layer.experts), last)
    output = write_dispatch(graph, layer.name, x, gates, layer.experts, layer.activation, after=end)
    output.shape, output.type = old.shape, ir.TensorType(dtype)
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    name = str(old.name)
    remove_unread(graph, [last])
    output.name = name


def remove_unread(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Removes nodes whose outputs nothing reads, what only they read, and their stored tensors."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.graph is None or any(one.uses() or one.is_graph_output() for one in node.outputs):
            continue
        read = [value for value in node.inputs if value is not None]
        graph.remove(node, safe=True)
        for value in dict.fromkeys(read):
            producer = value.producer()
            if producer is not None:
                pending.append(producer)
            elif value.is_initializer() and not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                graph.initializers.pop(str(value.name))
