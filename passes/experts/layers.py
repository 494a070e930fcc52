# SPDX-License-Identifier: Apache-2.0
"""The layers of a model whose experts can be exchanged for fewer, one by one from the first to the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Calibrates, Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.experts.conversion import to_dispatch
from edgefold.passes.experts.dispatched import DispatchedLayer, find_dispatched
from edgefold.passes.experts.evidence import Evidence, Observer
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.experts.reduction import Reduction, held_out_error, relative_error


@dataclasses.dataclass(frozen=True)
class View:
    """One layer as a pass sees it.

    Attributes:
        graph: of the layer.
        layer: in dispatch form.
        experts: its experts.
        before: rows of the original, by which its experts are compared.
        evidence: rows that it is fitted on.
        observer: gives more of them.
    """

    graph: ir.Graph
    layer: DispatchedLayer
    experts: list[FeedForward]
    before: Evidence
    evidence: Evidence
    observer: Observer

    @classmethod
    def of(cls, model: ir.Model, layer: DispatchedLayer, observer: Observer) -> View:
        """Looks at a layer; raises ModelError where calibration cannot."""
        return cls(model.graph, layer, functions(layer), observer.before(layer), observer.evidence(layer), observer)


Propose = Callable[[View, int], Sequence[Reduction]]
"""From a layer and the number of experts that it may keep to the ways to get there; none, if it cannot."""


def functions(layer: DispatchedLayer) -> list[FeedForward]:
    """The experts of a layer."""
    return [FeedForward(one.value(), layer.activation) for one in layer.experts]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model whose layers are in dispatch form.

    Attributes:
        model: edited in place.
        layers: those whose experts may be exchanged, by their places among all.
        observer: on the model, and on a copy of it as it was.
        notes: what was brought into dispatch form, and what stays as it is.
    """

    model: ir.Model
    layers: Mapping[int, DispatchedLayer]
    observer: Observer
    notes: Notes

    @property
    def sizes(self) -> list[int]:
        """How many experts each layer has."""
        return [len(layer.experts) for layer in self.layers.values()]


def prepare(model: ir.Model, calibration: Calibrates, context: Context) -> Prepared:
    """Brings a model into dispatch form, in place, and looks for layers whose experts may be exchanged."""
    edits, skips = to_dispatch(model, context)
    layers = dict(enumerate(find_dispatched(model)))
    refusals = {place: _refusal(layer, context) for place, layer in layers.items()}
    skips += [refusal for refusal in refusals.values() if refusal is not None]
    if not layers:
        skips.append(Skip("model", SkipReason.NO_EXPERTS))
    usable = {place: layer for place, layer in layers.items() if refusals[place] is None}
    observer = Observer(calibration.through(model), calibration.through(model.clone()))
    return Prepared(model, usable, observer, Notes(tuple(edits), tuple(skips)))


def reduce_layers(prepared: Prepared, counts: Sequence[int], propose: Propose) -> Notes:
    """Gives layers fewer experts, in place, from the first to the last.

    Of several ways the one with the least error on held-out rows is taken.

    Args:
        prepared: the model.
        counts: how many experts each of its layers keeps.
        propose: the ways.
    """
    edits, skips = list(prepared.notes.edits), list(prepared.notes.skips)
    table: list[Mapping[str, Any]] = []
    for place, count in zip(prepared.layers, counts, strict=True):
        found = _reduce(prepared, find_dispatched(prepared.model)[place], count, propose)
        if isinstance(found, Skip):
            skips.append(found)
        else:
            edits.append(Edit(found["layer"], f"{found['experts']} experts to {count}: {found['how']}"))
            table.append(found)
    after = find_dispatched(prepared.model)
    left = sum(len(after[place].experts) for place in prepared.layers)
    stats = {"experts_before": sum(prepared.sizes), "experts_after": left}
    return Notes(tuple(edits), tuple(skips), stats, tuple(table))


def _reduce(prepared: Prepared, layer: DispatchedLayer, count: int, propose: Propose) -> dict[str, Any] | Skip:
    """Takes the best way for one layer; what it was, and its errors."""
    if count >= len(layer.experts):
        return Skip(layer.name, SkipReason.NOTHING_TO_GAIN, f"it keeps its {len(layer.experts)} experts")
    try:
        view = View.of(prepared.model, layer, prepared.observer)
        ways = propose(view, count)
    except ModelError as error:
        return Skip(layer.name, SkipReason.FALLBACK, f"{error}: it keeps its experts")
    if not ways:
        return Skip(layer.name, SkipReason.INSEPARABLE, f"its router cannot choose among {count} of its experts")
    return {"layer": layer.name, "experts": len(layer.experts), "kept": count, **_apply(view, ways)}


def _apply(view: View, ways: Sequence[Reduction]) -> dict[str, Any]:
    """Takes the best way; what it was and its errors."""
    errors = [held_out_error(way) for way in ways] if len(ways) > 1 else [0.0]
    best = ways[errors.index(min(errors))]
    for way in ways:
        if way is not best:
            way.discard()
    experts = best.fit(best.evidence)
    row: dict[str, Any] = {"how": str(best), "error": relative_error(experts, best.gates(best.evidence), best.evidence)}
    if len(ways) > 1:
        row |= {f"held_out_{way.name}": error for way, error in zip(ways, errors, strict=True)}
    best.write(view.graph, view.layer, experts)
    return row


def _refusal(layer: DispatchedLayer, context: Context) -> Skip | None:
    if context.excludes(layer.name):
        return Skip(layer.name, SkipReason.EXCLUDED)
    products = [product for expert in layer.experts for product in (*expert.inputs, expert.down)]
    if any(product.packed for product in products):
        return Skip(layer.name, SkipReason.ALREADY_QUANTIZED)
    if any(len(product.nodes) > 1 for product in products):
        return Skip(layer.name, SkipReason.ATTRIBUTE, "its experts are factored already; reduce their number first")
    if len({len(expert.value().down.weight) for expert in layer.experts}) > 1:
        return Skip(layer.name, SkipReason.RANK, "its experts differ in width")
    return None
