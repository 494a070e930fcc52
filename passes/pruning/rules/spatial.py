# SPDX-License-Identifier: Apache-2.0
"""Operators on the spatial axes, 2 and after: batch and channels pass through."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.rules.site import Axes, Rule, Site

_SPATIAL = "a spatial axis"


def pool(site: Site) -> Sequence[Axes]:
    """Batch and channels pass through, every output alike (MaxPool: values and indices)."""
    x = site.axes(0)
    for axis in x[2:]:
        site.freeze(axis, _SPATIAL)
    axes = (*x[:2], *(site.frozen(length, _SPATIAL) for length in site.shape()[2:]))
    return [axes] * len(site.node.outputs)


SPATIAL: dict[str, Rule] = dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), pool)
