# SPDX-License-Identifier: Apache-2.0
"""Quantizes the matrices of groups of nodes, with the second moments of their inputs where rounding needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgefold.errors import ModelError
from edgefold.passes._codes import QuantizedMatrix, Rounding, quantize_matrix
from edgefold.passes._layer_inputs import Inputs, Patches, Rows
from edgefold.passes._moments import Moments
from edgefold.passes._shared_weights import WeightGroup
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Calibrates, Context, Skip, SkipReason

_MOMENT_BYTES = 192 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""


def quantize_groups(
    groups: Sequence[WeightGroup], rounding: Rounding, context: Context
) -> Iterator[tuple[WeightGroup, QuantizedMatrix, list[Skip]]]:
    """The quantized matrix of each group, one at a time, and a Skip where a simpler rounding had to do."""
    if rounding == "nearest" or context.calibration is None:
        skips = []
        if rounding != "nearest":
            skips = [Skip("model", SkipReason.NO_CALIBRATION, f"rounding nearest instead of {rounding}")]
        for group in groups:
            yield group, quantize_matrix(group.sites[0].matrix(), group.bits, group.method), skips
            skips = []
        return
    for portion in _portions(groups):
        requests = list(dict.fromkeys(request for group in portion for request in _requests(group)))
        moments, failures = _moments(context.calibration, requests)
        for group in portion:
            matrix = group.sites[0].matrix()
            moment = _sum([moments[request].xtx for request in _requests(group) if request in moments])
            reasons = [failures[request] for request in _requests(group) if request in failures]
            fallback = [Skip(group.sites[0].label, SkipReason.FALLBACK, f"{reasons[0]}: nearest")] if reasons else []
            if moment is None or not moment.any():
                yield group, quantize_matrix(matrix, group.bits, group.method), fallback
            else:
                quantized = quantize_matrix(matrix, group.bits, group.method, second_moment=moment, rounding=rounding)
                yield group, quantized, fallback


def layer_inputs(site: WeightedNode) -> Inputs | None:
    """What the node's weights are multiplied with, as calibration names it; None for a lookup."""
    tensor = str(site.data.name)
    if site.kind == "gather":
        return None
    if site.geometry is None:
        return Rows(tensor, axis=-2 if site.on_left else -1)
    geometry = site.geometry
    return Patches(tensor, geometry.kernel, geometry.strides, geometry.pads, geometry.dilations, geometry.group)


def _requests(group: WeightGroup) -> list[Inputs]:
    found = [layer_inputs(site) for site in group.sites]
    return list(dict.fromkeys(request for request in found if request is not None))


def _moment_bytes(group: WeightGroup) -> int:
    site = group.sites[0]
    runs = site.geometry.group if site.geometry else 1
    return 8 * runs * site.k * site.k * len(_requests(group))


def _portions(groups: Sequence[WeightGroup]) -> Iterator[list[WeightGroup]]:
    portion: list[WeightGroup] = []
    held = 0
    for group in groups:
        size = _moment_bytes(group)
        if portion and held + size > _MOMENT_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(group)
        held += size
    if portion:
        yield portion


def _moments(calibration: Calibrates, requests: list[Inputs]) -> tuple[dict[Inputs, Moments], dict[Inputs, str]]:
    """Moments of the requests, and the reason for each that calibration could not give."""
    if not requests:
        return {}, {}
    try:
        return dict(calibration.moments(requests)), {}
    except ModelError as error:
        if len(requests) == 1:
            return {}, {requests[0]: str(error)}
    half = len(requests) // 2
    (left, wrong), (right, more) = _moments(calibration, requests[:half]), _moments(calibration, requests[half:])
    return {**left, **right}, {**wrong, **more}


def _sum(moments: list[np.ndarray]) -> np.ndarray | None:
    """The moments of all readers of one matrix together; of those with as many runs as the first."""
    same = [moment for moment in moments if moment.shape == moments[0].shape]
    return np.add.reduce(same) if same else None
