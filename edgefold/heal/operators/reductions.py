# SPDX-License-Identifier: Apache-2.0
"""Reductions along axes, and what ranks or accumulates along one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, numbers

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(function: _Reduction) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        keep = bool(node.integer("keepdims", 1))
        nothing = bool(node.integer("noop_with_empty_axes", 0))
        axes_of = numbers(node, 1, "axes")

        def kernel(*operands: Any) -> Tensor:
            x, axes = operands[0], axes_of(operands)
            if not axes and nothing:
                return x
            return function(x, tuple(axes) if axes else tuple(range(x.dim())), keep)

        return kernel

    return bind


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype) if axes else x


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.mean(axes, keepdim=keep) if x.is_floating_point() else _sum(x, axes, keep) // _count(x, axes)


def _count(x: Tensor, axes: tuple[int, ...]) -> int:
    return int(torch.tensor([x.shape[axis] for axis in axes]).prod())


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _largest(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.amax(axes, keepdim=keep)


def _smallest(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.amin(axes, keepdim=keep)


def _extreme(largest: bool) -> Binding:
    def bind(node: BoundNode) -> Kernel:
        axis, keep = node.integer("axis", 0), bool(node.integer("keepdims", 1))
        last = bool(node.integer("select_last_index", 0))

        def kernel(x: Tensor) -> Tensor:
            y = x.flip(axis) if last else x
            index = y.argmax(axis, keepdim=keep) if largest else y.argmin(axis, keepdim=keep)
            return x.shape[axis] - 1 - index if last else index

        return kernel

    return bind


def _top(node: BoundNode) -> Kernel:
    axis, largest = node.integer("axis", -1), bool(node.integer("largest", 1))
    count_of = numbers(node, 1, "k")
    count = node.integer("k", 0)

    def kernel(*operands: Any) -> tuple[Tensor, ...]:
        k = count or count_of(operands)[0]
        # torch.topk takes any of several equal values; ONNX Runtime takes the first.
        values, indices = torch.sort(operands[0], dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return kernel


def _cumulative_sum(node: BoundNode) -> Kernel:
    exclusive, backwards = node.integer("exclusive", 0), node.integer("reverse", 0)
    axis_of = numbers(node, 1)

    def kernel(*operands: Any) -> Tensor:
        x, axis = operands[0], axis_of(operands)[0]
        y = x.flip(axis) if backwards else x
        total = torch.cumsum(y, axis, dtype=x.dtype)
        total = total - y if exclusive else total
        return total.flip(axis) if backwards else total

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "ArgMax": _extreme(True),
    "ArgMin": _extreme(False),
    "CumSum": _cumulative_sum,
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: _sum(x.square(), axes, keep).sqrt()),
    "ReduceLogSum": _reduction(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduction(lambda x, axes, keep: torch.logsumexp(x, axes, keep)),
    "ReduceMax": _reduction(_largest),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(_smallest),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(_sum),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(x.square(), axes, keep)),
    "TopK": _top,
}
