# SPDX-License-Identifier: Apache-2.0
"""Reading and writing by computed indices."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices count from the end."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def _gather(node: BoundNode) -> Kernel:
    axis = node.integer("axis", 0)
    constant = node.constant(1)
    if constant is not None and constant.dim() == 0:
        place = int(constant)
        return lambda x, _: x.select(axis, place)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        wrapped = _wrapped(indices, x.shape[axis])
        if axis == 0 and x.dim() == 2 and x.requires_grad:
            return functional.embedding(wrapped, x)  # its gradient is summed in parallel
        along = axis % x.dim()
        flat = x.index_select(along, wrapped.reshape(-1))
        return flat.reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])

    return kernel


def _gather_elements(node: BoundNode) -> Kernel:
    axis = node.integer("axis", 0)
    return lambda x, indices: torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


def _gather_nd(node: BoundNode) -> Kernel:
    batch = node.integer("batch_dims", 0)

    def kernel(x: Tensor, indices: Tensor) -> Tensor:
        outer = x.shape[:batch]
        rows = indices.reshape(math.prod(outer), *indices.shape[batch:])
        depth = indices.shape[-1]
        places: list[Tensor] = [_wrapped(rows[..., i], x.shape[batch + i]) for i in range(depth)]
        first = torch.arange(math.prod(outer), device=x.device).reshape(-1, *[1] * (rows.dim() - 2))
        flat = x.reshape(math.prod(outer), *x.shape[batch:])
        taken = flat[(first, *places)]
        return taken.reshape(*outer, *indices.shape[batch:-1], *x.shape[batch + depth :])

    return kernel


def _scatter_elements(node: BoundNode) -> Kernel:
    axis, reduction = node.integer("axis", 0), node.text("reduction", "none")

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = _wrapped(indices, x.shape[axis])
        if reduction == "none":
            return torch.scatter(x, axis, places, updates)
        return torch.scatter_reduce(x, axis, places, updates, _REDUCTIONS[reduction])

    return kernel


def _scatter_nd(node: BoundNode) -> Kernel:
    reduction = node.text("reduction", "none")

    def kernel(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        places = tuple(_wrapped(indices[..., i], x.shape[i]) for i in range(depth))
        if reduction in ("none", "add"):
            return x.index_put(places, updates, accumulate=reduction == "add")
        number = torch.zeros_like(places[0])
        for i, place in enumerate(places):
            number = number * x.shape[i] + place
        rows = x.reshape(math.prod(x.shape[:depth]), -1)
        values = updates.reshape(number.numel(), -1)
        spread = number.reshape(-1, 1).expand(values.shape)
        return torch.scatter_reduce(rows, 0, spread, values, _REDUCTIONS[reduction]).reshape(x.shape)

    return kernel


def _nonzero(node: BoundNode) -> Kernel:
    del node
    return lambda x: torch.nonzero(x).t()


def _compress(node: BoundNode) -> Kernel:
    axis = node.integer("axis", 0) if "axis" in node.node.attributes else None

    def kernel(x: Tensor, condition: Tensor) -> Tensor:
        data = x.reshape(-1) if axis is None else x
        return data.index_select(axis or 0, torch.nonzero(condition.reshape(-1)).reshape(-1))

    return kernel


def _grid_sample(node: BoundNode) -> Kernel:
    mode = node.text("mode", "linear").removeprefix("bi").replace("cubic", "bicubic").replace("linear", "bilinear")
    padding, corners = node.text("padding_mode", "zeros"), bool(node.integer("align_corners", 0))
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise UnsupportedNodeError(f"samples by the unknown mode '{mode}'")
    return lambda x, grid: functional.grid_sample(x, grid, mode, padding, corners)


def _array_feature_extractor(node: BoundNode) -> Kernel:
    del node
    return lambda x, indices: torch.index_select(x, -1, indices.reshape(-1)).reshape(-1, indices.numel())


OPERATORS: Mapping[str, Binding] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "GridSample": _grid_sample,
    "NonZero": _nonzero,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}

ML_OPERATORS: Mapping[str, Binding] = {"ArrayFeatureExtractor": _array_feature_extractor}
