# SPDX-License-Identifier: Apache-2.0
"""The time that a model takes as a function of the units removed, from a table of measured times of single operators.

Every operator is measured at a few widths, at which all groups have kept the same share of their units; between them
its time is interpolated over its work (multiply-accumulates, or elements of its output). What small or odd widths cost
beside the arithmetic is thus part of the budget.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.bodies import runs_inside
from edgefold.passes.pruning.budget import Kept
from edgefold.passes.pruning.groups import AxisKey, Group, Pruned, Trace

WIDTHS = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Shares of units kept at which operators are measured."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operator as it can be measured alone.

    Attributes:
        op_type: of ONNX's own domain.
        opset: its version.
        attributes: name and value, sorted by name.
        inputs: shape of each; None where one is left out.
        constants: whether each is stored in the model.
        outputs: how many.
    """

    op_type: str
    opset: int
    attributes: tuple[tuple[str, str | float | tuple[int, ...]], ...]
    inputs: tuple[Shape | None, ...]
    constants: tuple[bool, ...]
    outputs: int


Times = Callable[[Sequence[Operation]], Mapping[Operation, float]]
"""Seconds of each operation; those that cannot be measured are left out."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """Seconds of a model: a cost, see `budget.Cost`.

    Attributes:
        curves: of every node whose work changes: the axes whose lengths multiply to it, the work at the widths
            measured, ascending, and the seconds there, not descending.
        lengths: of every axis of a curve in the whole model.
        rest: seconds of the nodes whose work stays.
    """

    curves: tuple[tuple[tuple[AxisKey, ...], NDArray[np.float64], NDArray[np.float64]], ...]
    lengths: Mapping[AxisKey, int]
    rest: float

    def __call__(self, kept: Kept) -> float:
        changed = {axis: len(kept[axis]) for axis in self.lengths if axis in kept}
        total = self.rest
        for axes, work, seconds in self.curves:
            total += float(np.interp(math.prod(changed.get(axis, self.lengths[axis]) for axis in axes), work, seconds))
        return total


def latency(known: Analysis, groups: Sequence[Group], times: Times) -> Latency:
    """Measures, or looks up, the operators of a model.

    Args:
        known: the model's analysis.
        groups: that may lose units.
        times: measures operators.
    """
    model, dependencies, trace = known.model, known.dependencies, known.trace
    work_axes = {one.node: one.axes for one in dependencies.contractions}
    nodes = [node for node in model.graph.all_nodes() if _measurable(node, trace)]
    opset, runs = model.graph.opset_imports.get("", 1), runs_inside(model, trace)
    kept = [dependencies.kept(_narrowed(groups, width)) for width in WIDTHS]
    variants = [[_operation(node, opset, trace, one) for one in kept] for node in nodes]
    seconds = times(list(dict.fromkeys(one for listed in variants for one in listed)))
    curves, lengths, rest = [], dict[AxisKey, int](), 0.0
    for node, listed in zip(nodes, variants, strict=True):
        if any(one not in seconds for one in listed):
            continue
        axes = work_axes.get(str(node.name)) or _output_axes(node, trace)
        own = {(name, axis): trace.shapes[name][axis] for name, axis in axes}
        work = [math.prod(len(one[key]) if key in one else own[key] for key in axes) for one in kept]
        if len(set(work)) == 1:
            rest += seconds[listed[0]] * runs.get(str(node.name), 1)
            continue
        times_run = (seconds[one] * runs.get(str(node.name), 1) for one in listed)
        points = dict(sorted(zip(work, times_run, strict=True)))
        # A narrower operator that measured slower than a wider one is noise to a search that relies on order.
        curve = np.maximum.accumulate(np.array(list(points.values())))
        curves.append((axes, np.array(list(points), dtype=np.float64), curve))
        lengths |= own
    return Latency(tuple(curves), lengths, rest)


def _narrowed(groups: Sequence[Group], width: float) -> Pruned:
    """Units to remove so that this share of each group stays, at least one."""
    stay = {group.name: max(1, round(width * group.size)) for group in groups}
    return {group.name: np.arange(stay[group.name], group.size) for group in groups if stay[group.name] < group.size}


def _measurable(node: ir.Node, trace: Trace) -> bool:
    """Whether random numbers can be fed to the node: all its inputs are floats of known shape."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return (
        node.domain in ("", "ai.onnx")
        and bool(node.inputs)
        and all(value.name in trace.shapes for value in values)
        and all(_is_float(value, trace) for value in node.inputs if value is not None)
        and all(_plain(attribute) is not None for attribute in node.attributes.values())
    )


def _is_float(value: ir.Value, trace: Trace) -> bool:
    seen = trace.values.get(str(value.name))
    return value.dtype in (None, ir.DataType.FLOAT) and (seen is None or seen.dtype == np.float32)


def _output_axes(node: ir.Node, trace: Trace) -> tuple[AxisKey, ...]:
    name = str(node.outputs[0].name)
    return tuple((name, axis) for axis in range(len(trace.shapes[name])))


def _operation(node: ir.Node, opset: int, trace: Trace, kept: Kept) -> Operation:
    shapes = tuple(None if value is None else _shape(str(value.name), trace, kept) for value in node.inputs)
    attributes = {name: _plain(attribute) for name, attribute in node.attributes.items()}
    if node.op_type == "Conv" and attributes.get("group", 1) != 1:
        data, weight = shapes[0], shapes[1]
        assert data is not None
        assert weight is not None
        attributes["group"] = data[1] // weight[1]
    return Operation(
        node.op_type,
        opset,
        tuple(sorted((name, value) for name, value in attributes.items() if value is not None)),
        shapes,
        tuple(value is not None and value.is_initializer() for value in node.inputs),
        len(node.outputs),
    )


def _shape(name: str, trace: Trace, kept: Kept) -> Shape:
    return tuple(
        len(kept[name, axis]) if (name, axis) in kept else size for axis, size in enumerate(trace.shapes[name])
    )


def _plain(attribute: ir.Attr) -> str | float | tuple[int, ...] | None:
    """The value of an attribute that a table can be keyed by; None for tensors, graphs and lists of others."""
    value = attribute.value
    if attribute.type == ir.AttributeType.INTS:
        return tuple(int(one) for one in value)
    return value if isinstance(value, str | int | float) else None
