# SPDX-License-Identifier: Apache-2.0
"""Low-rank: weight matrices become products of two thin ones, at ranks that share a budget by error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.base import Context, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.factoring.matrices import Ranks, factor_matrices

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Weighting = Literal["whitened", "plain"]

_MOMENT_BYTES = 192 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""


class LowRank(Pass, frozen=True, kw_only=True):
    """Replaces weight matrices by products of two thin ones, so that the outputs on calibration data change least.

    What it does: of all matrices of rank r, the one whose outputs are nearest to those of W is W V V', with V the
    principal directions of the outputs; the node then multiplies by W V and by V'. It is the whitened singular value
    decomposition of SVD-LLM (2403.07378, section 3.1). The ranks of all matrices come from one budget; then all layers
    are refitted, from the first to the last, by least squares to the original's outputs.

    When it fires: on MatMul, Gemm and ungrouped Conv with constant weights, where fewer numbers are stored and
    multiplied at a rank that the budget allows: below K N / (K + N).

    When it does not: shared weights, quantized weights, and the bodies of If, Loop and Scan stay as they are. Without
    calibration data it weighs all inputs alike, refits nothing, and says so.

    Numerics: lossy.

    Example: ``y = MatMul(x, W)`` with W [384, 1536] becomes ``t = MatMul(x, A)``, ``y = MatMul(t, B)`` with
    A [384, 150] and B [150, 1536].

    Attributes:
        keep: share of the weights in such matrices that stays; 0.5 where no budget is given.
        flops: instead, share of their multiply-accumulates that stays.
        weighting: of the inputs when directions are chosen: `whitened` by their second moments, `plain` all alike.
        ranks: `error` gives each matrix the rank with which the sum of all relative errors is smallest, `uniform` the
            same share of its cost.
        repair: whether the layers are refitted.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Share | None = None
    flops: Share | None = None
    weighting: Weighting = "whitened"
    ranks: Ranks = "error"
    repair: bool = True

    def __post_init__(self) -> None:
        if self.keep is not None and self.flops is not None:
            raise ValueError("keep and flops both say how much stays; give one of them")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        sites, skips = _sites(model, context)
        if context.calibration is None:
            skips += self._without_calibration()
        share = (0.5 if self.keep is None else self.keep) if self.flops is None else self.flops
        original = model.clone()
        weighed_by = context.calibration if self.weighting == "whitened" else None
        work = self._work(model, sites, context)
        factored = factor_matrices(model.graph, sites, share, weighed_by, work=work, ranks=self.ranks)
        skips += factored.skips
        if not factored.edits or not self.repair or context.calibration is None:
            return Notes(factored.edits, tuple(skips), factored.stats)
        notes = repair_depth(model, Uncut(original, context.calibration), {}, scope="all", exclude=context.excludes)
        edits, stats = (*factored.edits, *notes.edits), {**factored.stats, **notes.stats}
        return Notes(edits, (*skips, *notes.skips), stats)

    def _without_calibration(self) -> list[Skip]:
        """What was asked for and needs calibration data."""
        lost = ["all inputs count alike"] if self.weighting == "whitened" else []
        lost += ["no layer is refitted"] if self.repair else []
        return [Skip("model", SkipReason.NO_CALIBRATION, ", and ".join(lost))] if lost else []

    def _work(self, model: ir.Model, sites: Sequence[WeightedNode], context: Context) -> list[float]:
        """What one weight of each matrix counts towards the budget."""
        if self.flops is None:
            return [1.0] * len(sites)
        macs = context.macs(model) if context.macs else {}
        unknown = [site.label for site in sites if site.label not in macs]
        if unknown:
            why = f"the multiply-accumulates of {unknown[0]} are not known; give keep, or a task that fixes the shapes"
            raise UsageError(f"low-rank: {why}")
        return [macs[site.label] / (site.k * site.n) for site in sites]


def _sites(model: ir.Model, context: Context) -> tuple[list[WeightedNode], list[Skip]]:
    """The matrices that may be factored, and those that may not be."""
    sites: list[WeightedNode] = []
    skips: list[Skip] = []
    for node in model.graph:
        site = weighted_node(node)
        if isinstance(site, Skip):
            skips.append(site)
        elif site is not None and site.kind != "gather":
            refusal = _refusal(site, context)
            if refusal is None:
                sites.append(site)
            else:
                skips.append(Skip(site.label, refusal))
    return sites, skips


def _refusal(site: WeightedNode, context: Context) -> SkipReason | None:
    if context.excludes(site.label):
        return SkipReason.EXCLUDED
    if len(site.weight.root.uses()) > 1:
        return SkipReason.SHARED_WEIGHT
    if site.on_left or (site.geometry is not None and site.geometry.group > 1):
        return SkipReason.ATTRIBUTE
    if site.stored != "conv" and len(site.weight.shape) > 2:
        return SkipReason.RANK
    return None if np.isfinite(site.matrix()).all() else SkipReason.NOT_FINITE
