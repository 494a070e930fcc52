# SPDX-License-Identifier: Apache-2.0
"""Quantize-attention: scores, softmax and values of attention work on integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes._attention import AXES, Attention, Mask, find_attention
from edgefold.passes._attention_heads import heads_side_by_side
from edgefold.passes._cache import Cache, Coded, find_cache, keep_as_codes
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.fusion.shapes import Shapes, run_shapes

_NAMED = 2  # inputs of a cache, those of one layer
_ONE_OPERATOR = ("Attention", "GroupQueryAttention", "MultiHeadAttention")


class QuantizeAttention(Pass, frozen=True, kw_only=True):
    """Replaces the products and the softmax of attention by one operator on integer operands.

    What it does: ``Softmax(q k' * scale + mask) v`` becomes ShiftAttention: rows of q, k and v become int8
    with a scale each, found at run time, and weights of a row 8-bit integers that hold the scales of the values. Where
    layers around it are quantized too, a decoder gives token by token, with a cache, what it gives on the whole text.
    With ``cache: int8`` the key/value cache of a decoder holds these codes and scales in place of floats, and
    CachedAttention reads them: a step quantizes the rows of its new positions only. This changes the model's
    interface: past and present are int8 under their names, and each has its scales, float32 with 1 as the last size,
    in a further input or output, the same name with ``_scales`` behind. A caller starts with empty tensors of these
    types and gives every present as the next past. The model's metadata list the names under ``edgefold.caches``. With
    ``cache: leave`` attention over such a cache is left alone: a step that quantizes a whole past of floats anew gains
    nothing.

    When it fires: on a Softmax over the last axis between two matrix products of four axes, as exporters write
    attention with its heads split: with or without constant factors on queries, keys or scores, masks that are added or
    chosen by Where, and zeros for rows that see no key. Keys and values may come from a cache, of any length, and may
    have been repeated for heads that share them. Where a Reshape and a Transpose split the heads of queries, keys and
    values and join those of the result, all four go, with the sizes that they need: ShiftMultiHeadAttention reads and
    writes rows with heads side by side, as the projections do. A cache becomes codes where keys and values both are a
    Concat, along the third of four axes, of a graph input and new positions, whose result is a graph output; heads may
    be repeated behind it, which CachedAttention then does without.

    When it does not: where a value in between is read elsewhere or is an output, where shapes are not known to have
    four axes, where something else happens to the scores, and where attention is one operator already. Each is a skip
    with its reason. A cache that something else reads, that grows along another axis, or whose past is no input of the
    graph, and one in a body, stays float, also with ``cache: int8``, and is a skip with its reason.

    Numerics: lossy. ``cache: int8`` gives the same bits as ``cache: float``.

    Example: ``y = MatMul(Softmax(Add(Div(MatMul(q, Transpose(k)), c), m)), v)`` becomes ``y = ShiftAttention(q, k, v,
    m)``.
    """

    cache: Literal["float", "int8", "leave"] = "float"

    effect: ClassVar[Effect] = Effect.LOSSY

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from edgefold.ops import add_functions  # onnxscript takes a second to import

        graph = model.graph
        graph.sort()
        shapes = run_shapes(model, context)
        store = InitializerStore(graph)
        edits: list[Edit] = []
        skips: list[Skip] = []
        pasts: list[str] = []
        skips += [
            Skip(node_label(node), SkipReason.UNKNOWN_FORM, f"the operator {node.op_type}")
            for node in nodes_of(graph)
            if node.op_type in _ONE_OPERATOR
        ]
        for softmax in [
            node for node in nodes_of(graph) if node.op_type == "Softmax" and node.domain in ("", "ai.onnx")
        ]:
            found = find_attention(softmax, shapes)
            if isinstance(found, Skip):
                skips.append(found)
            elif found is not None and any(context.excludes(node_label(node)) for node in found.nodes):
                skips.append(Skip(node_label(softmax), SkipReason.EXCLUDED))
            elif found is not None:
                caches = _caches(found, shapes)
                in_body = softmax.graph is not graph
                if not isinstance(caches, str) and not in_body:
                    pasts += [str(cache.past.name) for cache in caches]
                elif self.cache == "int8":
                    why = caches if isinstance(caches, str) else "it is in a body"
                    skips.append(Skip(node_label(softmax), SkipReason.FALLBACK, f"no cache of codes: {why}"))
                if not isinstance(caches, str) and self.cache == "leave":
                    skips.append(Skip(node_label(softmax), SkipReason.NOTHING_TO_GAIN, "its cache is of floats"))
                    continue
                new: list[ir.Node] = []
                if isinstance(caches, str) or in_body or self.cache == "float":
                    by = _of_floats(found, shapes, new)
                else:
                    by = _of_codes(model, found, caches)
                if any(node.graph is not softmax.graph for node in by.nodes):
                    skips.append(Skip(node_label(softmax), SkipReason.SUBGRAPH, "a part of it lies in another graph"))
                else:
                    edits.append(_replace(store, softmax, found, by, new))
        add_functions(model)
        stats: dict[str, int | float | str] = {"attentions": len(edits), "caches": len(pasts), **self._finding(pasts)}
        return Notes(tuple(edits), tuple(skips), stats, caches=tuple(pasts) if self.cache == "int8" else ())

    def _finding(self, pasts: Sequence[str]) -> dict[str, str]:
        """What a user of a decoder should know of its cache."""
        if not pasts:
            return {}
        named = ", ".join(pasts[:_NAMED]) + (" and so on" if len(pasts) > _NAMED else "")
        if self.cache == "int8":
            text = f"The key/value cache ({named}) and its present are int8 now, with scales in inputs and outputs of "
            return {"finding": text + "the same names with `_scales` behind."}
        state = "and is quantized anew at each step" if self.cache == "float" else "and so does attention over it"
        text = f"The key/value cache ({named}) stays float {state}; "
        text += "`--set quantize-attention.cache=int8` keeps codes in it, which changes these inputs and outputs."
        return {"finding": text}


def _caches(found: Attention, shapes: Shapes) -> tuple[Cache, Cache] | str:
    """The caches of keys and values, or why they cannot hold codes."""
    if found.keys_swapped:
        return f"{found.keys.name} are keys by columns"
    keys = find_cache(found.keys, found.nodes, shapes)
    values = find_cache(found.values, found.nodes, shapes)
    if isinstance(keys, str):
        return keys
    if isinstance(values, str):
        return values
    if keys.shared != values.shared:
        return f"{keys.shared} heads share keys and {values.shared} values"
    return keys, values


@dataclasses.dataclass(frozen=True)
class _Replacement:
    """An operator, what it reads before the mask, and the nodes and the value that it replaces.

    Attributes:
        unread: values that perhaps nothing reads any more, beside inputs of the nodes.
        note: of the report.
    """

    operator: str
    inputs: Sequence[ir.Value]
    nodes: Sequence[ir.Node]
    result: ir.Value
    attributes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unread: Sequence[ir.Value] = ()
    note: str = ""


def _replace(store: InitializerStore, softmax: ir.Node, found: Attention, by: _Replacement, new: list[ir.Node]) -> Edit:
    """Puts the operator, behind `new` nodes that it reads, in the place of others."""
    label, last, graph = node_label(softmax), found.nodes[-1], softmax.graph
    assert isinstance(graph, ir.Graph)
    name = str(last.outputs[0].name)
    mask = _mask(new, store, found.masks, f"{name}.mask")
    output = ir.Value(name=f"{name}.integer", type=ir.TensorType(ir.DataType.FLOAT), shape=by.result.shape)
    attributes = ir.convenience.convert_attributes({"scale": found.scale, "causal": 0, **by.attributes})
    node = ir.Node("ai.edgefold", by.operator, [*by.inputs, mask], attributes, outputs=[output], name=label)
    node.metadata_props["edgefold.pass"] = "quantize-attention"
    replaced = tuple(node_label(one) for one in found.nodes)
    node.metadata_props["edgefold.from"] = ",".join(replaced)
    unread = [*(value for one in by.nodes for value in one.inputs), *by.unread]
    ir.convenience.replace_nodes_and_values(graph, last, by.nodes[::-1], [*new, node], [by.result], [output])
    for value in unread:
        _remove_unread(graph, value)
    return Edit(label, f"{by.operator} of {', '.join(one.op_type for one in found.nodes)}{by.note}", replaced)


def _of_floats(found: Attention, shapes: Shapes, new: list[ir.Node]) -> _Replacement:
    """The operator that reads keys and values as floats."""
    rows, last = heads_side_by_side(found, shapes), found.nodes[-1].outputs[0]
    if rows is not None:
        heads = {"num_heads": rows.heads, "kv_num_heads": rows.kv_heads}
        inputs = [rows.queries, rows.keys, rows.values]
        return _Replacement("ShiftMultiHeadAttention", inputs, (*found.nodes, *rows.join), rows.result, heads)
    keys = found.keys
    if found.keys_swapped:
        keys = _append(new, "Transpose", [keys], f"{last.name}.keys", perm=[0, 1, 3, 2])
    return _Replacement("ShiftAttention", [found.queries, keys, found.values], found.nodes, last)


def _of_codes(model: ir.Model, found: Attention, caches: tuple[Cache, Cache]) -> _Replacement:
    """The operator that reads codes and scales of a cache, which the model then keeps."""
    note = "; int8 with scales: " + ", ".join(f"{one.past.name}, {one.present.name}" for one in caches)
    coded: list[Coded] = [keep_as_codes(model, cache) for cache in caches]
    inputs = [found.queries, *(value for one in coded for value in (one.codes, one.scales))]
    floats = [cache.present for cache in caches]
    result = found.nodes[-1].outputs[0]
    return _Replacement("CachedAttention", inputs, found.nodes, result, unread=floats, note=note)


def _mask(new: list[ir.Node], store: InitializerStore, masks: Sequence[Mask], name: str) -> ir.Value:
    """All masks as one sum of four axes."""
    if not masks:
        return store.add("edgefold.no_mask", np.zeros((1,) * AXES, np.float32))
    added = [_to_add(new, store, mask, f"{name}{place}") for place, mask in enumerate(masks)]
    whole = added[0]
    for place, other in enumerate(added[1:]):
        whole = _append(new, "Add", [whole, other], f"{name}.sum{place}")
    missing = AXES - max(mask.rank for mask in masks)
    if not missing:
        return whole
    return _append(new, "Unsqueeze", [whole, store.add("edgefold.mask_axes", np.arange(missing))], name)


def _to_add(new: list[ir.Node], store: InitializerStore, mask: Mask, name: str) -> ir.Value:
    """What a mask adds to the scores."""
    if mask.hiding is None:
        return mask.value
    numbers = [np.array(mask.hiding, np.float32), np.zeros((), np.float32)]
    chosen, other = [store.add("edgefold.mask_number", number) for number in (numbers if mask.when else numbers[::-1])]
    return _append(new, "Where", [mask.value, chosen, other], name)


def _append(
    new: list[ir.Node], operator: str, inputs: Sequence[ir.Value], name: str, **attributes: Sequence[int]
) -> ir.Value:
    output = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
    made = ir.convenience.convert_attributes(attributes)
    new.append(ir.Node("", operator, inputs, made, outputs=[output], name=name))
    return output


def _remove_unread(graph: ir.Graph, value: ir.Value | None) -> None:
    """Removes what only the product needed: factors, swaps, repeated heads and the sizes for them."""
    node = None if value is None else value.producer()
    if node is None or node.graph is not graph or node.domain not in ("", "ai.onnx"):
        return
    if any(one.uses() or one.is_graph_output() for one in node.outputs):
        return
    inner = list(node.inputs)
    graph.remove(node, safe=True)
    for one in inner:
        _remove_unread(graph, one)
