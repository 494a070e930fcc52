# SPDX-License-Identifier: Apache-2.0
"""Quantize-attention: scores, softmax and values of attention work on integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.fusion.shapes import Shapes, known_shape, run_shapes

_AXES = 4
_LAST_TWO_SWAPPED = (0, 1, 3, 2)


class QuantizeAttention(Pass, frozen=True, kw_only=True):
    """Replaces the products and the softmax of attention by one operator on integer operands.

    What it does: ``Softmax(q k' * scale + mask) v`` becomes ShiftAttention: rows of q and k and columns of v become
    int8 with a scale each, found at run time, and weights of a row 8-bit integers that their own sum normalizes.

    When it fires: on a Softmax over the last axis between two matrix products of four axes, with or without a constant
    factor and an additive mask between, as exporters write attention with its heads split; keys and values may come
    from a cache.

    When it does not: where a value in between is read elsewhere or is an output, and where shapes are not known to have
    four axes. Each is a skip with its reason. A mask that is applied by Where stays as it is, and so does the layer.

    Numerics: lossy.

    Example: ``y = MatMul(Softmax(Add(Div(MatMul(q, Transpose(k)), c), m)), v)`` becomes ``y = ShiftAttention(q, k, v,
    m)``.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from edgefold.ops import add_functions  # onnxscript takes a second to import

        graph = model.graph
        graph.sort()
        shapes = run_shapes(model, context)
        store = InitializerStore(graph)
        edits: list[Edit] = []
        skips: list[Skip] = []
        for softmax in [node for node in graph if node.op_type == "Softmax" and node.domain in ("", "ai.onnx")]:
            found = _attention(softmax, shapes)
            if isinstance(found, Skip):
                skips.append(found)
            elif found is not None and any(context.excludes(node_label(node)) for node in found.nodes):
                skips.append(Skip(node_label(softmax), SkipReason.EXCLUDED))
            elif found is not None:
                edits.append(_replace(graph, store, found))
        add_functions(model)
        return Notes(tuple(edits), tuple(skips), {"attentions": len(edits)})


@dataclasses.dataclass(frozen=True)
class _Attention:
    """Nodes that one ShiftAttention computes, in graph order.

    Attributes:
        nodes: from the product of queries and keys to that of weights and values.
        mask: what is added to the scores, or None.
        mask_rank: its number of axes.
        scale: of the products.
    """

    nodes: tuple[ir.Node, ...]
    mask: ir.Value | None
    mask_rank: int
    scale: float


def _attention(softmax: ir.Node, shapes: Shapes) -> _Attention | Skip | None:
    """The attention around a Softmax; None where it is no such thing."""
    uses = list(softmax.outputs[0].uses())
    readers = [use.node for use in uses if use.node.op_type == "MatMul" and use.idx == 0]
    chain, mask, scale = _scores(softmax.inputs[0])
    if not readers or not chain:
        return None
    nodes = (*chain, softmax, readers[0])
    label = node_label(softmax)
    shape = known_shape(softmax.outputs[0], shapes)
    mask_shape = () if mask is None else known_shape(mask, shapes)
    if shape is None or mask_shape is None:
        return Skip(label, SkipReason.DYNAMIC_SHAPE, "number of axes")
    if len(shape) != _AXES or softmax.attributes.get_int("axis", -1) not in (-1, _AXES - 1) or len(mask_shape) > _AXES:
        return Skip(label, SkipReason.RANK, f"scores of {len(shape)} axes; expected a softmax over the last of {_AXES}")
    if softmax.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return Skip(label, SkipReason.DTYPE, str(softmax.outputs[0].dtype))
    for node in nodes[:-1]:
        value = node.outputs[0]
        if value.is_graph_output():
            return Skip(label, SkipReason.GRAPH_OUTPUT, str(value.name))
        if len(list(value.uses())) != 1 or node.graph is not softmax.graph:
            return Skip(label, SkipReason.INSEPARABLE, f"{value.name} has several readers")
    return _Attention(nodes, mask, len(mask_shape), scale)


def _scores(scores: ir.Value | None) -> tuple[list[ir.Node], ir.Value | None, float]:
    """The nodes behind a Softmax's input from the product on, with mask and factor; no nodes where it is none."""
    nodes: list[ir.Node] = []
    mask, scale = None, 1.0
    node = None if scores is None else scores.producer()
    if node is not None and node.op_type == "Add":
        first, second = node.inputs
        assert first is not None
        product, mask = (first, second) if _is_product(first.producer()) else (second, first)
        nodes.append(node)
        node = None if product is None else product.producer()
    if node is not None and node.op_type in ("Mul", "Div"):
        factor = small_constant(node.inputs[1])
        if factor is None or factor.size != 1:
            return [], None, 1.0
        number = float(factor.reshape(()))
        scale = number if node.op_type == "Mul" else 1 / number
        nodes.append(node)
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "MatMul":
        return [], None, 1.0
    return [*nodes, node][::-1], mask, scale


def _is_product(node: ir.Node | None) -> bool:
    """Whether a node is a MatMul, or one times a constant."""
    if node is not None and node.op_type in ("Mul", "Div") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "MatMul"


def _replace(graph: ir.Graph, store: InitializerStore, found: _Attention) -> Edit:
    """Puts the operator in the place of the nodes."""
    product, last = found.nodes[0], found.nodes[-1]
    swapped = product.inputs[1]
    assert swapped is not None
    before, keys = _swapped_back(swapped)
    mask = found.mask
    if mask is None:
        mask = store.add("edgefold.no_mask", np.zeros((1,) * _AXES, np.float32))
    elif found.mask_rank < _AXES:
        axes = store.add("edgefold.mask_axes", np.arange(_AXES - found.mask_rank))
        before.append(_node("Unsqueeze", [mask, axes], f"{last.outputs[0].name}.mask"))
        mask = before[-1].outputs[0]
    output = ir.Value(
        name=f"{last.outputs[0].name}.integer", type=ir.TensorType(ir.DataType.FLOAT), shape=last.outputs[0].shape
    )
    attributes = ir.convenience.convert_attributes({"scale": found.scale, "causal": 0})
    inputs = [product.inputs[0], keys, last.inputs[1], mask]
    label = node_label(found.nodes[-2])
    node = ir.Node("ai.edgefold", "ShiftAttention", inputs, attributes, outputs=[output], name=label)
    old = ",".join(node_label(one) for one in found.nodes)
    node.metadata_props.update({"edgefold.pass": "quantize-attention", "edgefold.from": old})
    ir.convenience.replace_nodes_and_values(
        graph, last, found.nodes[::-1], [*before, node], [last.outputs[0]], [output]
    )
    transpose = swapped.producer()
    if (
        transpose is not None
        and transpose.op_type == "Transpose"
        and not swapped.uses()
        and not swapped.is_graph_output()
    ):
        graph.remove(transpose, safe=True)
    return Edit(label, f"ShiftAttention of {', '.join(one.op_type for one in found.nodes)}")


def _swapped_back(keys: ir.Value) -> tuple[list[ir.Node], ir.Value]:
    """Keys [B, H, keys, depth] of keys [B, H, depth, keys], and the nodes that make them."""
    transpose = keys.producer()
    order: Sequence[int] = _LAST_TWO_SWAPPED
    source = keys
    if transpose is not None and transpose.op_type == "Transpose" and transpose.inputs[0] is not None:
        given = transpose.attributes.get_ints("perm", (3, 2, 1, 0))
        order, source = [given[axis] for axis in _LAST_TWO_SWAPPED], transpose.inputs[0]
    if list(order) == [0, 1, 2, 3]:
        return [], source
    node = _node("Transpose", [source], f"{keys.name}.rows", perm=list(order))
    return [node], node.outputs[0]


def _node(operator: str, inputs: Sequence[ir.Value], name: str, **attributes: Any) -> ir.Node:
    output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
    return ir.Node("", operator, inputs, ir.convenience.convert_attributes(attributes), outputs=[output], name=name)
