# SPDX-License-Identifier: Apache-2.0
"""Operators on the spatial axes, 2 and after: batch and channels pass through."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

_SPATIAL = "a spatial axis"


def pool(site: Site) -> Sequence[Axes]:
    """Batch and channels pass through; a MaxPool that also tells positions counts them through all channels."""
    x = site.axes(0)
    if len(site.node.outputs) > 1 and site.node.outputs[1].name:
        site.freeze_all(x, "its indices count through the whole tensor")
    site.freeze_all(x[2:], _SPATIAL)
    return [(*x[:2], *_spatial(site))] * len(site.node.outputs)


def grid_sample(site: Site) -> Sequence[Axes]:
    """Channels pass through; the grid says where to look."""
    x, grid = site.axes(0), site.axes(1)
    site.labels.union(x[0], grid[0])
    site.freeze_all((*x[2:], *grid[1:]), _SPATIAL)
    return [(*x[:2], *_spatial(site))]


def roi_align(site: Site) -> Sequence[Axes]:
    """Channels pass through; axis 0 becomes that of the regions."""
    x, regions, batch = site.axes(0), site.axes(1), site.axes(2)
    site.freeze_all((x[0], *x[2:], *regions, *batch), _SPATIAL)
    return [(regions[0], x[1], *_spatial(site))]


def resize(site: Site) -> Sequence[Axes]:
    """Axes whose length changes are interpolated, the others copied."""
    if site.node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise OpaqueError("it crops by regions")
    for index in (1, 2, 3):
        site.freeze_all(site.optional(index) or (), "sizes, one for each axis")
    result = []
    for labels, length in zip(site.axes(0), site.shape(), strict=True):
        if len(labels) == length:
            result.append(labels)
            continue
        site.freeze(labels, _SPATIAL)
        result.append(site.frozen(length, _SPATIAL))
    return [tuple(result)]


def depth_to_space(site: Site) -> Sequence[Axes]:
    """Channels are block x block x channel (DCR), or channel x block x block (CRD); a channel is a unit."""
    x = site.axes(0)
    block = site.integer("blocksize", 1) ** 2
    first = _channels_first(site)
    lengths = (len(x[1]) // block, block) if first else (block, len(x[1]) // block)
    parts = site.labels.split(x[1], lengths)
    site.freeze(parts[first], "it becomes a spatial axis")
    site.freeze_all(x[2:], _SPATIAL)
    return [(x[0], parts[not first], *_spatial(site))]


def space_to_depth(site: Site) -> Sequence[Axes]:
    """The reverse; a channel goes at all positions of the block."""
    x = site.axes(0)
    block = site.frozen(site.integer("blocksize", 1) ** 2, "it was a spatial axis")
    site.freeze_all(x[2:], _SPATIAL)
    channels = site.labels.product((x[1], block) if _channels_first(site) else (block, x[1]))
    return [(x[0], channels, *_spatial(site))]


def _channels_first(site: Site) -> bool:
    return bool(site.node.attributes.get_string("mode", "DCR") == "CRD")


def columns_to_image(site: Site) -> Sequence[Axes]:
    """Col2Im: axis 1 is channel x block."""
    x = site.axes(0)
    block = math.prod(int(length) for length in site.required(2))
    channels, inside = site.labels.split(x[1], (len(x[1]) // block, block))
    site.freeze_all((inside, x[2]), _SPATIAL)
    return [(x[0], channels, *_spatial(site))]


def _spatial(site: Site) -> Axes:
    return tuple(site.frozen(length, _SPATIAL) for length in site.shape()[2:])


SPATIAL: dict[str, Rule] = {
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), pool),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Col2Im": columns_to_image,
}
