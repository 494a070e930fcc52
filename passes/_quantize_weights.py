# SPDX-License-Identifier: Apache-2.0
"""Quantizes the matrices of groups of nodes, with the moments of their inputs where rounding needs them.

A layer's bias can undo the mean of the error that rounding makes, so rounding minimizes only what is left, the error on
the centred inputs: with means m and codes W', it weighs by X'X - n m m', and the bias becomes b + m (W - W').
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._codes import QuantizedMatrix, Rounding, quantize_matrix
from edgefold.passes._layer_inputs import Inputs, Patches, Rows
from edgefold.passes._moments import Moments
from edgefold.passes._shared_weights import WeightGroup
from edgefold.passes._weighted_nodes import Float, WeightedNode
from edgefold.passes.base import Calibrates, Context, Skip, SkipReason

Double = npt.NDArray[np.float64]

_MOMENT_BYTES = 192 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What became of one group.

    Attributes:
        group: the nodes.
        matrix: their common matrix.
        corrections: for each node what to add to its bias, float32 [N]; empty without moments.
        fallbacks: a Skip where a simpler rounding had to do.
    """

    group: WeightGroup
    matrix: QuantizedMatrix
    corrections: Mapping[ir.Node, Float]
    fallbacks: Sequence[Skip]


def quantize_groups(groups: Sequence[WeightGroup], rounding: Rounding, context: Context) -> Iterator[Quantized]:
    """Quantizes the matrix of each group, one at a time."""
    if rounding == "nearest" or context.calibration is None:
        skips = []
        if rounding != "nearest":
            skips = [Skip("model", SkipReason.NO_CALIBRATION, f"rounding nearest instead of {rounding}")]
        for group in groups:
            yield Quantized(group, quantize_matrix(group.sites[0].matrix(), group.bits, group.method), {}, skips)
            skips = []
        return
    for portion in _portions(groups):
        requests = list(dict.fromkeys(request for group in portion for request in _requests(group)))
        moments, failures = _moments(context.calibration, requests)
        for group in portion:
            reasons = [failures[request] for request in _requests(group) if request in failures]
            fallbacks = [Skip(group.sites[0].label, SkipReason.FALLBACK, f"{reasons[0]}: nearest")] if reasons else []
            yield _quantize(group, rounding, moments, fallbacks)


def _quantize(
    group: WeightGroup, rounding: Rounding, moments: Mapping[Inputs, Moments], fallbacks: Sequence[Skip]
) -> Quantized:
    """Quantizes one matrix by the moments of its readers, to nearest where there are none."""
    weight = group.sites[0].matrix()
    second = _sum([_centred(moments[request]) for request in _requests(group) if request in moments])
    if second is None or not second.any():
        return Quantized(group, quantize_matrix(weight, group.bits, group.method), {}, fallbacks)
    matrix = quantize_matrix(weight, group.bits, group.method, second_moment=second, rounding=rounding)
    error = weight - matrix.dequantize()
    corrections = {}
    for site in group.sites:
        request = layer_inputs(site)
        if request is not None and request in moments:
            corrections[site.node] = _mean_error(moments[request], error)
    return Quantized(group, matrix, corrections, fallbacks)


def _centred(moments: Moments) -> Double:
    """Second moments [P, K, K] about the mean."""
    mean = moments.sums / max(moments.count, 1)
    centred: Double = moments.xtx - moments.sums[:, :, None] * mean[:, None, :]
    return centred


def _mean_error(moments: Moments, error: Float) -> Float:
    """The mean over the inputs of x . error, float32 [N]; N falls into as many runs as the inputs."""
    mean = moments.sums / max(moments.count, 1)
    runs, rows = mean.shape
    by_run = error.reshape(rows, runs, -1).transpose(1, 0, 2)
    shift: Float = np.einsum("pk,pkn->pn", mean, by_run).reshape(-1).astype(np.float32)
    return shift


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


def _sum(moments: list[Double]) -> Double | None:
    """The moments of all readers of one matrix together; of those with as many runs as the first."""
    same = [moment for moment in moments if moment.shape == moments[0].shape]
    total: Double | None = np.add.reduce(same) if same else None
    return total
