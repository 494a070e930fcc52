# SPDX-License-Identifier: Apache-2.0
"""Operators that make a tensor from a shape or repeat one: the new indices may go with those that they meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.rules.site import Axes, Rule, Site


def shape_of(site: Site) -> Sequence[Axes]:
    """Shape and Size read no element; what is computed from them is followed by value, not by label."""
    return [tuple(site.frozen(length, "a vector of sizes") for length in site.shape())]


def filled(site: Site) -> Sequence[Axes]:
    """ConstantOfShape: every element alike."""
    return [tuple(site.labels.fresh(length) for length in site.shape())]


def expand(site: Site) -> Sequence[Axes]:
    """Axes of length 1 become longer, in both directions of broadcasting."""
    x, shape = site.axes(0), site.shape()
    result = []
    for length, labels in zip(reversed(shape), (*reversed(x), *[None] * (len(shape) - len(x))), strict=True):
        if labels is not None and len(labels) == length:
            result.append(labels)
            continue
        if labels is not None:
            site.drop(labels)
        result.append(site.labels.fresh(length))
    return [tuple(reversed(result))]


def tile(site: Site) -> Sequence[Axes]:
    """An axis of length 1 becomes longer; a longer one is repeated, and every repeat goes with it."""
    x = site.axes(0)
    result = []
    for labels, length in zip(x, site.shape(), strict=True):
        if len(labels) == length:
            result.append(labels)
        elif len(labels) == 1:
            site.drop(labels)
            result.append(site.labels.fresh(length))
        else:
            result.append(np.tile(labels, length // max(len(labels), 1)))
    return [tuple(result)]


CREATION: dict[str, Rule] = {
    "Shape": shape_of,
    "Size": shape_of,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Tile": tile,
}
