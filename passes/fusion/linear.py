# SPDX-License-Identifier: Apache-2.0
"""The kind ``linear``: a quantized linear layer with the activation and the addition that follow it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.activations import IDENTITY, Activation, ActivationNodes, find_activation
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.replacement import put_in_place
from edgefold.passes.fusion.shapes import Shapes, run_shapes, sole_addition

KIND = "linear"
_TILE_BYTES = 16 << 10
"""Of the results that the kernel finishes while they are in the first-level cache."""


@dataclasses.dataclass(frozen=True)
class LinearBlock:
    """Nodes that one FusedLinear computes.

    Attributes:
        layer: the ShiftMatMul.
        activation: of what it gives; the identity where there is none.
        nodes: all of them in graph order.
        add: the node that adds the residual, or None.
    """

    layer: ir.Node
    activation: Activation
    nodes: tuple[ir.Node, ...]
    add: ir.Node | None

    @property
    def label(self) -> str:
        return node_label(self.layer)

    @property
    def residual(self) -> ir.Value | None:
        """What is added."""
        inside = {value for node in self.nodes for value in node.outputs}
        return None if self.add is None else next(x for x in self.add.inputs if x not in inside)


def fuse_linear(model: ir.Model, context: Context, device: Device) -> Notes:
    """Gives linear layers of the main graph and of bodies what follows them, in place.

    Numerics: bit-equal to the separate nodes where the activation is a clipping or there is none; other functions are
    those of the kernels, whose last bits are not ONNX Runtime's.
    """
    model.graph.sort()
    shapes = run_shapes(model, context)
    store = InitializerStore(model.graph)
    edits: list[Edit] = []
    skips: list[Skip] = []
    table: list[Mapping[str, Any]] = []
    for layer in [node for node in nodes_of(model.graph) if is_layer(node)]:
        block = what_follows(layer, shapes)  # looked for now: the layer before may have taken the addition
        if len(block.nodes) == 1:
            continue
        if any(context.excludes(node_label(node)) for node in block.nodes):
            skips.append(Skip(block.label, SkipReason.EXCLUDED))
            continue
        decision = _decision(block, shapes, device)
        row = {"block": block.label, "kind": KIND, "activation": block.activation.title}
        table.append(row | dataclasses.asdict(decision))
        if decision.fuse:
            edits.append(_replace(store, block))
        else:
            skips.append(Skip(block.label, SkipReason.NOTHING_TO_GAIN, decision.why))
    return Notes(tuple(edits), tuple(skips), {f"{KIND}.blocks": len(edits)}, tuple(table))


def is_layer(node: ir.Node) -> bool:
    return node.domain == "ai.edgefold" and node.op_type == "ShiftMatMul"


def what_follows(layer: ir.Node, shapes: Shapes) -> LinearBlock:
    """The layer, and what alone reads its result: an activation of its graph and an addition, as far as there are."""
    found = find_activation(layer.outputs[0])
    if found is None or any(node.graph is not layer.graph for node in found.nodes):
        found = ActivationNodes(IDENTITY, (), layer.outputs[0])
    nodes, add = (layer, *found.nodes), sole_addition(found.output, shapes)
    return LinearBlock(layer, found.activation, (*nodes, add) if add else nodes, add)


def _decision(block: LinearBlock, shapes: Shapes, device: Device) -> Decision:
    """Compares what the result costs when it is met again: by each node behind the layer, or at once in the kernel."""
    shape = shapes.get(str(block.layer.outputs[0].name))
    result = 4 * math.prod(shape) if shape else _TILE_BYTES
    behind = len(block.nodes) - 1
    unfused = Plan(len(block.nodes), (Move("result", (1 + 2 * behind) * result, result),))
    again = Move("result at once", 2 * result, min(result, _TILE_BYTES))
    return decide(unfused, Plan(1, (Move("result", result, result), again)), device)


def _replace(store: InitializerStore, block: LinearBlock) -> Edit:
    """Puts the operator in the place of the nodes."""
    zero = store.add("edgefold.zero", np.zeros(1, np.float32))
    attributes = [*block.layer.attributes.values(), *function_attributes(block.activation)]
    inputs = [*block.layer.inputs, block.residual or zero]
    put_in_place("FusedLinear", block.nodes, inputs, attributes, block.label)
    return Edit(block.label, f"FusedLinear of {', '.join(one.op_type for one in block.nodes)}")


def function_attributes(activation: Activation, prefix: str = "") -> list[ir.Attr]:
    """By which an operator knows an activation function."""
    named = {"function": int(activation.kind), "alpha": activation.alpha, "beta": activation.beta}
    return ir.convenience.convert_attributes({prefix + name: value for name, value in named.items()})
