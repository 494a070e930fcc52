# SPDX-License-Identifier: Apache-2.0
"""Compress experts: fewer numbers for each expert of a mixture-of-experts layer, narrower or in low rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.dispatched import DispatchedLayer, find_dispatched
from edgefold.passes.experts.factored import refit_last
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.experts.layers import Prepared, View, functions, prepare
from edgefold.passes.experts.shared_bases import narrowed, rank_for, write_narrowed
from edgefold.passes.experts.units import Units, choose_units, keep_units, split_units
from edgefold.passes.factoring.matrices import factor_matrices

_TINY = 1e-30


class CompressExperts(Pass, frozen=True, kw_only=True):
    """Stores fewer numbers for each expert of mixture-of-experts layers, so that the layers' outputs change least.

    What it does: without a `basis`, the hidden units of all experts that the others of their expert can least make up
    for stay as they are, and the rest go (Optimal Brain Surgeon on the tokens that are routed to an expert): experts
    become narrower, each as much as it can bear. With bases of its `own`, each matrix becomes a product of two thin
    ones (SVD-LLM, arXiv 2403.07378, section 3.1), at ranks that share one budget by error; `sparse` keeps some hidden
    units whole beside them, as MC-SMoE's W = U V + S (arXiv 2310.01334, section 3.2) does. With `shared` bases, all
    experts of a layer read one projection of the tokens and write into one small space, both computed once a token.
    In each case the last matrices of each layer are then solved anew together, from the first layer to the last, so
    that it gives what it gave before.

    When it fires: on mixture-of-experts layers in any form that ``dispatch-experts`` knows, which it brings into
    dispatch form first; also after ``merge-experts``. It needs calibration data.

    When it does not: layers whose experts are quantized or factored already stay as they are, and matrices that have no
    rank which stores less.

    Numerics: lossy. At the same bytes narrower experts lose less than low rank does, and that less than fewer experts
    do (docs/results/moe.md); ``quantize`` afterwards packs what is left. Unlike fewer experts all three also compute
    less, in proportion; with `sparse` an expert becomes two, so that there are twice as many nodes.

    Example: ``MatMul(x_e, W)`` with W [128, 160] becomes ``MatMul(x_e, W')`` with W' [128, 80]; in low rank
    ``MatMul(MatMul(x_e, A), B)`` with A [128, 35], B [35, 160].

    Attributes:
        keep: share of the experts' weights that stays.
        basis: `none` for narrower experts; for low rank `shared` by the experts of a layer, or each matrix its `own`.
        sparse: with bases of their own, share of what stays that is whole hidden units.
        widths: of narrower experts: `free`, or `equal` for all of a layer, as ``fuse-experts`` needs them.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    basis: Literal["none", "shared", "own"] = "none"
    sparse: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    widths: Literal["free", "equal"] = "free"

    def __post_init__(self) -> None:
        if self.sparse and self.basis != "own":
            raise ValueError("sparse keeps units beside low rank in bases of their own: set basis to own")
        if self.widths == "equal" and self.basis != "none":
            raise ValueError("widths are of experts that become narrower: leave out basis, or widths")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: every weight stays"),))
        if context.calibration is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "what stays is chosen by routed tokens"),))
        prepared = prepare(model, context.calibration, context)
        return {"none": self._narrower, "own": self._own, "shared": self._shared}[self.basis](prepared)

    def _narrower(self, prepared: Prepared) -> Notes:
        """Fewer hidden units; then what they give is fitted, layer by layer."""
        units, skips = choose_units(prepared, self.keep, equal=self.widths == "equal")
        edits = []
        for place, kept in units.items():
            layer = find_dispatched(prepared.model)[place]
            keep_units(prepared.model.graph, layer, kept)
            edits.append(_edit(layer, kept))
        skips = [*prepared.notes.skips, *skips, *_refit(prepared, units)]
        stats = {"layers": len(units), "units": sum(len(one) for kept in units.values() for one in kept)}
        return Notes((*prepared.notes.edits, *edits), tuple(skips), stats)

    def _own(self, prepared: Prepared) -> Notes:
        """Two thin matrices in the place of each one, beside whole units; then what the last ones give is fitted."""
        graph, seen = prepared.model.graph, prepared.observer.changed
        units, skips = choose_units(prepared, self.sparse * self.keep, equal=False) if self.sparse else ({}, [])
        edits = []
        for place, kept in units.items():
            layer = find_dispatched(prepared.model)[place]
            split_units(graph, layer, kept)
            edits.append(_edit(layer, kept))
        layers = {place: find_dispatched(prepared.model)[place] for place in prepared.layers}
        firsts = {place: len(units.get(place, ())) for place in layers}
        sites = [site for place, layer in layers.items() for site in _sites(layer, firsts[place])]
        harm = [one for place, layer in layers.items() for one in _harm(prepared, layer, firsts[place])]
        everything = sum(_size(_sites(layer)) for layer in layers.values())
        share = 1 - (1 - self.keep) * everything / max(1, _size(sites))  # what goes, goes from these
        factored = factor_matrices(graph, sites, share, seen, work=[1.0] * len(sites), harm=harm)
        skips = [*prepared.notes.skips, *skips, *factored.skips]
        skips += _refit(prepared, prepared.layers if factored.edits else ())
        return Notes((*prepared.notes.edits, *edits, *factored.edits), tuple(skips), factored.stats)

    def _shared(self, prepared: Prepared) -> Notes:
        """Layers between two bases, from the first to the last."""
        edits, skips = list(prepared.notes.edits), list(prepared.notes.skips)
        for place in prepared.layers:
            layer = find_dispatched(prepared.model)[place]
            try:
                view = View.of(prepared.model, layer, prepared.observer)
            except ModelError as error:
                skips.append(Skip(layer.name, SkipReason.FALLBACK, f"{error}: it keeps its experts"))
                continue
            rank = rank_for(view.experts, self.keep)
            if not rank:
                skips.append(Skip(layer.name, SkipReason.WOULD_GROW, "no rank stores this share of its weights"))
                continue
            write_narrowed(prepared.model.graph, layer, narrowed(view.experts, view.evidence, rank))
            edits.append(Edit(layer.name, f"{len(layer.experts)} experts between shared bases of rank {rank}"))
        return Notes(tuple(edits), tuple(skips), {"layers": len(prepared.layers)})


