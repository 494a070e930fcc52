# SPDX-License-Identifier: Apache-2.0
"""Gamma and beta of L1 normalizations that come closest to the outputs of the original ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._layer_inputs import Rows, Targets
from edgefold.passes._moments import Array, Moments
from edgefold.passes.base import Calibrates
from edgefold.passes.normalization.l1_nodes import L1Node

_TINY = 1e-30


def fit_layers(
    nodes: Sequence[L1Node], model: ir.Model, original: Calibrates, *, per_channel: bool
) -> dict[str, float | int | str]:
    """Fits each node in turn, on what it gets in the changed model, to what `original` had in the same place.

    Args:
        nodes: in the order of the graph; their gamma and beta are exchanged.
        model: that they are part of.
        original: calibration data, through the model before the change.
        per_channel: a factor and an offset a channel; else one factor a layer.

    Returns:
        The range of the factors, relative to Gaussian rows, and of the squared errors, relative to the variance of the
        outputs.
    """
    changed = original.through(model)
    factors, errors = [], []
    for node in nodes:
        name = str(node.output.name)
        rows = Rows(name)
        moments = changed.regressions({rows: [Targets(name)]}, original)[rows].whole
        beta = node.beta.astype(np.float64)
        slope, offset = _per_channel(moments) if per_channel else _per_layer(moments, beta)
        node.set_parameters(slope * node.gamma, slope * beta + offset)
        factors.append(float(np.mean(slope)))
        errors.append(_relative_error(moments, slope, offset))
    return {
        "factor.smallest": min(factors),
        "factor.largest": max(factors),
        "error.mean": float(np.mean(errors)),
        "error.largest": max(errors),
    }


def _second(moments: Moments) -> tuple[Array, Array]:
    """Sums of y y and of y times its target, [D]."""
    return np.diagonal(moments.xtx[0]), np.diagonal(moments.xty[0])


def _per_channel(moments: Moments) -> tuple[Array, Array]:
    """Slope and offset a channel, by least squares."""
    squares, products = _second(moments)
    mean, target = moments.sums[0] / moments.count, moments.target_sums[0] / moments.count
    variance = squares / moments.count - mean * mean
    covariance = products / moments.count - mean * target
    varies = variance > 1e-9 * squares / moments.count + _TINY
    slope = np.where(varies, covariance / np.where(varies, variance, 1.0), 1.0)
    return slope, target - slope * mean


def _per_layer(moments: Moments, beta: Array) -> tuple[Array, Array]:
    """One slope for y - beta in all channels, by least squares; beta stays."""
    squares, products = _second(moments)
    y, target = moments.sums[0], moments.target_sums[0]
    own = squares - 2 * beta * y + moments.count * beta * beta
    cross = products - beta * (y + target) + moments.count * beta * beta
    factor = float(cross.sum() / own.sum()) if own.sum() > _TINY else 1.0
    return np.full(len(beta), factor), beta * (1 - factor)


def _relative_error(moments: Moments, slope: Array, offset: Array) -> float:
    """Squared error of slope * y + offset by the variance of the targets, over all channels."""
    squares, products = _second(moments)
    y, target = moments.sums[0], moments.target_sums[0]
    error = slope * slope * squares + 2 * slope * offset * y + moments.count * offset * offset
    error += moments.target_squares[0] - 2 * slope * products - 2 * offset * target
    variance = moments.target_squares[0] - target * target / moments.count
    return float(max(error.sum(), 0.0) / max(variance.sum(), _TINY))
