# SPDX-License-Identifier: Apache-2.0
"""Normalizations: those over space pass channels through, those over channels change their statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.rules.site import SINGLE, Axes, Rule, Site


def batch_normalization(site: Site) -> Sequence[Axes]:
    """Scale, bias, mean and variance have one entry a channel; so have the running statistics that training returns."""
    x = site.axes(0)
    channels = x[1] if len(x) > 1 else np.full(1, SINGLE)
    if site.integer("training_mode", 0):
        site.statistics((x[0], *x[2:]))
    for index in range(1, len(site.inputs)):
        site.labels.union(channels, site.axes(index)[0])
    return [x, *([(channels,)] * (len(site.node.outputs) - 1))]


def instance_normalization(site: Site) -> Sequence[Axes]:
    """One mean a channel, over axes 2 and after; a group normalization as exporters write it has channels there."""
    x = site.axes(0)
    site.statistics(x[2:])
    for index in (1, 2):
        site.labels.union(x[1], site.axes(index)[0])
    return [x]


def group_normalization(site: Site) -> Sequence[Axes]:
    """Whole groups are exact; channels of every group change statistics. Before opset 21 scales are per group."""
    x, scale, bias = site.axes(0), site.axes(1), site.axes(2)
    groups = site.integer("num_groups", 1)
    group, inside = site.labels.split(x[1], (groups, len(x[1]) // groups))
    site.statistics((inside, *x[2:]))
    for parameter in (scale, bias):
        site.labels.union(parameter[0], x[1] if site.opset >= 21 else group)
    return [x]


def layer_normalization(site: Site) -> Sequence[Axes]:
    """Scale and bias have the normalized axes, or broadcast to them."""
    x = site.axes(0)
    axis = site.integer("axis", -1) % len(x)
    if site.node.op_type == "LayerNormalization":
        site.statistics(x[axis:])
    for index in (1, 2):
        if (parameter := site.optional(index)) is not None:
            site.broadcast((x, parameter))
    moments = (*x[:axis], *([np.full(1, SINGLE)] * (len(x) - axis)))
    return [x, *([moments] * (len(site.node.outputs) - 1))]


def local_response(site: Site) -> Sequence[Axes]:
    """LRN sums the squares of neighbouring channels, and neighbours change."""
    x = site.axes(0)
    site.statistics(x[1:2])
    return [x]


def lp_normalization(site: Site) -> Sequence[Axes]:
    """Divides by a norm along one axis."""
    x = site.axes(0)
    site.statistics((x[site.integer("axis", -1)],))
    return [x]


def mean_variance(site: Site) -> Sequence[Axes]:
    """By default over batch and space."""
    x = site.axes(0)
    site.statistics(tuple(x[axis] for axis in site.integers("axes") or (0, 2, 3)))
    return [x]


def softmax(site: Site) -> Sequence[Axes]:
    """Every element of the normalized axes depends on every other; before opset 13 they are all after `axis`."""
    x = site.axes(0)
    since_13 = site.opset >= 13
    axis = site.integer("axis", -1 if since_13 else 1) % len(x)
    normalized = x[axis : axis + 1] if since_13 else x[axis:]
    site.freeze_all(normalized, "it normalizes over this axis")
    return [x]


NORMALIZATION: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), layer_normalization),
    "LRN": local_response,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), softmax),
}
