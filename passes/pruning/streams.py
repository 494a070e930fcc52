# SPDX-License-Identifier: Apache-2.0
"""Follow the channels of a residual stream: everything that writes to it, adds to it, moves it, and reads it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import Trace

Place = tuple[ir.Value, int]
"""A value and the axis, counted from 0, along which the channels run."""

_ELEMENTWISE = frozenset(("Add", "Sub", "Sum", "Neg", "Identity", "Expand"))
_WEIGHTED = frozenset(("MatMul", "Gemm", "Conv"))


class UncentredError(Exception):
    """Something on the way of a stream keeps its mean from being taken out."""


class Stream:
    """The places that are centred together, from one of them.

    Args:
        trace: of the model.

    Attributes:
        places: all values of the stream.
        stored: initializers to centre, each with the axis.
        norms: the nodes that subtract the mean of the stream: LayerNormalization, or Sub of a ReduceMean.
    """

    def __init__(self, trace: Trace) -> None:
        self.places: dict[Place, None] = {}
        self.stored: dict[Place, None] = {}
        self.norms: dict[ir.Node, None] = {}
        self._trace = trace

    def follow(self, place: Place) -> None:
        """Collects the whole stream.

        Raises:
            UncentredError: it cannot be centred.
        """
        pending = [place]
        while pending:
            value, axis = pending.pop()
            if (value, axis) in self.places or (value, axis) in self.stored:
                continue
            if value.is_initializer():
                self._store(value, axis)
                continue
            self.places[value, axis] = None
            pending.extend(self._sources(value, axis))
            pending.extend(self._readers(value, axis))

    def _sources(self, value: ir.Value, axis: int) -> list[Place]:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            raise UncentredError
        if node.op_type in _WEIGHTED:
            return self._weights(node, axis)
        places = []
        for position, operand in enumerate(node.inputs):
            if operand is not None and (position == 0 or node.op_type in ("Add", "Sub", "Sum", "Concat")):
                source = self._source_axis(node, value, axis, position)
                if source is None:
                    raise UncentredError
                places.append((operand, source))
        return places

    def _weights(self, node: ir.Node, axis: int) -> list[Place]:
        """The stored operands that make the channels."""
        rank = len(self._shape(node.outputs[0]))
        weight = node.inputs[1]
        assert weight is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if node.op_type == "Conv":
            out = 0 if axis == 1 and node.attributes.get_int("group", 1) == 1 else None
        elif node.op_type == "Gemm":
            out = (0 if node.attributes.get_int("transB", 0) else 1) if axis == 1 else None
        else:
            out = len(self._shape(weight)) - 1 if axis == rank - 1 else None
        if out is None or not weight.is_initializer():
            raise UncentredError
        return [(weight, out)] + ([] if bias is None else [(bias, len(self._shape(bias)) - 1)])

    def _readers(self, value: ir.Value, axis: int) -> list[Place]:
        if value.is_graph_output():
            raise UncentredError
        places = []
        for use in value.uses():
            node = use.node
            if node.graph is not value.graph or node.domain not in ("", "ai.onnx"):
                raise UncentredError
            if node.op_type in ("Shape", "Size"):
                continue
            if norms := self._subtracting(node, use.idx, value, axis):
                self.norms.update(dict.fromkeys(norms))
                continue
            output = node.outputs[0]
            axes = range(len(self._shape(output)))
            ahead = [one for one in axes if self._source_axis(node, output, one, use.idx) == axis]
            if not ahead:
                raise UncentredError
            places.append((output, ahead[0]))
        return places

    def _subtracting(self, node: ir.Node, position: int, value: ir.Value, axis: int) -> list[ir.Node]:
        """The nodes that take the mean out, if the reader is one of them or its ReduceMean."""
        if node.op_type == "LayerNormalization":
            first = node.attributes.get_int("axis", -1) % len(self._shape(value))
            alone = first == axis == len(self._shape(value)) - 1 and all(not one.uses() for one in node.outputs[1:])
            return [node] if position == 0 and alone else []
        if node.op_type == "ReduceMean":
            readers = [use.node for use in node.outputs[0].uses()]
            fits = self._axes(node, value) == [axis] and node.attributes.get_int("keepdims", 1) == 1
            return readers if fits and all(_subtracts(one, value, node.outputs[0]) for one in readers) else []
        mean = node.inputs[1].producer() if node.op_type == "Sub" and node.inputs[1] is not None else None
        if mean is not None and mean.op_type == "ReduceMean" and mean.inputs[0] is value:
            return self._subtracting(mean, 0, value, axis)
        return []

    def _axes(self, node: ir.Node, value: ir.Value) -> list[int]:
        given: NDArray[np.int64] | None = None
        if "axes" in node.attributes:
            given = np.array(node.attributes["axes"].as_ints())
        elif len(node.inputs) > 1 and node.inputs[1] is not None:
            given = self._trace.static(str(node.inputs[1].name))
        rank = len(self._shape(value))
        return list(range(rank)) if given is None else sorted(int(axis) % rank for axis in given)

    def _source_axis(self, node: ir.Node, output: ir.Value, axis: int, position: int) -> int | None:
        """The axis of an operand that becomes an axis of the output, index by index; None where none does."""
        operand = node.inputs[position]
        assert operand is not None
        after, before = self._shape(output), self._shape(operand)
        source: int | None = None
        if node.op_type in _ELEMENTWISE:
            source = axis - len(after) + len(before)
        elif node.op_type == "Concat":
            source = axis if node.attributes.get_int("axis", 0) % len(after) != axis else None
        elif node.op_type == "Transpose":
            default = tuple(reversed(range(len(before))))
            source = int(node.attributes.get_ints("perm", default)[axis])
        elif node.op_type == "Gather" and position == 0:
            source = self._gathered(node, before, axis)
        elif node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and position == 0:
            fits = (i for i in range(len(before)) if math.prod(before[:i]) == math.prod(after[:axis]))
            source = next((i for i in fits if before[i] == after[axis]), None)
        elif node.op_type == "Slice" and position == 0:
            source = axis
        if source is None or source < 0 or before[source] != after[axis]:
            return None
        return source

    def _gathered(self, node: ir.Node, before: tuple[int, ...], axis: int) -> int | None:
        indices = node.inputs[1]
        assert indices is not None
        along, added = node.attributes.get_int("axis", 0) % len(before), len(self._shape(indices))
        if axis < along:
            return axis
        return axis - added + 1 if axis >= along + added else None

    def _store(self, value: ir.Value, axis: int) -> None:
        if len(value.uses()) != 1 or value.const_value is None or value.is_graph_output():
            raise UncentredError
        self.stored[value, axis] = None

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        if str(value.name) not in self._trace.shapes:
            raise UncentredError
        return self._trace.shapes[str(value.name)]


def _subtracts(node: ir.Node, value: ir.Value, mean: ir.Value) -> bool:
    return node.op_type == "Sub" and node.inputs[0] is value and node.inputs[1] is mean
