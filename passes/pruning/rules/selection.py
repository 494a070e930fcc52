# SPDX-License-Identifier: Apache-2.0
"""Operators that choose among indices, join axes or lengthen them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.groups import IntArray
from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site


def concat(site: Site) -> Sequence[Axes]:
    """The joined axis is the operands' one after the other; the others agree."""
    operands = [axes for axes in site.inputs if axes is not None]
    axis = site.integer("axis", 1) % len(operands[0])
    joined = np.concatenate([axes[axis] for axes in operands])
    for other in operands[1:]:
        for place, labels in enumerate(operands[0]):
            if place != axis:
                site.labels.union(labels, other[place])
    return [_with(operands[0], axis, joined)]


def split(site: Site) -> Sequence[Axes]:
    """The reverse of Concat; the traced lengths tell where the parts end."""
    x = site.axes(0)
    axis = site.integer("axis", 0) % len(x)
    ends = np.cumsum([site.shape(index)[axis] for index in range(len(site.node.outputs))])
    return [_with(x, axis, part) for part in np.split(x[axis], ends[:-1])]


def slice_(site: Site) -> Sequence[Axes]:
    """Index j of the result is index start + j step, both clamped as NumPy does."""
    x = site.axes(0)
    starts, ends = (_bounds(site, index, name) for index, name in ((1, "starts"), (2, "ends")))
    axes, steps = _bounds(site, 3, "axes"), _bounds(site, 4, "steps")
    if starts is None or ends is None:
        forward = steps is not None and min(steps) > 0 if site.optional(4) else True
        return [_shortened(site, [axis % len(x) for axis in axes or range(len(x))], forward)]
    axes = axes or tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)
    result = x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        chosen = np.arange(*slice(start, end, step).indices(len(x[axis])))
        result = _with(result, axis % len(x), x[axis][chosen])
    return [result]


def pad(site: Site) -> Sequence[Axes]:
    """[begin | X | end]: the padding's own indices may go like any other; mirrored padding needs what it mirrors."""
    x = site.axes(0)
    pads = _bounds(site, 1, "pads")
    if pads is None:
        raise OpaqueError("its padding is computed from data or dynamic sizes")
    axes = [axis % len(x) for axis in _bounds(site, 3, "axes") or range(len(x))]
    mirrored = site.node.attributes.get_string("mode", "constant") != "constant"
    result = x
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if begin or end:
            result = _with(result, axis, _padded(site, x[axis], begin, end, mirrored))
    return [result]


def _padded(site: Site, labels: IntArray, begin: int, end: int, mirrored: bool) -> IntArray:
    length = len(labels) + begin + end
    if mirrored or (labels < 0).all():
        site.freeze(labels, "it repeats indices at the border")
        return site.frozen(length, "the padding of an axis that does not change")
    inside = labels[max(-begin, 0) : len(labels) - max(-end, 0)]
    return np.concatenate([site.labels.fresh(max(begin, 0)), inside, site.labels.fresh(max(end, 0))])


def _bounds(site: Site, index: int, name: str) -> tuple[int, ...] | None:
    """An attribute before opset 10, an input since."""
    if (attribute := site.integers(name)) is not None:
        return attribute
    try:
        array = site.constant(index)
    except OpaqueError:
        return None
    return None if array is None else tuple(int(value) for value in array)


def _shortened(site: Site, sliced: Sequence[int], forward: bool) -> Axes:
    """Bounds that vary with the data or with dynamic sizes: an axis that kept its length, forwards, was not cut."""
    result = site.axes(0)
    for axis in sliced:
        length = site.shape()[axis]
        if not forward or len(result[axis]) != length or site.is_open(axis):
            site.freeze(result[axis], "its bounds are computed from data or dynamic sizes")
            result = _with(result, axis, site.frozen(length, "its bounds are computed from data or dynamic sizes"))
    return result


def _with(axes: Axes, axis: int, labels: IntArray) -> Axes:
    return (*axes[:axis], labels, *axes[axis + 1 :])


SELECTION: dict[str, Rule] = {"Concat": concat, "Split": split, "Slice": slice_, "Pad": pad}
