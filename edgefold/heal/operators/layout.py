# SPDX-License-Identifier: Apache-2.0
"""Operators that move elements without computing: shapes, order, slices, padding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError, numbers


def _reshape(node: BoundNode) -> Kernel:
    keep_zero = bool(node.integer("allowzero", 0))
    shape_of = numbers(node, 1, "shape")
    constant = node.constant(1)
    if constant is not None and (keep_zero or not (constant == 0).any()):
        fixed = constant.reshape(-1).tolist()
        return lambda x, _: x.reshape(fixed)

    def kernel(*operands: Any) -> Tensor:
        x, shape = operands[0], shape_of(operands)
        if not keep_zero:
            shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
        return x.reshape(shape)

    return kernel


def _flatten(node: BoundNode) -> Kernel:
    axis = node.integer("axis", 1)
    return lambda x: x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.dim()]), -1)


def _squeeze(node: BoundNode) -> Kernel:
    axes_of = numbers(node, 1, "axes")

    def kernel(*operands: Any) -> Tensor:
        x, axes = operands[0], axes_of(operands)
        return torch.squeeze(x) if axes is None else torch.squeeze(x, tuple(axes))

    return kernel


def _unsqueeze(node: BoundNode) -> Kernel:
    axes_of = numbers(node, 1, "axes")

    def kernel(*operands: Any) -> Tensor:
        x, axes = operands[0], axes_of(operands)
        rank = x.dim() + len(axes)
        for axis in sorted(axis % rank for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return kernel


def _transpose(node: BoundNode) -> Kernel:
    order = node.integers("perm")
    return lambda x: x.permute(order if order is not None else tuple(reversed(range(x.dim()))))


def _concat(node: BoundNode) -> Kernel:
    axis = node.integer("axis", 1)
    return lambda *operands: torch.cat(operands, axis)


def _split(node: BoundNode) -> Kernel:
    axis, outputs = node.integer("axis", 0), len(node.node.outputs)
    sizes_of = numbers(node, 1, "split")

    def kernel(*operands: Any) -> tuple[Tensor, ...]:
        x, sizes = operands[0], sizes_of(operands)
        if sizes is None:
            part = -(-x.shape[axis] // outputs)
            sizes = [part] * (outputs - 1) + [x.shape[axis] - part * (outputs - 1)]
        return torch.split(x, sizes, axis)  # type: ignore[no-any-return]

    return kernel


def _slice(node: BoundNode) -> Kernel:
    starts_of, ends_of = numbers(node, 1, "starts"), numbers(node, 2, "ends")
    axes_of, steps_of = numbers(node, 3, "axes"), numbers(node, 4)

    def kernel(*operands: Any) -> Tensor:
        x, starts, ends = operands[0], starts_of(operands), ends_of(operands)
        axes = axes_of(operands) or range(len(starts))
        steps = steps_of(operands) or [1] * len(starts)
        return _sliced(x, starts, ends, axes, steps)

    return kernel


def _sliced(x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    picked: list[slice] = [slice(None)] * x.dim()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # Exporters write the largest int64 for "to the end", at which torch warns; these are within the axis.
        first, stop, step = slice(start, end, step).indices(size)
        if step > 0:
            picked[axis] = slice(first, stop, min(step, size + 1))
            continue
        # torch has no negative steps: read from the other end of the flipped axis.
        x = x.flip(axis)
        picked[axis] = slice(size - 1 - first, size - 1 - stop, -step)
    return x[tuple(picked)]


def _expand(node: BoundNode) -> Kernel:
    shape_of = numbers(node, 1)

    def kernel(*operands: Any) -> Tensor:
        x = operands[0]
        return x.expand(torch.broadcast_shapes(x.shape, tuple(shape_of(operands))))

    return kernel


def _tile(node: BoundNode) -> Kernel:
    repeats_of = numbers(node, 1)
    return lambda *operands: operands[0].repeat(repeats_of(operands))


def _pad(node: BoundNode) -> Kernel:
    mode = node.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise UnsupportedNodeError(f"pads by the unknown mode '{mode}'")
    amounts_of = numbers(node, 1, "paddings" if "paddings" in node.node.attributes else "pads")
    value_of, axes_of = numbers(node, 2), numbers(node, 3)
    fill = node.real("value", 0.0)

    def kernel(*operands: Any) -> Tensor:
        x, amounts = operands[0], amounts_of(operands)
        axes = [axis % x.dim() for axis in axes_of(operands) or range(x.dim())]
        begins, ends = [0] * x.dim(), [0] * x.dim()
        for position, axis in enumerate(axes):
            begins[axis], ends[axis] = amounts[position], amounts[position + len(axes)]
        if mode == "constant":
            given = value_of(operands)
            pairs = [size for axis in reversed(range(x.dim())) for size in (begins[axis], ends[axis])]
            while len(pairs) > 2 and pairs[-2:] == [0, 0]:
                pairs = pairs[:-2]
            return functional.pad(x, pairs, value=given[0] if given else fill)
        return _pad_by_index(x, begins, ends, mode)

    return kernel


def _pad_by_index(x: Tensor, begins: Sequence[int], ends: Sequence[int], mode: str) -> Tensor:
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin == end == 0:
            continue
        size = x.shape[axis]
        index = torch.arange(-begin, size + end, device=x.device)
        if mode == "edge":
            index = index.clamp(0, size - 1)
        elif mode == "wrap":
            index = index % size
        elif size > 1:
            index = index % (2 * size - 2)
            index = torch.minimum(index, 2 * size - 2 - index)
        else:
            index = torch.zeros_like(index)
        x = x.index_select(axis, index)
    return x


def _depth_to_space(node: BoundNode) -> Kernel:
    block, columns_first = node.integer("blocksize", 1), node.text("mode", "DCR") == "CRD"

    def kernel(x: Tensor) -> Tensor:
        batch, depth, height, width = x.shape
        rest = depth // block**2
        if columns_first:
            y = x.reshape(batch, rest, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
        else:
            y = x.reshape(batch, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
        return y.reshape(batch, rest, height * block, width * block)

    return kernel


def _space_to_depth(node: BoundNode) -> Kernel:
    block = node.integer("blocksize", 1)
    order = (0, 1, 3, 5, 2, 4) if node.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)

    def kernel(x: Tensor) -> Tensor:
        batch, depth, height, width = x.shape
        y = x.reshape(batch, depth, height // block, block, width // block, block).permute(order)
        return y.reshape(batch, depth * block**2, height // block, width // block)

    return kernel


def _triangle(node: BoundNode) -> Kernel:
    cut = torch.triu if node.integer("upper", 1) else torch.tril
    diagonal_of = numbers(node, 1)
    return lambda *operands: cut(operands[0], (diagonal_of(operands) or [0])[0])


def _reverse_sequence(node: BoundNode) -> Kernel:
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)

    def kernel(x: Tensor, lengths: Tensor) -> Tensor:
        rows = x.movedim((batch, time), (0, 1))
        step = torch.arange(rows.shape[1], device=x.device)[None]
        limit = lengths[:, None]
        index = torch.where(step < limit, limit - 1 - step, step)
        index = index.reshape(*index.shape, *[1] * (rows.dim() - 2)).expand(rows.shape)
        return rows.gather(1, index).movedim((0, 1), (batch, time))

    return kernel


OPERATORS: Mapping[str, Binding] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
