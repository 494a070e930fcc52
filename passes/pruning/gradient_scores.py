# SPDX-License-Identifier: Apache-2.0
"""Criteria that look at the gradient g of the loss, and at the product Hg with its Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import Slice
from edgefold.passes.pruning.importance import SliceScore, Vector
from edgefold.passes.pruning.weight_scores import Weights, elementwise

GradientCriterion = Literal["taylor", "snip", "grasp", "crop"]

NEEDS_CURVATURE = frozenset({"grasp", "crop"})
"""Criteria of Hg; the others are of g."""

Gradients = Mapping[str, NDArray[np.floating]]


def gradient_score(criterion: GradientCriterion, weights: Weights, gradients: Gradients) -> SliceScore:
    """The score of a slice.

    Args:
        criterion: `taylor`, |sum w g|, the change of the loss to first order when the slice goes (1906.10771);
            `snip`, sum |w g| (1810.02340); `grasp`, sum -w Hg (2002.07376), by which weights whose removal lowers the
            gradient's norm go first; `crop`, sum |w Hg|, those that keep the norm (2206.04510).
        weights: parameters by name.
        gradients: g for `taylor` and `snip`, Hg for `grasp` and `crop`, by name of the parameter; parameters that are
            not trained have none.
    """

    def products(name: str) -> NDArray[np.floating] | None:
        if name not in gradients:
            return None
        product = np.multiply(weights[name], gradients[name], dtype=np.float64)
        return {"taylor": product, "snip": np.abs(product), "grasp": -product, "crop": np.abs(product)}[criterion]

    summed = elementwise(products)
    if criterion != "taylor":
        return summed

    def change(one: Slice, size: int) -> Vector | None:
        score = summed(one, size)
        return None if score is None else np.abs(score)

    return change
