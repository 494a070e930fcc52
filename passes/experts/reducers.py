# SPDX-License-Identifier: Apache-2.0
"""Ways to fewer experts for one layer, as the options of the passes ask for them."""

from __future__ import annotations

import dataclasses

import numpy as np

from edgefold.errors import ModelError
from edgefold.passes.experts.choice import Criterion, Grouping, grouped, survivors
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.dispatched import DispatchedLayer
from edgefold.passes.experts.layers import Prepared, View, functions
from edgefold.passes.experts.reduction import Align, Average, Merging, Pruning, Refit, held_out_error
from edgefold.passes.experts.router import Mask, find_router

MAX_CURVE = 16
"""Numbers of groups for which a layer's error is measured; between them it is interpolated."""


@dataclasses.dataclass(frozen=True)
class Merger:
    """How groups of experts are made one; see ``merge-experts``."""

    grouping: Grouping
    align: Align
    average: Average
    refit: Refit
    seed: int

    def propose(self, view: View, count: int) -> Merging:
        """The merging of a layer's experts into `count`."""
        [merging] = self._mergings(view, [count])
        return merging

    def error_curve(self, prepared: Prepared, layer: DispatchedLayer) -> list[float]:
        """Error that a layer of the original with 1, 2, ... and all experts makes, on held-out rows, over the energy of
        the stream that it is added to.
        """
        before = prepared.observer.before(layer)
        view = View(prepared.model.graph, layer, functions(layer), before, before, prepared.observer)
        everything = len(view.experts)
        counts = np.unique(np.linspace(1, everything - 1, min(MAX_CURVE, everything - 1)).astype(int))
        quick = dataclasses.replace(self, refit="gated" if self.refit == "joint" else self.refit)
        errors = [held_out_error(one) for one in quick._mergings(view, counts.tolist())]
        found = np.interp(np.arange(1, everything + 1), [*counts, everything], [*errors, 0.0])
        share = prepared.observer.share(layer)
        return [share * float(error) for error in np.minimum.accumulate(found)]

    def _mergings(self, view: View, counts: list[int]) -> list[Merging]:
        groups_of = grouped(self.grouping, view, self.seed)
        return [
            Merging(view.experts, groups_of(count), view.evidence, self.align, self.average, self.refit)
            for count in counts
        ]


@dataclasses.dataclass(frozen=True)
class Pruner:
    """Which experts go; see ``prune-experts``."""

    criterion: Criterion
    refit: bool
    seed: int

    def propose(self, view: View, count: int) -> Pruning | None:
        """The pruning of a layer's experts to `count`; None where the router needs more, or cannot be masked."""
        router = find_router(view.layer.gates)
        chosen = int((view.evidence.gates > 0).sum(axis=1).max(initial=0))
        if router is None or count < chosen:
            return None
        if view.observer.see(view.layer, router.logits).shape[1] != len(view.experts):  # fewer than it chooses between
            return None
        mask = router.masked(view.graph, len(view.experts))
        try:
            pruning = self._masked(view, count, mask)
        except ModelError:
            mask.remove()
            raise
        if pruning is None:
            mask.remove()
        return pruning

    def _masked(self, view: View, count: int, mask: Mask) -> Pruning | None:
        """The pruning by a mask; None where that does not keep experts from being chosen."""

        def gates_without(kept: tuple[int, ...]) -> Array:
            mask.keep(kept)
            return view.observer.see(view.layer, view.layer.gates)

        kept = survivors(self.criterion, view, gates_without, count, self.seed)
        gates = gates_without(kept)
        if np.delete(gates, kept, axis=1).any():
            return None
        evidence = dataclasses.replace(view.evidence, gates=gates[:, list(kept)])
        return Pruning(view.experts, kept, evidence, mask, self.refit)
