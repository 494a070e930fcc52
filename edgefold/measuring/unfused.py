# SPDX-License-Identifier: Apache-2.0
"""Fused operators as the layers that they compute, for what counts layers."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

ATTENTION = frozenset(("ShiftAttention", "ShiftMultiHeadAttention", "CachedAttention"))
_CALLED = ("AttendCodes", "SplitHeads", "RowCodes", "RowScales", "StoredImage", "ImageToStore")
_WITHOUT_WEIGHTS = (*ATTENTION, *_CALLED, "QuantizeRows", "CodeMean", "CodeGate", "CodeLookup")


def unfused(model: ir.Model) -> ir.Model:
    """The model with ``Fused...`` operators of ``ai.edgefold``, and those without weights, replaced by their bodies.

    That leaves `ShiftConv`, `ShiftMatMul` and MatMul nodes, with the weights that the fused node has. The model itself
    where it has none; else a copy that shares its tensors.
    """
    if not any(_is_fused(function) for function in model.functions.values()):
        return model
    copy = InlinePass(criteria=_is_fused)(model.clone()).model
    _take_branches(copy.graph)
    _name_layers(model, copy)
    return copy


def _take_branches(graph: ir.Graph) -> None:
    """Puts the branch that is taken in the place of each If of a body that compares attributes.

    Shape inference looks at no condition, so that it would know no shape behind them.
    """
    for node in list(graph):
        taken = _condition(node.inputs[0]) if node.op_type == "If" and node.inputs[0] is not None else None
        if taken is None:
            continue
        branch = node.attributes["then_branch" if taken else "else_branch"].as_graph()
        nodes, results = list(branch), list(branch.outputs)
        branch.outputs.clear()
        branch.remove(nodes)
        graph.insert_before(node, nodes)
        ir.convenience.replace_all_uses_with(node.outputs, results, replace_graph_outputs=True)
        graph.remove(node)


def _condition(value: ir.Value) -> bool | None:
    """Whether two constants that are compared are equal; None where something else is asked."""
    node = value.producer()
    if node is None or node.op_type != "Equal":
        return None
    sides = [ir.convenience.get_const_tensor(one) for one in node.inputs if one is not None]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    return bool((sides[0].numpy() == sides[1].numpy()).all())


def _name_layers(model: ir.Model, copy: ir.Model) -> None:
    """Gives layers of inlined bodies the names of the fused nodes, known by the weights that they share."""
    owners = {
        str(value.name): str(node.name)
        for node in model.graph.all_nodes()
        if node.domain == "ai.edgefold" and node.op_type.startswith("Fused")
        for value in node.inputs[1:]
        if value is not None and value.const_value is not None and str(value.name).endswith(".codes")
    }
    shared = Counter(owners.values())
    for node in copy.graph.all_nodes():
        codes = str(node.inputs[1].name) if len(node.inputs) > 1 and node.inputs[1] is not None else ""
        if node.domain == "ai.edgefold" and codes in owners:
            stage = f"/{codes.removesuffix('.codes').rsplit('/', 1)[-1]}" if shared[owners[codes]] > 1 else ""
            node.name = owners[codes] + stage


def _is_fused(function: ir.Function) -> bool:
    return function.domain == "ai.edgefold" and (function.name.startswith("Fused") or function.name in _WITHOUT_WEIGHTS)
