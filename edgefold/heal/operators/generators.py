# SPDX-License-Identifier: Apache-2.0
"""Tensors made from shapes and numbers. `Shape` and `Size` give tensors of the CPU, whatever device the data are on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, numbers, torch_dtype, torch_tensor


def _shape(node: BoundNode) -> Kernel:
    start = node.integer("start", 0)
    end = node.integer("end", 0) if "end" in node.node.attributes else None
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _size(node: BoundNode) -> Kernel:
    del node
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


def _constant_of_shape(node: BoundNode) -> Kernel:
    attribute = node.node.attributes.get("value")
    fill = torch.zeros(1) if attribute is None else torch_tensor(attribute.as_tensor())
    value, dtype = fill.item(), fill.dtype
    shape_of = numbers(node, 0)
    return lambda *operands: torch.full(shape_of(operands), value, dtype=dtype, device=operands[0].device)


def _range(node: BoundNode) -> Kernel:
    del node

    def kernel(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        first, stop, step = start.item(), limit.item(), delta.item()
        if (stop - first) * step <= 0:
            return torch.empty(0, dtype=start.dtype, device=start.device)
        return torch.arange(first, stop, step, dtype=start.dtype, device=start.device)

    return kernel


def _identity_matrix(node: BoundNode) -> Kernel:
    offset = node.integer("k", 0)
    dtype = torch_dtype(node.integer("dtype", 0)) if "dtype" in node.node.attributes else None

    def kernel(x: Tensor) -> Tensor:
        ones = torch.ones(x.shape, dtype=dtype or x.dtype, device=x.device)
        return ones.triu(offset).tril(offset)

    return kernel


def _one_hot(node: BoundNode) -> Kernel:
    axis = node.integer("axis", -1)
    depth_of = numbers(node, 1)

    def kernel(*operands: Any) -> Tensor:
        indices, values, depth = operands[0].long(), operands[2], int(depth_of(operands)[0])
        place = torch.arange(depth, device=indices.device)
        inside = (indices >= -depth) & (indices < depth)
        hot = (indices.remainder(depth).unsqueeze(-1) == place) & inside.unsqueeze(-1)
        return torch.where(hot, values[1], values[0]).movedim(-1, axis)

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "ConstantOfShape": _constant_of_shape,
    "EyeLike": _identity_matrix,
    "OneHot": _one_hot,
    "Range": _range,
    "Shape": _shape,
    "Size": _size,
}
