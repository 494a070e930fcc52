# SPDX-License-Identifier: Apache-2.0
"""Normalizations: channelwise ones pass channels through, those over the channels change their statistics."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.rules.site import Axes, Rule, Site


def batch_normalization(site: Site) -> Sequence[Axes]:
    """Scale, bias, mean and variance have one entry a channel; so have the running statistics that training returns."""
    x = site.axes(0)
    channels = x[1]
    for index in range(1, len(site.inputs)):
        site.labels.union(channels, site.axes(index)[0])
    return [x, *([(channels,)] * (len(site.node.outputs) - 1))]


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
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), softmax),
    "InstanceNormalization": batch_normalization,
}
