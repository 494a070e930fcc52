# SPDX-License-Identifier: Apache-2.0
"""Compress experts: fewer numbers for each expert of a mixture-of-experts layer, in low rank."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.depth.repair import repair_depth
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.layers import Prepared, View, prepare
from edgefold.passes.experts.shared_bases import narrowed, rank_for, write_narrowed
from edgefold.passes.factoring.matrices import factor_matrices


class CompressExperts(Pass, frozen=True, kw_only=True):
    """Stores the experts of mixture-of-experts layers in low rank, so that the layers' outputs change least.

    What it does: with bases of its `own`, each matrix of each expert becomes a product of two thin ones, chosen by the
    outputs on the tokens that are routed to that expert (SVD-LLM, arXiv 2403.07378, section 3.1), at ranks that share
    one budget by error; then the layers are refitted. With `shared` bases, all experts of a layer read one projection
    of the tokens and write into one small space, both computed once a token: each expert is as much narrower.

    When it fires: on mixture-of-experts layers in any form that ``dispatch-experts`` knows, which it brings into
    dispatch form first; also after ``merge-experts``. It needs calibration data.

    When it does not: layers whose experts are quantized or factored already stay as they are, and matrices that have no
    rank which stores less.

    Numerics: lossy. At the same bytes low rank loses less than fewer experts do; ``quantize`` afterwards packs the
    factors. Unlike fewer experts it also saves time, in proportion.

    Example: ``MatMul(x_e, W)`` with W [128, 160] becomes ``MatMul(MatMul(x_e, A), B)`` with A [128, 35], B [35, 160].

    Attributes:
        keep: share of the experts' weights that stays.
        basis: `own` for each matrix, or `shared` by the experts of a layer.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    basis: Literal["own", "shared"] = "own"

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: every weight stays"),))
        if context.calibration is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "bases are chosen by routed tokens"),))
        prepared = prepare(model, context.calibration, context)
        return self._own(prepared, context) if self.basis == "own" else self._shared(prepared)

    def _own(self, prepared: Prepared, context: Context) -> Notes:
        """Two thin matrices in the place of each one."""
        assert context.calibration is not None
        experts = [expert for layer in prepared.layers.values() for expert in layer.experts]
        sites = [site for one in experts for product in (*one.inputs, one.down) for site in product.sites()]
        original = prepared.model.clone()
        notes = factor_matrices(
            prepared.model.graph, sites, self.keep, prepared.observer.changed, work=[1.0] * len(sites)
        )
        if notes.edits:
            mended = repair_depth(
                prepared.model, original, context.calibration, {}, scope="all", exclude=context.excludes
            )
            stats = {**notes.stats, **mended.stats}
            notes = Notes((*notes.edits, *mended.edits), (*notes.skips, *mended.skips), stats)
        before = prepared.notes
        return Notes((*before.edits, *notes.edits), (*before.skips, *notes.skips), notes.stats)

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
