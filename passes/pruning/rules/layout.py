# SPDX-License-Identifier: Apache-2.0
"""Operators that rearrange a tensor's elements without choosing among them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgefold.passes.pruning.rules.site import SINGLE, Axes, Rule, Site

_MISFIT = "the reshaped axes have no common factors"


def transpose(site: Site) -> Sequence[Axes]:
    """Axes in another order, by default reversed."""
    x = site.axes(0)
    order = site.integers("perm") or tuple(reversed(range(len(x))))
    return [tuple(x[axis] for axis in order)]


def reshape(site: Site) -> Sequence[Axes]:
    """Also Flatten, Squeeze and Unsqueeze: only the traced lengths matter, whatever the shape was computed from."""
    site.sizes(1)
    return [reshaped(site, site.axes(0), site.shape())]


def reshaped(site: Site, axes: Axes, shape: tuple[int, ...]) -> Axes:
    """Labels after a row-major reshape.

    Axes are merged and split in blocks between the positions where the running products of both shapes meet. Inside a
    block every axis is a product of the same finer factors, which must divide one another.
    """
    before = [len(labels) for labels in axes]
    if before == list(shape):
        return axes
    if 0 in before:
        return tuple(site.frozen(length, "an axis is empty") for length in shape)
    result = [site.frozen(length, _MISFIT) if length > 1 else np.full(1, SINGLE) for length in shape]
    for labels, length in zip(axes, before, strict=True):
        if length == 1:
            site.drop(labels)
    for inside, outside in _blocks(before, shape):
        factors = _common_factors([before[axis] for axis in inside], [shape[axis] for axis in outside])
        if factors is None:
            site.freeze_all(tuple(axes[axis] for axis in inside), _MISFIT)
            continue
        splits = zip(inside, factors[0], strict=True)
        parts = [part for axis, lengths in splits for part in site.labels.split(axes[axis], lengths)]
        for axis, split in zip(outside, factors[1], strict=True):
            result[axis] = site.labels.product(parts[: len(split)])
            parts = parts[len(split) :]
    return tuple(result)


def _blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes longer than 1 of both shapes, in runs of equal product."""
    left = [axis for axis, length in enumerate(before) if length > 1]
    right = [axis for axis, length in enumerate(after) if length > 1]
    while left and right:
        inside, outside = [left.pop(0)], [right.pop(0)]
        while (gap := math.prod(before[a] for a in inside) - math.prod(after[a] for a in outside)) != 0:
            if gap > 0:
                outside.append(right.pop(0))
            else:
                inside.append(left.pop(0))
        yield inside, outside


def _common_factors(before: Sequence[int], after: Sequence[int]) -> tuple[list[list[int]], list[list[int]]] | None:
    """How the lengths on both sides split into the same factors; None where the running products do not divide."""
    cuts = sorted({math.prod(lengths[:end]) for lengths in (before, after) for end in range(1, len(lengths) + 1)})
    if any(high % low for low, high in itertools.pairwise(cuts)):
        return None
    return _split(before, cuts), _split(after, cuts)


def _split(lengths: Sequence[int], cuts: Sequence[int]) -> list[list[int]]:
    """The factors of every length between the cuts that fall into it."""
    result = []
    start = 1
    for length in lengths:
        inside = [start, *(cut for cut in cuts if start < cut <= start * length)]
        result.append([high // low for low, high in itertools.pairwise(inside)])
        start *= length
    return result


LAYOUT: dict[str, Rule] = {
    "Transpose": transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshape),
}
