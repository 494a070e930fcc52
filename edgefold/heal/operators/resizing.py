# SPDX-License-Identifier: Apache-2.0
"""Resize and Upsample: axis by axis, each result a weighted sum of neighbours (1, 2 or 4 of them)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError, numbers

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Rule:
    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool


def _resize(node: BoundNode) -> Kernel:
    rule = _Rule(
        node.text("mode", "nearest"),
        node.text("coordinate_transformation_mode", "half_pixel" if node.version >= 11 else "asymmetric"),
        node.text("nearest_mode", "round_prefer_floor" if node.version >= 11 else "floor"),
        node.real("cubic_coeff_a", -0.75),
        bool(node.integer("exclude_outside", 0)),
    )
    if rule.coordinates == "tf_crop_and_resize" or node.integer("antialias", 0):
        raise UnsupportedNodeError("crops or smooths while it resizes")
    if rule.mode not in ("nearest", "linear", "cubic"):
        raise UnsupportedNodeError(f"resizes by the unknown mode '{rule.mode}'")
    policy, chosen = node.text("keep_aspect_ratio_policy", "stretch"), node.integers("axes")
    first = 2 if node.version >= 11 else 1
    scales_of = numbers(node, first, "scales")
    sizes_of = numbers(node, 3)

    def kernel(*operands: Any) -> Tensor:
        x, scales, sizes = operands[0], scales_of(operands), sizes_of(operands)
        axes = [axis % x.dim() for axis in chosen] if chosen else list(range(x.dim()))
        lengths = [x.shape[axis] for axis in axes]
        if sizes:
            scales = [size / length for size, length in zip(sizes, lengths, strict=True)]
            if policy != "stretch":
                one = min(scales) if policy == "not_larger" else max(scales)
                scales = [one] * len(scales)
                sizes = [math.floor(one * length + 0.5) for length in lengths]
        else:
            sizes = [math.floor(length * scale) for length, scale in zip(lengths, scales, strict=True)]
        for axis, size, scale in zip(axes, sizes, scales, strict=True):
            if size != x.shape[axis] or scale != 1:
                x = _along(x, axis, size, scale, rule)
        return x

    return kernel


def _along(x: Tensor, axis: int, size: int, scale: float, rule: _Rule) -> Tensor:
    places, weights = _neighbours(x.shape[axis], size, scale, rule)
    total: Tensor | None = None
    for place, weight in zip(places, weights, strict=True):
        part = x.index_select(axis, torch.from_numpy(place).to(x.device))
        if rule.mode != "nearest":
            shape = [1] * x.dim()
            shape[axis] = -1
            part = part * torch.from_numpy(weight).to(x).reshape(shape)
        total = part if total is None else total + part
    assert total is not None, "every mode has at least one neighbour"
    return total


def _neighbours(length: int, size: int, scale: float, rule: _Rule) -> tuple[Sequence[NDArray[np.int64]], _Floats]:
    """For each result along an axis its neighbours in the input and their weights, both [neighbours, size]."""
    at = _source(np.arange(size, dtype=np.float64), length, size, scale, rule.coordinates)
    if rule.mode == "nearest":
        whole = _NEAREST[rule.nearest](at)
        return [np.clip(whole, 0, length - 1).astype(np.int64)], np.ones((1, size))
    floor = np.floor(at)
    part = at - floor
    if rule.mode == "linear":
        places, weights = np.stack([floor, floor + 1]), np.stack([1 - part, part])
    else:
        places, weights = np.stack([floor - 1, floor, floor + 1, floor + 2]), _cubic(part, rule.cubic)
    if rule.exclude_outside:
        weights = np.where((places >= 0) & (places < length), weights, 0.0)
        weights = weights / weights.sum(0)
    return list(np.clip(places, 0, length - 1).astype(np.int64)), weights


def _source(at: _Floats, length: int, size: int, scale: float, rule: str) -> _Floats:
    """Where results lie in the coordinates of the input."""
    if rule == "align_corners":
        return at * ((length - 1) / (size - 1)) if size > 1 else np.zeros_like(at)
    if rule == "asymmetric":
        return at / scale
    if rule == "pytorch_half_pixel" and size == 1:
        return np.zeros_like(at)
    if rule == "half_pixel_symmetric":
        centre = length / 2 * (1 - size / (scale * length))
        return centre + (at + 0.5) / scale - 0.5
    return (at + 0.5) / scale - 0.5


def _cubic(part: _Floats, a: float) -> _Floats:
    """Keys' kernel at the four neighbours of a point `part` beyond the second."""
    distances = np.stack([part + 1, part, 1 - part, 2 - part])
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = ((distances - 5) * distances + 8) * distances * a - 4 * a
    result: _Floats = np.where(distances <= 1, near, far)
    return result


_NEAREST: Mapping[str, Callable[[_Floats], _Floats]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
}

OPERATORS: Mapping[str, Binding] = {"Resize": _resize, "Upsample": _resize}
