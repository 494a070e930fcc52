# SPDX-License-Identifier: Apache-2.0
"""A budget that a user can name without knowing blocks: what the task's metric may lose."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import onnx_ir as ir

from edgefold.goals import Drop
from edgefold.passes.base import Scores
from edgefold.passes.depth.candidates import Move


class ByMetric:
    """As much goes, one part after the other, as the metric on calibration data bears once the rest is repaired.

    A repair fits the data that it sees, so that the metric on these is too good: on a ViT it lost below 1 % where other
    data lost 2 %. So each choice is repaired on either half of the batches and judged by the other.

    Args:
        drop: what may be lost.
        score: the metric of a model on calibration data.
        original: what losses are counted from.
        without: the model without some candidates; or two of them, one repaired on each half of the batches.

    Attributes:
        kept: about the share of the candidates that stays; not known beforehand.
        accepted: what goes.
        loss: of the metric then, in the unit of ``drop``.
        refused: what would have gone next, and its loss; None where all could go.
    """

    def __init__(
        self, drop: Drop, score: Scores, original: ir.Model, without: Callable[[Move], Sequence[ir.Model]]
    ) -> None:
        self.kept = 0.5
        self.loss = 0.0
        self.accepted: Move = frozenset()
        self.refused: tuple[Move, float] | None = None
        self._drop, self._score, self._without = drop, score, without
        self._whole = score(original)

    def allows(self, gone: Collection[int]) -> bool:
        """Any choice may be looked at."""
        return True

    def met(self, gone: Collection[int]) -> bool:
        """It is never enough."""
        return False

    def accepts(self, gone: Move) -> bool:
        """Whether the metric bears what the search has come to; a repair and a run over the data."""
        loss = self._drop.loss_of(self._whole, self._score(*self._without(gone)))
        if not loss <= self._drop.amount:  # NaN, as of an infinite signal-to-noise ratio, is no reason to go on
            self.refused = gone, loss
            return False
        self.accepted, self.loss = gone, loss
        return True
