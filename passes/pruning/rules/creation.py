# SPDX-License-Identifier: Apache-2.0
"""Operators that make a tensor from a shape or repeat one: the new indices may go with those that they meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.groups import IntArray
from edgefold.passes.pruning.rules.site import Axes, Rule, Site


def shape_of(site: Site) -> Sequence[Axes]:
    """Shape and Size read no element; what is computed from them is followed by value, not by label."""
    return [tuple(site.frozen(length, "a vector of sizes") for length in site.shape())]


def filled(site: Site) -> Sequence[Axes]:
    """ConstantOfShape: every element alike."""
    site.sizes(0)
    return [tuple(site.fresh(axis) for axis in range(len(site.shape())))]


def expand(site: Site) -> Sequence[Axes]:
    """Axes of length 1 become longer, in both directions of broadcasting."""
    site.sizes(1)
    x, shape = site.axes(0), site.shape()
    missing = len(shape) - len(x)
    return [tuple(_repeated(site, x[axis - missing] if axis >= missing else None, axis) for axis in range(len(shape)))]


def tile(site: Site) -> Sequence[Axes]:
    """An axis of length 1 becomes longer; a longer one is repeated, and an index goes with its repetitions."""
    site.sizes(1)
    return [tuple(_repeated(site, labels, axis) for axis, labels in enumerate(site.axes(0)))]


def _repeated(site: Site, labels: IntArray | None, axis: int) -> IntArray:
    length = site.shape()[axis]
    if labels is None or (len(labels) == 1 and length != 1):
        if labels is not None:
            site.drop(labels)
        return site.fresh(axis)
    return labels if len(labels) == length else np.tile(labels, length // max(len(labels), 1))


CREATION: dict[str, Rule] = {
    "Shape": shape_of,
    "Size": shape_of,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Tile": tile,
}
