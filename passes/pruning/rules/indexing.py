# SPDX-License-Identifier: Apache-2.0
"""Operators that look up, place, sort or count by index: the indexed axis keeps its order, the others pass through."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.groups import IntArray, Role
from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

_BY_DATA = "its indices are looked up by data"
_IN_ORDER = "it needs every index of this axis in its place"


def gather(site: Site) -> Sequence[Axes]:
    """Fixed indices choose labels; others, as of an embedding, keep the axis as it is."""
    data, indices = site.axes(0), site.axes(1)
    axis = site.integer("axis", 0) % len(data)
    before, after = data[:axis], data[axis + 1 :]
    for other in range(len(data)):
        if other != axis:
            site.role(0, other, Role.WRITER)
    try:
        chosen = data[axis][site.required(1)]
    except OpaqueError:
        site.freeze(data[axis], _BY_DATA)
        return [(*before, *indices, *after)]
    if chosen.ndim == 1:
        site.labels.union(chosen, indices[0])
        return [(*before, chosen, *after)]
    site.freeze(chosen.ravel(), "a single index, or a table of them, is taken from the axis")
    for labels in indices:
        site.freeze(labels, _BY_DATA)
    return [(*before, *indices, *after)]


def gather_elements(site: Site) -> Sequence[Axes]:
    """Y has the shape of the indices; along the axis they point anywhere."""
    data, indices = site.axes(0), site.axes(1)
    return [_along(site, data, indices, site.integer("axis", 0) % len(data))]


def scatter_elements(site: Site) -> Sequence[Axes]:
    """Y has the shape of the data; the updates that of the indices."""
    data, indices, updates = site.axes(0), site.axes(1), site.axes(2)
    axis = site.integer("axis", 0) % len(data)
    site.union(indices, updates)
    _along(site, data, indices, axis)
    return [data]


def _along(site: Site, data: Axes, indices: Axes, axis: int) -> Axes:
    for place, (one, other) in enumerate(zip(data, indices, strict=True)):
        if place != axis and len(one) == len(other):
            site.labels.union(one, other)
        else:
            site.freeze(one, _BY_DATA)
            site.freeze(other, _BY_DATA)
    return indices


def gather_nd(site: Site) -> Sequence[Axes]:
    """Batch axes agree, the next are indexed, the rest pass through."""
    data, indices = site.axes(0), site.axes(1)
    shared = site.integer("batch_dims", 0)
    depth = len(indices[-1])
    site.union(data[:shared], indices[:shared])
    site.freeze_all((*data[shared : shared + depth], indices[-1]), _BY_DATA)
    return [(*indices[:-1], *data[shared + depth :])]


def scatter_nd(site: Site) -> Sequence[Axes]:
    """The first axes of the data are indexed; every update is needed, and the rest of its axes agree."""
    data, indices, updates = site.axes(0), site.axes(1), site.axes(2)
    depth = len(indices[-1])
    site.freeze_all((*data[:depth], *indices, *updates[: len(indices) - 1]), _BY_DATA)
    site.union(data[depth:], updates[len(indices) - 1 :])
    return [data]


def tensor_scatter(site: Site) -> Sequence[Axes]:
    """A cache with an update written along one axis, at positions that the data say."""
    cache, update = site.axes(0), site.axes(1)
    axis = site.integer("axis", -2) % len(cache)
    _along(site, cache, update, axis)
    if (positions := site.optional(2)) is not None:
        site.labels.union(positions[0], cache[0])
    return [cache]


def in_order(site: Site) -> Sequence[Axes]:
    """CumSum, CumProd: the axis is an input."""
    x, axis = site.axes(0), int(site.required(1).item())
    site.freeze(x[axis], _IN_ORDER)
    return [x]


def triangle(site: Site) -> Sequence[Axes]:
    """Trilu: which elements stay depends on where they stand in the last two axes."""
    x = site.axes(0)
    site.freeze_all(x[-2:], _IN_ORDER)
    return [x]


def reverse_sequence(site: Site) -> Sequence[Axes]:
    """Each sequence of the batch is reversed up to its own length."""
    x = site.axes(0)
    site.freeze_all((x[site.integer("time_axis", 0)], x[site.integer("batch_axis", 1)]), _IN_ORDER)
    return [x]


def top_k(site: Site) -> Sequence[Axes]:
    """Values and indices of the largest: the axis is sorted."""
    x = site.axes(0)
    axis = site.integer("axis", -1) % len(x)
    site.freeze(x[axis], _IN_ORDER)
    kept = site.frozen(site.shape()[axis], _IN_ORDER)
    return [(*x[:axis], kept, *x[axis + 1 :])] * 2


def one_hot(site: Site) -> Sequence[Axes]:
    """The indices with a new axis, as long as there are classes."""
    indices = site.axes(0)
    site.freeze_all(site.axes(2), "the values for off and on")
    axis = site.integer("axis", -1) % (len(indices) + 1)
    return [(*indices[:axis], site.frozen(site.shape()[axis], _BY_DATA), *indices[axis:])]


def compress(site: Site) -> Sequence[Axes]:
    """A condition chooses along an axis, or among all elements."""
    x = site.axes(0)
    if "axis" not in site.node.attributes:
        raise OpaqueError("it flattens what it chooses from")
    axis = site.integer("axis", 0) % len(x)
    site.freeze_all((x[axis], *site.axes(1)), _BY_DATA)
    chosen: IntArray = site.frozen(site.shape()[axis], _BY_DATA)
    return [(*x[:axis], chosen, *x[axis + 1 :])]


INDEXING: dict[str, Rule] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
    "CumSum": in_order,
    "CumProd": in_order,
    "Trilu": triangle,
    "ReverseSequence": reverse_sequence,
    "TopK": top_k,
    "OneHot": one_hot,
    "Compress": compress,
}
