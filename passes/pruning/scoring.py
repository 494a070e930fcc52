# SPDX-License-Identifier: Apache-2.0
"""From the name of a criterion to the scores of all groups, with what the criterion needs taken from the context."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.errors import UsageError
from edgefold.passes.base import Calibrates, Context, Skip, SkipReason
from edgefold.passes.pruning.gradient_scores import NEEDS_CURVATURE, GradientCriterion, gradient_score
from edgefold.passes.pruning.groups import Group, Role
from edgefold.passes.pruning.importance import Aggregate, Normalize, Vector, combined, group_scores, normalized
from edgefold.passes.pruning.reader_scores import activation_scores, second_order_scores
from edgefold.passes.pruning.weight_scores import energy, l1, l2, random

Criterion = Literal["random", "l1", "l2", "activation", "taylor", "snip", "grasp", "crop", "obs"]

WITHOUT_DATA: Criterion = "l1"
"""Takes the place of criteria that need data which there are none of."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """Importance of units.

    Attributes:
        scores: group name -> float64 [size].
        criterion: the one that was used.
        fallbacks: a Skip for each criterion that another had to stand in for.
    """

    scores: Mapping[str, Vector]
    criterion: Criterion
    fallbacks: tuple[Skip, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A criterion with how it is lifted to groups; see `importance.group_scores`.

    Attributes:
        criterion: of single weights, or of units.
        aggregate: over slices; `obs` and `random` have none.
        normalize: over the units of a group.
    """

    criterion: Criterion
    aggregate: Aggregate
    normalize: Normalize | Literal["auto"]

    def score(
        self,
        groups: Sequence[Group],
        model: ir.Model,
        calibration: Calibrates | None,
        context: Context,
        most: Mapping[str, int],
    ) -> Scored:
        """Scores all units of the groups.

        Args:
            groups: to choose from.
            model: the prepared model.
            calibration: of that model on real data; None without.
            context: gives gradients and the seed.
            most: units that may go from each group.

        Raises:
            UsageError: the criterion needs gradients, and nothing supplies them.
        """
        if self.criterion in ("activation", "obs") and calibration is None:
            why = f"importance {WITHOUT_DATA} instead of {self.criterion}, which needs real inputs"
            without = dataclasses.replace(self, criterion=WITHOUT_DATA)
            found = without.score(groups, model, None, context, most)
            return dataclasses.replace(found, fallbacks=(Skip("model", SkipReason.NO_CALIBRATION, why),))
        weights = _Weights(model)
        normalize = self._normalize()
        if self.criterion == "random":
            return Scored(random(groups, context.seed), self.criterion)
        if self.criterion == "obs":
            assert calibration is not None
            errors = second_order_scores(groups, model, calibration, weights, most)
            scores = {name: normalized(error, normalize) for name, error in errors.items()}
            return Scored(scores, self.criterion, _unseen(groups, model))
        if self.criterion == "activation":
            assert calibration is not None
            told = activation_scores(groups, model, calibration, weights)
            scores = {name: combined(one, self.aggregate, normalize) for name, one in told.items()}
        elif self.criterion == "l1":
            scores = group_scores(groups, l1(weights), self.aggregate, normalize)
        elif self.criterion == "l2":
            scores = group_scores(groups, l2(weights), self.aggregate, normalize)
        else:
            judge = gradient_score(self.criterion, weights, _gradients(self.criterion, model, context))
            scores = group_scores(groups, judge, self.aggregate, normalize)
        return self._completed(groups, scores, weights)

    def _normalize(self) -> Normalize:
        """Second-order errors and random numbers compare as they are; sums of weights only on a common scale."""
        if self.normalize != "auto":
            return self.normalize
        return "none" if self.criterion in ("obs", "random") else "mean"

    def _completed(self, groups: Sequence[Group], scores: dict[str, Vector], weights: Mapping[str, Any]) -> Scored:
        """Scores with the groups that the criterion says nothing of judged by the energy of their weights."""
        mute = [group for group in groups if group.name not in scores]
        stand_in = group_scores(mute, energy(weights), "sum", self._normalize())
        unknown = {group.name: np.ones(group.size) for group in mute if group.name not in stand_in}
        fallbacks = [
            Skip(group.slices[0].node, SkipReason.FALLBACK, f"importance {self.criterion} says nothing of it: energy")
            for group in mute
        ]
        return Scored({**unknown, **stand_in, **scores}, self.criterion, tuple(fallbacks))


def _unseen(groups: Sequence[Group], model: ir.Model) -> tuple[Skip, ...]:
    """A Skip for each reader of a group that is in a body, where calibration sees nothing."""
    main = {str(node.name) for node in model.graph}
    readers = dict.fromkeys(one.node for group in groups for one in group.on(Role.READER) if one.node not in main)
    why = "importance by its weights alone; calibration sees nothing in there"
    return tuple(Skip(node, SkipReason.SUBGRAPH, why) for node in readers)


class _Weights(Mapping[str, NDArray[np.floating]]):
    """The initializers of a model as arrays, read when asked for."""

    def __init__(self, model: ir.Model) -> None:
        self._tensors = model.graph.initializers

    def __getitem__(self, name: str) -> NDArray[np.floating]:
        tensor = self._tensors[name].const_value
        assert tensor is not None, "an initializer has a tensor"
        return tensor.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _gradients(criterion: GradientCriterion, model: ir.Model, context: Context) -> Mapping[str, NDArray[np.floating]]:
    if context.gradients is None:
        raise UsageError(
            f"prune-channels: importance {criterion} needs gradients: give a task (-d) and pip install edgefold[heal]"
        )
    return context.gradients(model, criterion in NEEDS_CURVATURE)
