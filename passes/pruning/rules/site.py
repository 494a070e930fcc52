# SPDX-License-Identifier: Apache-2.0
"""What an operator rule sees of its node, and what it may state: the labels of its inputs, shapes, attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import AxisKey, IntArray, Role, Trace
from edgefold.passes.pruning.labels import SINGLE, Labels

Axes = tuple[IntArray, ...]
"""The labels of every axis of a value."""

_VIEWS = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose")


class OpaqueError(Exception):
    """The node, as it is used here, is not understood: everything that it touches is frozen, for this reason."""


@dataclasses.dataclass
class Findings:
    """What rules state beside labels.

    Attributes:
        reasons: node name, operator and reason of every frozen label ``~i``; the first is the reserved one.
        roles: of parameter axes; an axis without one is channelwise.
        statistics: labels over which a normalization runs, and the node's name.
        contractions: node name, operator, axes.
    """

    reasons: list[tuple[str, str, str]] = dataclasses.field(
        default_factory=lambda: [("", "", "the axis has a single index, or is split in ways that do not fit together")]
    )
    roles: dict[AxisKey, Role] = dataclasses.field(default_factory=dict)
    statistics: list[tuple[IntArray, str]] = dataclasses.field(default_factory=list)
    contractions: list[tuple[str, str, tuple[AxisKey, ...]]] = dataclasses.field(default_factory=list)


class Surroundings(Protocol):
    """What a site needs of the walk that visits it.

    Attributes:
        labels, findings: what is stated goes there.
        trace: of the model.
        opset: of the model.
        runs: how often the body around the node runs; nothing in the main graph.
    """

    labels: Labels
    findings: Findings
    trace: Trace
    opset: int
    runs: tuple[AxisKey, ...]

    def body(
        self, node: ir.Node, attribute: str, inputs: Sequence[Axes | None], unseen: int
    ) -> Sequence[Axes | None] | None: ...


class Site:
    """One node under analysis."""

    def __init__(self, node: ir.Node, inputs: Sequence[Axes | None], walk: Surroundings) -> None:
        self.node = node
        self.inputs = inputs
        self.labels = walk.labels
        self.trace = walk.trace
        self.findings = walk.findings
        self.opset = walk.opset
        self._walk = walk
        self._reasons: dict[str, int] = {}

    # What the node is.

    def axes(self, index: int) -> Axes:
        """Labels of an input that must be there."""
        axes = self.optional(index)
        if axes is None:
            raise OpaqueError(f"input {index} is missing or not a tensor")
        return axes

    def optional(self, index: int) -> Axes | None:
        """Labels of an input, None where the node does not have it."""
        return self.inputs[index] if index < len(self.inputs) else None

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Traced shape of an output."""
        shape = self.trace.shapes.get(self.node.outputs[index].name or "")
        if shape is None:
            raise OpaqueError("its output was not seen in the run")
        return shape

    def is_open(self, axis: int) -> bool:
        """Whether an axis of the first output was of another length in the second run."""
        return (str(self.node.outputs[0].name), axis) in self.trace.dynamic

    def constant(self, index: int) -> NDArray[Any] | None:
        """An input's value if it is the same in every run, None where the node does not have it.

        Raises:
            OpaqueError: the value is there and varies.
        """
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is None:
            return None
        array = self.trace.static(value.name or "")
        if array is None:
            raise OpaqueError(f"input {value.name} is computed from data")
        return array

    def required(self, index: int) -> NDArray[Any]:
        """The value of an input that must be there and the same in every run."""
        array = self.constant(index)
        if array is None:
            raise OpaqueError(f"input {index} is missing")
        return array

    def sizes(self, index: int) -> None:
        """An input that holds sizes of axes, which the cut will have to rewrite.

        Raises:
            OpaqueError: the runs showed nothing of it.
        """
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        if value is not None and value.name not in self.trace.values:
            raise OpaqueError(f"the sizes in {value.name} are computed from data")

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.node.attributes.get_int(name, default) or 0)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute of integers, None where it is not set."""
        values = self.node.attributes.get_ints(name, None)
        return None if values is None else tuple(values)

    # What a rule states.

    def frozen(self, length: int, why: str) -> IntArray:
        """Labels of an axis of this node that never changes."""
        return self.labels.frozen(length, self._reason(why))

    def fresh(self, axis: int) -> IntArray:
        """Labels of an axis of the first output that this node makes; of open length it stays whole."""
        length = self.shape()[axis]
        return self.frozen(length, "its length is open") if self.is_open(axis) else self.labels.fresh(length)

    def freeze(self, labels: IntArray, why: str) -> None:
        """Indices that this node needs."""
        self.labels.freeze(labels, self._reason(why))

    def freeze_all(self, axes: Axes, why: str) -> None:
        """A whole value that this node needs as it is."""
        for labels in axes:
            self.freeze(labels, why)

    def statistics(self, axes: Axes) -> None:
        """Axes over which the node takes a mean or a variance."""
        self.findings.statistics.extend((labels, str(self.node.name)) for labels in axes)

    def union(self, a: Axes, b: Axes) -> None:
        """Two values of one shape whose indices go together, axis by axis."""
        for one, other in zip(a, b, strict=True):
            self.labels.union(one, other)

    def drop(self, labels: IntArray) -> None:
        """An axis of length 1 that disappears, or is repeated: it must not become empty."""
        self.freeze(labels, "an axis of length 1 is dropped or broadcast")

    def broadcast(self, operands: Sequence[Axes]) -> Axes:
        """Labels of the result of broadcasting operands to the longest of them, NumPy's way."""
        rank = max(map(len, operands))
        aligned = [
            axes[axis - rank + len(axes)] for axis in range(rank) for axes in operands if axis >= rank - len(axes)
        ]
        counts = [sum(axis >= rank - len(axes) for axes in operands) for axis in range(rank)]
        ends = np.cumsum(counts)
        return tuple(self._meet(aligned[end - count : end]) for end, count in zip(ends, counts, strict=True))

    def _meet(self, labels: Sequence[IntArray]) -> IntArray:
        length = next((len(one) for one in labels if len(one) != 1), 1)
        full = [one for one in labels if len(one) == length]
        for one in labels:
            if len(one) != length:
                self.drop(one)
        first = min(full, key=lambda one: int(one[0]) if length else 0)  # a frozen one, which spares later work
        for one in full:
            self.labels.union(first, one)
        return first

    def role(self, index: int, axis: int, role: Role) -> None:
        """What an axis of a parameter does, as it stands or seen through views; nothing where the input is none."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        while value is not None and (node := value.producer()) is not None and node.op_type in _VIEWS:
            if node.op_type == "Transpose":
                order = node.attributes.get_ints("perm", None) or tuple(reversed(range(len(self.axes(index)))))
                axis = order[axis]
            value = node.inputs[0]
        if value is not None and value.is_initializer():
            self.findings.roles.setdefault((str(value.name), axis), role)

    def contraction(self, axes: Sequence[AxisKey]) -> None:
        """The node's multiply-accumulates are the product of the lengths of these axes, each time that it runs."""
        self.findings.contractions.append((str(self.node.name), self.node.op_type, (*axes, *self._walk.runs)))

    def body(self, attribute: str, inputs: Sequence[Axes | None], unseen: str) -> Sequence[Axes | None] | None:
        """Labels of what a body gives, from those of its inputs; None, for the reason given, where it never ran."""
        return self._walk.body(self.node, attribute, inputs, self._reason(unseen))

    def keys(self, index: int, *axes: int, output: bool = False) -> tuple[AxisKey, ...]:
        """Names of axes of an input (or output); all of them where none is given. Negative axes count from the end."""
        value = (self.node.outputs if output else self.node.inputs)[index]
        assert value is not None
        rank = len(self.shape(index) if output else self.axes(index))
        return tuple((str(value.name), axis % rank) for axis in (axes or range(rank)))

    def _reason(self, why: str) -> int:
        if why not in self._reasons:
            self._reasons[why] = len(self.findings.reasons)
            self.findings.reasons.append((str(self.node.name), self.node.op_type, why))
        return self._reasons[why]


Rule = Callable[[Site], Sequence[Axes | None]]
"""Labels of the inputs in, labels of the outputs out; None for an output that is frozen throughout."""

__all__ = ["SINGLE", "Axes", "Findings", "OpaqueError", "Rule", "Site"]
