# SPDX-License-Identifier: Apache-2.0
"""Merge experts: groups of a layer's experts become one each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.passes.base import Context, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.budget import allocate, uniform
from edgefold.passes.experts.choice import Grouping
from edgefold.passes.experts.layers import Prepared, View, prepare, reduce_layers
from edgefold.passes.experts.reducers import Merger, Pruner
from edgefold.passes.experts.reduction import Align, Average, Reduction, Refit

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class MergeExperts(Pass, frozen=True, kw_only=True):
    """Makes one expert of each group of a layer's experts, so that the layer's output changes least.

    What it does: experts that are alike form groups. The hidden units of a group's members are put into the order of
    its most used member, their weights are averaged, and the last matrices of all experts of the layer are solved anew
    by least squares, from the first layer to the last, so that the layer gives what it gave in the original. The router
    stays; the gates of a group are added up, which is exact. Nothing is trained. Where removing experts, with the same
    refit, gives less error on held-out rows of the calibration data, that is done instead.

    When it fires: on mixture-of-experts layers in any form that ``dispatch-experts`` knows, which it brings into
    dispatch form first. It needs calibration data.

    When it does not: layers whose experts are quantized or factored already, or differ in width, stay as they are.

    Numerics: lossy. The file and the memory shrink by the experts that are gone; one token takes as long as before
    unless both of its experts fall into one group, and a few tokens together read fewer weights. Fewer bits come
    first: 4-bit experts take fewer bytes than half of the experts and lose far less (docs/results/moe.md).

    Example: a layer of 8 experts becomes one of 4: each of the four gates is the sum of the old ones of its group.

    Attributes:
        experts: of each layer that stay.
        keep: instead, share of the experts that stays; 0.5 where neither is given.
        budget: `global` spends the experts of all layers where they lower the sum of the layers' errors most, each over
            the energy of the residual stream that the layer is added to; `uniform` gives each layer the same share.
        grouping: which experts are alike: `outputs` by K-means on the directions of their outputs (Sub-MoE, arXiv
            2506.23266), `hierarchical` by linkage of their mean outputs (HC-SMoE, 2410.08589), `logits` of the router
            (M-SMoE, 2310.01334), first `weights` (MergeMoE, 2510.14436), or at `random`.
        align: by what hidden units are matched before they are averaged: their `activations`, their `weights`, or
            `none`.
        average: `frequency` weighs members by how often they are chosen, `mean` all alike.
        refit: of the last matrices: `joint` all of a layer against the original's output, `gated` each against its
            members' sum on the rows routed to them, `plain` against their mean on all rows (MergeMoE), or `none`.
        method: `merge`, `prune` (least saliency first, as ``prune-experts``), or for each layer the `best` of both.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    experts: Count | None = None
    keep: Share | None = None
    budget: Literal["global", "uniform"] = "global"
    grouping: Grouping = "outputs"
    align: Align = "activations"
    average: Average = "frequency"
    refit: Refit = "joint"
    method: Literal["best", "merge", "prune"] = "best"

    def __post_init__(self) -> None:
        if self.experts is not None and self.keep is not None:
            raise ValueError("experts and keep both say how many stay; give one of them")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: every expert stays"),))
        if context.calibration is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "experts are judged by their outputs"),))
        prepared = prepare(model, context.calibration, context)
        merger = Merger(self.grouping, self.align, self.average, self.refit, context.seed)
        pruner = Pruner("reap", self.refit != "none", context.seed)

        def propose(view: View, count: int) -> list[Reduction]:
            merging = merger.propose(view, count) if self.method != "prune" else None
            pruning = pruner.propose(view, count) if self.method != "merge" else None
            return [way for way in (merging, pruning) if way is not None]

        return reduce_layers(prepared, self._counts(prepared, merger), propose)

    def _counts(self, prepared: Prepared, merger: Merger) -> list[int]:
        """How many experts each layer keeps."""
        counts = uniform(prepared.sizes, self.experts, self.keep)
        if self.budget == "uniform" or len(counts) < 2 or counts == prepared.sizes:
            return counts
        curves = [merger.error_curve(prepared, layer) for layer in prepared.layers.values()]
        return allocate(curves, sum(counts))
