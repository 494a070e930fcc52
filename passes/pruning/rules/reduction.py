# SPDX-License-Identifier: Apache-2.0
"""Operators that reduce axes: a sum or a mean can lose a term, an extreme can not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.rules.site import SINGLE, Axes, Rule, Site

_VIEWS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze", "Expand")
_VIEWS_DEEP = 6


def additive(site: Site) -> Sequence[Axes]:
    """Sums and means: the reduced axes may lose indices (a mean's divisor follows)."""
    x, reduced = site.axes(0), _reduced(site)
    if site.node.op_type == "ReduceMean" and _centres(site):
        site.statistics(tuple(x[axis] for axis in sorted(reduced)))
    return [_remaining(x, reduced, keep=bool(site.integer("keepdims", 1)))]


def extreme(site: Site) -> Sequence[Axes]:
    """Maxima, products and positions need every term."""
    x, reduced = site.axes(0), _reduced(site)
    site.freeze_all(tuple(x[axis] for axis in sorted(reduced)), "it needs every element that it reduces")
    return [_remaining(x, reduced, keep=bool(site.integer("keepdims", 1)))]


def global_mean(site: Site) -> Sequence[Axes]:
    """GlobalAveragePool and GlobalLpPool reduce axes 2 and after, whatever they mean to the exporter."""
    x = site.axes(0)
    if _centres(site):
        site.statistics(x[2:])
    return [_remaining(x, set(range(2, len(x))), keep=True)]


def global_max(site: Site) -> Sequence[Axes]:
    """GlobalMaxPool."""
    x = site.axes(0)
    site.freeze_all(x[2:], "it needs every element that it reduces")
    return global_mean(site)


def _centres(site: Site) -> bool:
    """Whether the mean is subtracted from something, as a decomposed layer normalization does."""
    ahead, depth = list(site.node.outputs), 0
    while ahead and depth < _VIEWS_DEEP:
        readers = [use.node for value in ahead for use in value.uses()]
        if any(node.op_type == "Sub" for node in readers):
            return True
        ahead = [value for node in readers if node.op_type in _VIEWS for value in node.outputs]
        depth += 1
    return False


def _reduced(site: Site) -> set[int]:
    rank = len(site.axes(0))
    axes = site.integers("axes")
    if axes is None and site.node.op_type.startswith("Arg"):
        axes = (site.integer("axis", 0),)
    if axes is None and (given := site.constant(1)) is not None:
        axes = tuple(int(axis) for axis in given)
    if not axes:
        return set() if site.integer("noop_with_empty_axes", 0) else set(range(rank))
    return {axis % rank for axis in axes}


def _remaining(axes: Axes, reduced: set[int], keep: bool) -> Axes:
    if keep:
        return tuple(np.full(1, SINGLE) if axis in reduced else labels for axis, labels in enumerate(axes))
    return tuple(labels for axis, labels in enumerate(axes) if axis not in reduced)


REDUCTION: dict[str, Rule] = {
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"), additive),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin"), extreme
    ),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool"), global_mean),
    "GlobalMaxPool": global_max,
}
