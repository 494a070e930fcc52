# SPDX-License-Identifier: Apache-2.0
"""Operators that are told sizes or indices of axes by number, and the numbers after a cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes.base import PreconditionError
from edgefold.passes.pruning.groups import IntArray
from edgefold.passes.pruning.size_vectors import SAME, Change, rewrite
from edgefold.passes.pruning.surgery import Array, Surgery, integer, operand

# Inputs that hold sizes, axes or indices, which are rewritten and never cut like a parameter.
INDICES: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,), "Expand": (1,), "Gather": (1,), "Pad": (1, 3), "Range": (0, 1, 2),
    "Reshape": (1,), "Resize": (1, 2, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,),
    "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
}  # fmt: skip

_FROM_START_TO_END = (0, np.iinfo(np.int64).max, 1)


def _reshape(surgery: Surgery, node: ir.Node) -> None:
    x, y = operand(node, 0), node.outputs[0]
    now = surgery.current(operand(node, 1))
    if now is None:
        return
    copies_zero = not ("allowzero" in node.attributes and node.attributes["allowzero"].as_int())
    changes = []
    for axis, (size, wanted) in enumerate(zip(now.tolist(), surgery.after(y), strict=True)):
        copied = size == 0 and copies_zero
        if size == -1 or (copied and surgery.after(x)[axis] == wanted):
            changes.append(SAME)
        else:
            changes.append(Change.between(size, wanted) if size != wanted else SAME)
    rewrite(surgery, node, 1, changes)


def _sizes(surgery: Surgery, node: ir.Node, position: int) -> None:
    """A vector that has one size for every axis of the output, for the last ones, or for the axes that are listed."""
    y = node.outputs[0]
    value = node.inputs[position] if position < len(node.inputs) else None
    now = None if value is None else surgery.current(value)
    if now is None or now.size == 0:
        return
    rank = len(surgery.before(y))
    axes = [axis % rank for axis in _listed(node, "axes") or range(rank - len(now), rank)]
    changes = []
    for axis, size in zip(axes, now.tolist(), strict=True):
        wanted = surgery.after(y)[axis]
        # A 1 that Expand is told leaves the length to its input.
        same = size == wanted or (size == 1 and node.op_type == "Expand")
        changes.append(SAME if same else Change.between(size, wanted))
    rewrite(surgery, node, position, changes)


def _expand(surgery: Surgery, node: ir.Node) -> None:
    _sizes(surgery, node, 1)


def _resize(surgery: Surgery, node: ir.Node) -> None:
    _sizes(surgery, node, 3)


def _constant_of_shape(surgery: Surgery, node: ir.Node) -> None:
    _sizes(surgery, node, 0)


def _tile(surgery: Surgery, node: ir.Node) -> None:
    x, y = operand(node, 0), node.outputs[0]
    now = surgery.current(operand(node, 1))
    if now is None:
        return
    lengths = zip(surgery.after(x), surgery.after(y), now.tolist(), strict=True)
    wanted = [(y_length // max(x_length, 1), repeats) for x_length, y_length, repeats in lengths]
    rewrite(surgery, node, 1, [SAME if goal == size else Change.between(size, goal) for goal, size in wanted])


def _pad(surgery: Surgery, node: ir.Node) -> None:
    """The padding [begin of every axis, end of every axis]; a negative one crops."""
    x, y = operand(node, 0), node.outputs[0]
    rank = len(surgery.before(x))
    axes = surgery.static(node, 3).tolist() if len(node.inputs) > 3 and node.inputs[3] is not None else range(rank)
    as_attribute = "pads" in node.attributes
    now = np.asarray(node.attributes["pads"].as_ints()) if as_attribute else surgery.known(node.inputs[1])
    if now is None:
        return  # computed from data, so that the analysis lets no padded axis change
    pads = [int(width) for width in now]
    for i, axis in enumerate(axis % rank for axis in axes):
        if surgery.changes(x, axis) or surgery.changes(y, axis):
            begin, end = pads[i], pads[i + len(pads) // 2]
            pads[i], pads[i + len(pads) // 2] = _padding(surgery, x, y, axis, begin, end)
    _replace(surgery, node, "pads", 1, now, pads)


def _padding(surgery: Surgery, x: ir.Value, y: ir.Value, axis: int, begin: int, end: int) -> tuple[int, int]:
    inside, outside, length = surgery.kept(x, axis), surgery.kept(y, axis), surgery.before(x)[axis]
    first = int(np.sum(outside < begin)) if begin >= 0 else -int(np.sum(inside < -begin))
    last = int(np.sum(outside >= begin + length)) if end >= 0 else -int(np.sum(inside >= length + end))
    return first, last


def _split(surgery: Surgery, node: ir.Node) -> None:
    x = operand(node, 0)
    axis = integer(node, "axis", 0) % len(surgery.before(x))
    if not surgery.changes(x, axis):
        return
    sizes = [surgery.after(output)[axis] for output in node.outputs]
    given = "split" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
    if not given and sizes == _equal_parts(sum(sizes), len(sizes), uneven="num_outputs" in node.attributes):
        return
    if surgery.opset < 13:
        node.attributes["split"] = ir.AttrInt64s("split", sizes)
    else:
        node.attributes.pop("num_outputs", None)
        node.resize_inputs(2)
        node.replace_input_with(1, surgery.constant(f"{node.name}_sizes", np.asarray(sizes, np.int64)))
    surgery.note(node, f"split {sizes}")


def _equal_parts(length: int, parts: int, *, uneven: bool) -> list[int]:
    """What a Split gives that is told no sizes; where the last part may be smaller, since opset 18."""
    if length % parts and not uneven:
        return []
    part = -(-length // parts)
    return [*[part] * (parts - 1), length - part * (parts - 1)]


def _slice(surgery: Surgery, node: ir.Node) -> None:
    """Starts, ends and steps in ranks among the indices that stay; a Gather where these are no progression."""
    x, y = operand(node, 0), node.outputs[0]
    as_attribute = "starts" in node.attributes
    starts, ends = (_operand(surgery, node, name, place) for name, place in (("starts", 1), ("ends", 2)))
    steps = _operand(surgery, node, "steps", 4) if not as_attribute else None
    axes = _operand(surgery, node, "axes", 3)
    if starts is None or ends is None:
        return  # computed from data, so that the analysis lets no sliced axis change
    rank = len(surgery.before(x))
    numbers = [starts.tolist(), ends.tolist(), [1] * len(starts) if steps is None else steps.tolist()]
    gathered: list[tuple[int, IntArray]] = []
    for i, axis in enumerate(range(len(starts)) if axes is None else axes.tolist()):
        axis %= rank
        if not (surgery.changes(x, axis) or surgery.changes(y, axis)):
            continue
        old = np.arange(surgery.before(x)[axis])[slice(*(column[i] for column in numbers))]
        picked = _ranks(node, surgery.kept(x, axis), old[surgery.kept(y, axis)])
        progression = _progression(picked, len(surgery.kept(x, axis)))
        if progression is None:
            gathered.append((axis, picked))
        for column, number in zip(numbers, progression or _FROM_START_TO_END, strict=True):
            column[i] = number
    _replace(surgery, node, "starts", 1, starts, numbers[0])
    _replace(surgery, node, "ends", 2, ends, numbers[1])
    if steps is not None:
        _replace(surgery, node, "steps", 4, steps, numbers[2])
    for axis, picked in gathered:
        _gather_behind(surgery, node, axis, picked)


def _gather(surgery: Surgery, node: ir.Node) -> None:
    """Fewer indices where their axes are cut; other ones where the axis is that they point into."""
    data, indices, y = operand(node, 0), operand(node, 1), node.outputs[0]
    axis = integer(node, "axis", 0) % len(surgery.before(data))
    chosen = [axis + i for i in range(len(surgery.before(indices)))]
    moved = surgery.changes(data, axis)
    fewer = indices.is_initializer() and any(surgery.changes(y, one) for one in chosen)
    if not (moved or fewer):
        return  # computed indices have lost their own already
    array = surgery.static(node, 1)
    for i, one in enumerate(chosen):
        array = np.take(array, surgery.kept(y, one), i)
    if moved:
        positive = np.where(array < 0, array + surgery.before(data)[axis], array)
        array = _ranks(node, surgery.kept(data, axis), positive).astype(array.dtype)
    node.replace_input_with(1, surgery.constant(f"{indices.name}_cut", array))
    surgery.note(node, "indices of Gather rewritten")


def _squeeze(surgery: Surgery, node: ir.Node) -> None:
    """A Squeeze of all axes of length 1 must not take the ones that only now have it."""
    x = operand(node, 0)
    if "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return
    if surgery.before(x).count(1) == surgery.after(x).count(1):
        return
    axes = [axis for axis, size in enumerate(surgery.before(x)) if size == 1]
    if surgery.opset < 13:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    else:
        node.resize_inputs(2)
        node.replace_input_with(1, surgery.constant(f"{node.name}_axes", np.asarray(axes, np.int64)))
    surgery.note(node, f"axes {axes}")


def _gather_behind(surgery: Surgery, node: ir.Node, axis: int, picked: IntArray) -> None:
    indices = surgery.constant(f"{node.name}_channels", picked.astype(np.int64))
    surgery.append_to(node, "Gather", [indices], axis=axis)
    surgery.note(node, f"channels of axis {axis} gathered")


def _ranks(node: ir.Node, kept: IntArray, indices: Array) -> IntArray:
    """Where old indices are among those that stay."""
    if not np.isin(indices, kept).all():
        raise PreconditionError(str(node.name), f"{node.op_type} reads channels that are to be removed")
    return np.searchsorted(kept, indices).astype(np.intp)


def _progression(indices: IntArray, length: int) -> tuple[int, int, int] | None:
    """Start, end and step of a slice that picks the indices."""
    if len(indices) == 0:
        return 0, 0, 1
    steps = np.unique(np.diff(indices)) if len(indices) > 1 else np.ones(1, np.intp)
    if len(steps) > 1 or steps[0] == 0:
        return None
    end = int(indices[-1] + steps[0])
    return int(indices[0]), end if end >= 0 else -length - 1, int(steps[0])


def _operand(surgery: Surgery, node: ir.Node, name: str, position: int) -> Array | None:
    if name in node.attributes:
        return np.asarray(node.attributes[name].as_ints())
    return surgery.known(node.inputs[position]) if position < len(node.inputs) else None


def _replace(surgery: Surgery, node: ir.Node, name: str, position: int, before: Array, after: Sequence[int]) -> None:
    """Write a vector where some elements changed; the others may depend on sizes at run time."""
    if name in node.attributes:
        node.attributes[name] = ir.AttrInt64s(name, list(after))
        return
    now = surgery.current(operand(node, position))
    assert now is not None
    changes = []
    for current, old, new in zip(now.tolist(), before.tolist(), after, strict=True):
        same = SAME if current == old else Change.between(current, old)
        changes.append(same if old == new else Change.to(new))
    rewrite(surgery, node, position, changes)


def _listed(node: ir.Node, attribute: str) -> list[int]:
    return list(node.attributes[attribute].as_ints()) if attribute in node.attributes else []


REWRITES: dict[str, Callable[[Surgery, ir.Node], None]] = {
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
}
