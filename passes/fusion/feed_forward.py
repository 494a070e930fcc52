# SPDX-License-Identifier: Apache-2.0
"""The kind ``feed-forward``: two quantized linear layers, with what is between them and what follows the second."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.activations import IDENTITY, Activation, ActivationNodes, find_activation
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.linear import LinearBlock, function_attributes, is_layer, what_follows
from edgefold.passes.fusion.replacement import put_in_place
from edgefold.passes.fusion.shapes import Shapes, run_shapes

KIND = "feed-forward"
ROWS_AT_ONCE = 128
"""Rows that the kernel takes through a block before the next ones."""


@dataclasses.dataclass(frozen=True)
class FeedForward:
    """Nodes that one FusedFeedForward computes.

    Attributes:
        up: the first ShiftMatMul.
        activation: between them; the identity where there is none, as between the factors of a matrix of low rank.
        down: the second, with the activation and the addition that follow it.
        first: the nodes of the first layer and the activation, in graph order.
    """

    up: ir.Node
    activation: Activation
    down: LinearBlock
    first: tuple[ir.Node, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All of them in graph order."""
        return (*self.first, *self.down.nodes)

    @property
    def label(self) -> str:
        return node_label(self.up)


def fuse_feed_forward(model: ir.Model, context: Context, device: Device) -> Notes:
    """Joins the feed-forward blocks of the main graph and of the bodies of If, Loop and Scan, in place.

    Numerics: bit-equal to the separate nodes where activations are clippings; other functions are those of the kernels,
    whose last bits are not ONNX Runtime's.
    """
    graph = model.graph
    graph.sort()
    shapes = run_shapes(model, context)
    store = InitializerStore(graph)
    edits: list[Edit] = []
    skips: list[Skip] = []
    table: list[Mapping[str, Any]] = []
    fused: set[ir.Node] = set()
    for found in list(_candidates(graph, shapes)):
        if isinstance(found, Skip):
            skips.append(found)
            continue
        # Looked for anew: of two blocks whose sum is taken the first has taken the addition in.
        found = dataclasses.replace(found, down=what_follows(found.down.layer, shapes))
        if found.activation == IDENTITY and fused.intersection(found.nodes):
            continue  # what has an activation inside comes first: it saves more
        if found.up in fused:  # of three layers in a row the middle one has gone with the first
            why = "it went with the layer before, and so begins no block itself"
            skips.append(Skip(found.label, SkipReason.NOTHING_TO_GAIN, why))
        elif any(context.excludes(node_label(node)) for node in found.nodes):
            skips.append(Skip(found.label, SkipReason.EXCLUDED))
        else:
            decision = _decision(found, shapes, device)
            table.append(_row(found, decision))
            if decision.fuse:
                edits.append(_replace(store, found))
                fused.update(found.nodes)
            else:
                skips.append(Skip(found.label, SkipReason.NOTHING_TO_GAIN, decision.why))
    return Notes(tuple(edits), tuple(skips), {f"{KIND}.blocks": len(edits)}, tuple(table))


def _candidates(graph: ir.Graph, shapes: Shapes) -> Iterator[FeedForward | Skip]:
    """Every layer whose activation reads nothing else and feeds another layer; then those that feed one directly."""
    layers = [node for node in nodes_of(graph) if is_layer(node)]
    for up in layers:
        between = find_activation(up.outputs[0])
        if between is not None:
            yield from _pairs(up, between, shapes)
    for up in layers:
        if len(up.outputs[0].uses()) == 1:
            yield from _pairs(up, ActivationNodes(IDENTITY, (), up.outputs[0]), shapes)


def _pairs(up: ir.Node, between: ActivationNodes, shapes: Shapes) -> Iterator[FeedForward | Skip]:
    """The layer with the one that reads what is between; a Skip for what stands in the way."""
    uses = list(between.output.uses())
    downs = [use.node for use in uses if use.idx == 0 and is_layer(use.node)]
    if not downs:
        return
    down = downs[0]
    if between.output.is_graph_output():
        yield Skip(node_label(up), SkipReason.GRAPH_OUTPUT, "the hidden tensor")
    elif len(uses) > 1 or any(node.graph is not up.graph for node in (*between.nodes, down)):
        yield Skip(node_label(up), SkipReason.INSEPARABLE, "the hidden tensor has several readers")
    elif any(node.attributes.get_int("x_codes", 0) for node in (up, down)):
        yield Skip(node_label(up), SkipReason.ATTRIBUTE, "a layer reads codes that its producer makes")
    else:
        yield FeedForward(up, between.activation, what_follows(down, shapes), (up, *between.nodes))


def _decision(block: FeedForward, shapes: Shapes, device: Device) -> Decision:
    """Compares what the hidden tensor and the weights cost when they are met again.

    Unfused, the hidden floats are written, rewritten by the activation, where there is one, and read twice by the
    quantizer, all of them at each step; fused, a block of rows is written once and read twice. Either way the weights
    are read once for every such block of rows, but in turns of one layer or of both.
    """
    x = block.up.inputs[0]
    shape = shapes.get(str(x.name)) if x is not None else None
    rows = math.prod(shape[:-1]) if shape else ROWS_AT_ONCE
    row_bytes = 4 * block.down.layer.attributes.get_int("k", 0)
    blocks = -(-rows // ROWS_AT_ONCE)
    weights = [_weight_bytes(node) for node in (block.up, block.down.layer)]
    again = (blocks - 1) * sum(weights)
    tensor, part = rows * row_bytes, min(rows, ROWS_AT_ONCE) * row_bytes
    passes = 3 if block.activation == IDENTITY else 5
    unfused = (Move("hidden", passes * tensor, tensor), Move("weights", again, max(weights)))
    fused = (Move("hidden", 3 * tensor, part), Move("weights", again, sum(weights)))
    return decide(Plan(len(block.nodes), unfused), Plan(1, fused), device)


def _weight_bytes(node: ir.Node) -> int:
    stored = (value.const_value for value in node.inputs[1:5] if value is not None)
    return sum(tensor.nbytes for tensor in stored if tensor is not None)


def _row(block: FeedForward, decision: Decision) -> Mapping[str, Any]:
    row = {"block": block.label, "kind": KIND, "activation": block.activation.title}
    return row | dataclasses.asdict(decision)


def _replace(store: InitializerStore, block: FeedForward) -> Edit:
    """Puts the operator in the place of the nodes."""
    zero = store.add("edgefold.zero", np.zeros(1, np.float32))
    attributes = function_attributes(block.activation)
    if block.down.activation != IDENTITY:
        attributes += function_attributes(block.down.activation, "down_")
    for prefix, layer in (("up_", block.up), ("down_", block.down.layer)):
        kept = (value for name, value in layer.attributes.items() if name != "x_codes")
        attributes += [ir.Attr(prefix + value.name, value.type, value.value) for value in kept]
    inputs = [*block.up.inputs, *block.down.layer.inputs[1:], block.down.residual or zero]
    put_in_place("FusedFeedForward", block.nodes, inputs, attributes, block.label)
    return Edit(block.label, f"FusedFeedForward of {', '.join(one.op_type for one in block.nodes)}")