def _edit(layer: DispatchedLayer, kept: Sequence[Units]) -> Edit:
    counts = " ".join(str(len(units)) for units in kept)
    return Edit(layer.name, f"whole hidden units of its {len(kept)} experts: {counts}")


def _sites(layer: DispatchedLayer, first: int = 0) -> list[WeightedNode]:
    """The products of a layer's experts, from one of these on."""
    products = (product for one in layer.experts[first:] for product in (*one.inputs, one.down))
    return [site for product in products for site in product.sites()]


def _size(sites: Sequence[WeightedNode]) -> int:
    return sum(site.k * site.n for site in sites)


def _refit(prepared: Prepared, places: Iterable[int]) -> list[Skip]:
    """Solves for the last matrices of layers, from the first to the last, in place."""
    skips = []
    for place in places:
        layer = find_dispatched(prepared.model)[place]
        try:
            refit_last(layer, prepared.observer.evidence(layer))
        except ModelError as error:
            skips.append(Skip(layer.name, SkipReason.FALLBACK, f"{error}: no refit"))
    return skips


def _harm(prepared: Prepared, layer: DispatchedLayer, first: int) -> list[float]:
    """What a relative error of each matrix does to the stream, from one expert on: the energy that it adds there."""
    seen = prepared.observer.evidence(layer)
    energies = np.array([_energy(*pair, seen.x) for pair in zip(functions(layer), seen.gates.T, strict=True)])
    shares = prepared.observer.share(layer) * energies / max(energies.sum(), _TINY)
    pairs = zip(layer.experts[first:], shares[first:], strict=True)
    return [float(share) for expert, share in pairs for _ in (*expert.inputs, expert.down)]


def _energy(expert: FeedForward, gate: Array, x: Array) -> float:
    """Squared length of what an expert adds on all of its rows."""
    rows = np.flatnonzero(gate)
    return float(np.square(gate[rows, None] * expert(x[rows])).sum(dtype=np.float64))
