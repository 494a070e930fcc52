# SPDX-License-Identifier: Apache-2.0
"""Constant operands that take in a factor a channel: where the channels lie in them, and their values on the way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import Constant, readers, remove_if_unread, trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes.base import SkipReason

Array = npt.NDArray[np.float64]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_LARGE = 1 << 14  # elements; a constant above it is not stored a second time for one of its readers


class BarrierError(Exception):
    """What keeps the channels of a tensor as they are.

    Attributes:
        reason: as in the report.
        detail: names the node or tensor.
    """

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclasses.dataclass(frozen=True)
class Place:
    """A constant operand of a node and where the channels of a tensor lie in it.

    Attributes:
        node: reads the constant.
        operand: its position among the node's inputs.
        axes: of the constant, that together run over the channels, slowest first. One may have length 1, or be
            negative and missing, where the constant is broadcast.
        power: the constant is multiplied by factor ** power; the tensor itself is divided by the factor.
        groups: of a convolution that reads the channels: its axis 1 holds those of the output's group only.
    """

    node: ir.Node
    operand: int
    axes: tuple[int, ...]
    power: int
    groups: int = 1


class WorkingConstants:
    """The constants of a graph in float64, while factors are multiplied into them one after the other."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._arrays: dict[tuple[ir.Node, int], Array] = {}

    def check(self, place: Place) -> None:
        """Whether the constant may be changed.

        Raises:
            BarrierError: it is no constant, of another type, or shared and large.
        """
        value = place.node.inputs[place.operand]
        constant = trace_constant(value)
        name = str(value.name) if value is not None else ""
        if constant is None:
            raise BarrierError(SkipReason.NOT_CONSTANT, f"operand {name} of {place.node.name}")
        if constant.dtype not in _FLOATS:
            raise BarrierError(SkipReason.DTYPE, f"tensor {name} is {constant.dtype}")
        large = math.prod(constant.shape) > _LARGE
        if large and (constant.root.is_graph_output() or len(list(readers(constant.root))) > 1):
            raise BarrierError(SkipReason.SHARED_WEIGHT, f"tensor {name}")

    def peaks(self, place: Place, shape: Sequence[int]) -> Array:
        """The largest magnitude that meets each channel, float64 [C].

        Args:
            place: the constant.
            shape: extents of the axes of the channels; their product is C.
        """
        array = np.abs(self._array(place))
        if place.groups > 1:  # [M, C / group, kernel]: the outputs of a group meet its own channels only
            by_group = array.reshape(place.groups, array.shape[0] // place.groups, array.shape[1], -1)
            return np.asarray(by_group.max(axis=(1, 3)).reshape(-1))
        axes = self._axes(place, array)
        others = tuple(axis for axis in range(array.ndim) if axis not in axes)
        return np.asarray(np.broadcast_to(array.max(axis=others), tuple(shape)).reshape(-1))

    def multiply(self, place: Place, shape: Sequence[int], factors: Array) -> None:
        """Multiplies a constant by the factors [C] of its channels, to the power of its place."""
        array = self._array(place)
        powers = factors**place.power
        if place.groups > 1:
            rows = np.repeat(powers.reshape(place.groups, -1), array.shape[0] // place.groups, axis=0)
            powers = rows.reshape(*rows.shape, *[1] * (array.ndim - 2))
        else:
            extents = [1] * array.ndim
            for axis, extent in zip(self._axes(place, array), shape, strict=True):
                extents[axis] = extent
            powers = powers.reshape(extents)
        self._arrays[place.node, place.operand] = array * powers

    def finite(self, places: Sequence[Place], factors: Array) -> bool:
        """Whether every constant stays below the largest float32 when multiplied by any of the factors."""
        reach = max(float(factors.max()), 1 / float(factors.min()))
        return all(self._peak(place) * reach < np.finfo(np.float32).max for place in places)

    def store(self) -> None:
        """Puts the changed constants into the graph; the old ones go where nothing else reads them."""
        store = InitializerStore(self._graph)
        for (node, operand), array in self._arrays.items():
            value = node.inputs[operand]
            constant = trace_constant(value)
            assert value is not None
            assert constant is not None, "check refused anything else"
            kept = array.astype(constant.dtype.numpy())
            node.replace_input_with(operand, store.add(f"{value.name}.equalized", kept))
            remove_if_unread(constant)

    def _peak(self, place: Place) -> float:
        return float(np.abs(self._array(place)).max(initial=0))

    def _array(self, place: Place) -> Array:
        """The values on the way, with the axes that a broadcast constant is missing."""
        key = (place.node, place.operand)
        original = self._original(place)
        array = self._arrays[key] if key in self._arrays else np.asarray(original.array(), np.float64)
        missing = len(original.shape) + max(0, -min(place.axes)) - array.ndim
        return array.reshape((1,) * max(0, missing) + array.shape)

    def _axes(self, place: Place, array: Array) -> list[int]:
        """The axes of a place, which counts those of the original, in an array that may have got others before them."""
        return [axis + array.ndim - len(self._original(place).shape) for axis in place.axes]

    def _original(self, place: Place) -> Constant:
        constant = trace_constant(place.node.inputs[place.operand])
        assert constant is not None, "check refused anything else"
        return constant
