# SPDX-License-Identifier: Apache-2.0
"""Compress experts: fewer numbers for each expert of a mixture-of-experts layer, in low rank."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.dispatched import DispatchedLayer, find_dispatched
from edgefold.passes.experts.factored import refit_last
from edgefold.passes.experts.layers import Prepared, View, functions, prepare
from edgefold.passes.experts.shared_bases import narrowed, rank_for, write_narrowed
from edgefold.passes.experts.statistics import statistics
from edgefold.passes.factoring.matrices import factor_matrices

_TINY = 1e-30


class CompressExperts(Pass, frozen=True, kw_only=True):
    """Stores the experts of mixture-of-experts layers in low rank, so that the layers' outputs change least.

    What it does: with bases of its `own`, each matrix of each expert becomes a product of two thin ones, chosen by the
    outputs on the tokens that are routed to that expert (SVD-LLM, arXiv 2403.07378, section 3.1), at ranks that share
    one budget by error. With `shared` bases, all experts of a layer read one projection of the tokens and write into
    one small space, both computed once a token: each expert is as much narrower. Either way the last matrices of each
    layer are then solved anew together, from the first layer to the last, so that it gives what it gave before.

    When it fires: on mixture-of-experts layers in any form that ``dispatch-experts`` knows, which it brings into
    dispatch form first; also after ``merge-experts``. It needs calibration data.

    When it does not: layers whose experts are quantized or factored already stay as they are, and matrices that have no
    rank which stores less.

    Numerics: lossy. At the same bytes low rank loses less than fewer experts do; ``quantize`` afterwards packs the
    factors. Unlike fewer experts it also saves time, in proportion.

    Example: ``MatMul(x_e, W)`` with W [128, 160] becomes ``MatMul(MatMul(x_e, A), B)`` with A [128, 35], B [35, 160].

    Attributes:
        keep: share of the experts' weights that stays.
        basis: `shared` by the experts of a layer, or each matrix its `own`, for experts that have little in common.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    basis: Literal["shared", "own"] = "shared"

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: every weight stays"),))
        if context.calibration is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "bases are chosen by routed tokens"),))
        prepared = prepare(model, context.calibration, context)
        return self._own(prepared) if self.basis == "own" else self._shared(prepared)

    def _own(self, prepared: Prepared) -> Notes:
        """Two thin matrices in the place of each one; then what the second ones give is fitted, layer by layer."""
        experts = [expert for layer in prepared.layers.values() for expert in layer.experts]
        sites = [site for one in experts for product in (*one.inputs, one.down) for site in product.sites()]
        graph, seen = prepared.model.graph, prepared.observer.changed
        harm = [one for layer in prepared.layers.values() for one in _harm(prepared, layer)]
        factored = factor_matrices(graph, sites, self.keep, seen, work=[1.0] * len(sites), harm=harm)
        skips = [*prepared.notes.skips, *factored.skips]
        for place in prepared.layers if factored.edits else ():
            layer = find_dispatched(prepared.model)[place]
            try:
                refit_last(layer, prepared.observer.evidence(layer))
            except ModelError as error:
                skips.append(Skip(layer.name, SkipReason.FALLBACK, f"{error}: no refit"))
        return Notes((*prepared.notes.edits, *factored.edits), tuple(skips), factored.stats)

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


def _harm(prepared: Prepared, layer: DispatchedLayer) -> list[float]:
    """What a relative error of each matrix of a layer does to the stream: the energy that its expert adds there."""
    before = prepared.observer.before(layer)
    energies = np.diag(statistics(functions(layer), before.x, before.gates).gated)
    shares = prepared.observer.share(layer) * energies / max(energies.sum(), _TINY)
    return [float(share) for expert, share in zip(layer.experts, shares, strict=True) for _ in (*expert.inputs, 0)]
