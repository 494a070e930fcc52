# SPDX-License-Identifier: Apache-2.0
"""Prune experts: some of a layer's experts go, and the router chooses among the rest."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.passes.base import Context, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.budget import uniform
from edgefold.passes.experts.choice import Criterion
from edgefold.passes.experts.layers import View, prepare, reduce_layers
from edgefold.passes.experts.reducers import Pruner
from edgefold.passes.experts.reduction import Reduction


class PruneExperts(Pass, frozen=True, kw_only=True):
    """Removes the experts of each layer that are missed least.

    What it does: the logits of the experts that go become minus infinity before the choice, so that the router chooses
    among the rest and normalizes over them, and their weights leave the file. Then the last matrices of those that stay
    are solved anew by least squares, from the first layer to the last, so that each layer gives what it gave in the
    original. Nothing is trained.

    When it fires: on mixture-of-experts layers in any form that ``dispatch-experts`` knows, which it brings into
    dispatch form first. It needs calibration data.

    When it does not: layers whose experts are quantized or factored already, or whose router chooses more experts than
    are to stay, remain as they are.

    Numerics: lossy. ``merge-experts`` compares this with merging, layer by layer, and mostly loses less.

    Example: of 8 experts numbers 1, 2, 5 and 7 stay: ``mask`` = [-inf, 0, 0, -inf, -inf, 0, -inf, 0] is added to the
    logits, and ``Gather(gates, [1, 2, 5, 7], axis=1)`` gates them.

    Attributes:
        experts: of each layer that stay.
        keep: instead, share of the experts that stays; 0.5 where neither is given.
        criterion: which stay: `reap` those with the largest mean of gate times length of the output (arXiv 2510.13999),
            `frequency` those chosen most, `naee` the set with which the output changes least, by trying all (arXiv
            2402.14800), or `random` ones.
        refit: of the last matrices: `joint`, all of a layer together, or `none`.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    experts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    criterion: Criterion = "reap"
    refit: Literal["none", "joint"] = "joint"

    def __post_init__(self) -> None:
        if self.experts is not None and self.keep is not None:
            raise ValueError("experts and keep both say how many stay; give one of them")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: every expert stays"),))
        if context.calibration is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "experts are judged by their outputs"),))
        prepared = prepare(model, context.calibration, context)
        pruner = Pruner(self.criterion, self.refit == "joint", context.seed)

        def propose(view: View, count: int) -> list[Reduction]:
            pruning = pruner.propose(view, count)
            return [] if pruning is None else [pruning]

        return reduce_layers(prepared, uniform(prepared.sizes, self.experts, self.keep), propose)
