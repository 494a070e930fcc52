# SPDX-License-Identifier: Apache-2.0
"""The layers of a cut model that least squares can refit, and what each of them should give.

A layer is refitted where its input is not what it was: it lost channels, or something before it did.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from edgefold.passes._refittable import Layer, as_layer, summed_with
from edgefold.passes._subgraphs import bodies, reads
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.pruning.groups import AxisKey, IntArray, Trace

Kept = Mapping[AxisKey, IntArray]


def refittable(
    model: ir.Model, kept: Kept, trace: Trace, ties: Sequence[Sequence[str]], exclude: Callable[[str], bool]
) -> tuple[list[Layer], list[Skip]]:
    """The layers whose inputs a cut has changed, in the order of the graph, and those that stay as they are.

    Args:
        model: cut.
        kept: of the cut.
        trace: of the model before the cut.
        ties: names of weights that are one matrix; the layers that share it cannot be refitted apart.
        exclude: node names that must not be touched.
    """
    unknown = _fill_ranks(model, trace)
    tied = set(itertools.chain.from_iterable(ties))
    changed = {name for name, _ in kept}
    latest: dict[ir.Value, int] = {}  # the last layer that a value depends on
    layers: list[Layer] = []
    skips: list[Skip] = []
    for node in model.graph:
        before = max((latest.get(value, 0) for value in reads(node)), default=0)
        if bodies(node):
            unseen = _in_bodies(node, changed)
            skips.extend(unseen)
            if unseen or any(str(value.name) in changed for value in reads(node)):
                changed.update(str(value.name) for value in node.outputs)
        elif any(str(value.name) in changed for value in reads(node) if not value.is_initializer()):
            found = as_layer(node, exclude, tied=tied)
            if isinstance(found, Layer):
                known = {value: number for value, number in latest.items() if str(value.name) in changed}
                numbered = dataclasses.replace(found, number=len(layers) + 1, after=before)
                layers.append(_with_sum(_with_columns(numbered, kept), trace, known))
                before = len(layers)
            elif found is not None:
                skips.append(found)
            changed.update(str(value.name) for value in node.outputs)
        latest.update((value, before) for value in node.outputs)
    for value in unknown:
        value.shape = None
    return layers, skips


def _in_bodies(node: ir.Node, changed: set[str]) -> list[Skip]:
    """A Skip for each layer in the bodies of a node whose inputs have changed: calibration cannot see these."""
    skips = []
    for body in bodies(node):
        for inner in body:
            skips.extend(_in_bodies(inner, changed))
            if not any(str(value.name) in changed for value in reads(inner) if not value.is_initializer()):
                continue
            changed.update(str(value.name) for value in inner.outputs)
            if isinstance(site := weighted_node(inner), WeightedNode) and site.kind != "gather":
                skips.append(Skip(site.label, SkipReason.SUBGRAPH, "calibration sees nothing in there; no refit"))
    return skips


def lost_inputs(site: WeightedNode, kept: Kept) -> bool:
    """Whether the weights lost some of their inputs, not only what these are."""
    return (str(site.weight.root.name), _axes(site)[1]) in kept


def _axes(site: WeightedNode) -> tuple[int, int]:
    """The axes of the stored weights along which outputs and inputs run."""
    rank = len(site.weight.shape)
    return {"kn": (rank - 1, rank - 2), "nk": (rank - 2, rank - 1), "conv": (0, 1)}[site.stored]


def _with_columns(layer: Layer, kept: Kept) -> Layer:
    """The layer with the outputs that it still has as its target."""
    columns = kept.get((str(layer.site.weight.root.name), _axes(layer.site)[0]))
    if columns is None:
        return layer
    targets = dataclasses.replace(layer.targets, columns=tuple(int(index) for index in columns))
    return dataclasses.replace(layer, targets=targets)


def _with_sum(layer: Layer, trace: Trace, changed: Mapping[ir.Value, int]) -> Layer:
    """The layer with the sum that it is a term of as its target, where the other term has changed before it runs.

    Args:
        layer: with its own output as the target.
        trace: of the model before the cut.
        changed: values that have changed already, with the last layer that each depends on.
    """
    output = layer.site.output
    total, other = summed_with(output) or (None, None)
    if total is None or other is None or other not in changed:
        return layer
    shape = trace.shapes.get(str(output.name))
    if shape is None or trace.shapes.get(str(total.name)) != shape:
        return layer
    return layer.aiming_at(str(total.name), str(other.name), changed[other])


def _fill_ranks(model: ir.Model, trace: Trace) -> list[ir.Value]:
    """Gives values of which the graph says nothing the rank that they had in the trace."""
    unknown = [value for node in model.graph.all_nodes() for value in node.outputs if value.shape is None]
    known = [value for value in unknown if str(value.name) in trace.shapes]
    for value in known:
        value.shape = ir.Shape([None] * len(trace.shapes[str(value.name)]))
    return known
