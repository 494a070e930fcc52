# SPDX-License-Identifier: Apache-2.0
"""What a layer multiplies its weights with, as rows [P, rows, K] taken from a tensor of the graph.

`Rows` and `Patches` name such rows; equal ones are equal as keys, so that layers reading one tensor share statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.floating]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Rows:
    """The inputs of a MatMul or Gemm: vectors along one axis of a tensor (a transposed Gemm input has axis 0).

    Attributes:
        tensor: its name in the graph.
        axis: the axis along which K runs.
    """

    tensor: str
    axis: int = -1

    def count(self, shape: tuple[int, ...]) -> int:
        """How many rows a tensor of this shape has."""
        return math.prod(shape) // max(1, shape[self.axis])

    def gather(self, value: Tensor, picked: Indices) -> Tensor:
        """The picked rows, [1, len(picked), K]."""
        last = np.moveaxis(value, self.axis, -1)
        return last.reshape(-1, last.shape[-1])[picked][None]

    def peaks(self, value: Tensor) -> Tensor:
        """The largest magnitude of each element over all rows, [K].

        Raises:
            ValueError: a value is NaN or infinite.
        """
        last = np.moveaxis(value, self.axis, -1)
        peaks: Tensor = np.abs(last.reshape(-1, last.shape[-1])).max(axis=0, initial=0)
        if not np.isfinite(peaks).all():
            raise ValueError("calibration gave NaN or infinite activations")
        return peaks


@dataclass(frozen=True)
class Patches:
    """The inputs of a convolution: what its kernel sees at each output position (im2col), one run a group.

    K runs over kernel positions in row-major order, then over the channels of the group.

    Attributes:
        tensor: name of the input [B, C, spatial of 1 to 3 dimensions].
        kernel_shape, strides, dilations: one entry a spatial dimension.
        pads: all the beginnings, then all the ends.
        group: number of groups.
    """

    tensor: str
    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    def output_size(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the convolution's output for an input of this shape."""
        rank = len(self.kernel_shape)
        return tuple(
            max(0, (shape[2 + d] + self.pads[d] + self.pads[d + rank] - self._reach(d)) // self.strides[d] + 1)
            for d in range(rank)
        )

    def count(self, shape: tuple[int, ...]) -> int:
        """How many output positions, over the batch, an input of this shape has."""
        return shape[0] * math.prod(self.output_size(shape))

    def gather(self, value: Tensor, picked: Indices) -> Tensor:
        """The patches at the picked output positions (batch-major), [group, len(picked), K]; padding is zero."""
        rank, channels = len(self.kernel_shape), value.shape[1]
        batch, *output = np.unravel_index(picked, (value.shape[0], *self.output_size(value.shape)))
        taps = np.unravel_index(np.arange(math.prod(self.kernel_shape)), self.kernel_shape)
        inside = np.ones((len(picked), len(taps[0])), dtype=bool)
        index: list[Indices] = [batch[:, None]]
        for d in range(rank):
            position = output[d][:, None] * self.strides[d] + taps[d] * self.dilations[d] - self.pads[d]
            inside &= (position >= 0) & (position < value.shape[2 + d])
            index.append(np.clip(position, 0, value.shape[2 + d] - 1))
        patches = np.moveaxis(value, 1, -1)[tuple(index)]  # [picked, taps, C]
        patches[~inside] = 0
        split = patches.reshape(len(picked), len(taps[0]), self.group, channels // self.group)
        return split.transpose(2, 0, 1, 3).reshape(self.group, len(picked), -1)

    def _reach(self, dimension: int) -> int:
        return (self.kernel_shape[dimension] - 1) * self.dilations[dimension] + 1


Inputs = Rows | Patches


@dataclass(frozen=True)
class Targets:
    """The outputs that a layer should have had: a tensor whose rows stand beside those of `Rows` or `Patches`.

    Attributes:
        tensor: its name in the original model.
        axis: the axis along which N runs: -1 for a MatMul, 1 for a convolution.
        group: runs into which N falls.
        columns: the indices on that axis that the changed model still has, ascending; None for all.
        less: a tensor of the changed model that is added to the layer's output there. With `tensor` the sum in the
            original, the layer then makes up for what the other term has lost.
    """

    tensor: str
    axis: int = -1
    group: int = 1
    columns: tuple[int, ...] | None = None
    less: str | None = None

    def gather(self, value: Tensor, picked: Indices, count: int, less: Tensor | None = None) -> Tensor:
        """The picked rows, [group, len(picked), N / group].

        Args:
            value: of `tensor`.
            picked: row numbers.
            count: rows that the layer has.
            less: of the tensor of that name; it may be broadcast.

        Raises:
            ValueError: the tensor has other than `count` rows: it does not stand beside the layer's inputs.
        """
        last = np.moveaxis(value, self.axis, -1)
        if self.columns is not None:
            last = last[..., list(self.columns)]
        rows = self._rows(last, picked, count)
        if less is not None:
            other = np.moveaxis(np.broadcast_to(less, np.moveaxis(last, -1, self.axis).shape), self.axis, -1)
            rows = rows - self._rows(other, picked, count)
        return rows.reshape(len(picked), self.group, -1).swapaxes(0, 1)

    def _rows(self, last: Tensor, picked: Indices, count: int) -> Tensor:
        size = math.prod(last.shape[:-1])
        if size != count:
            raise ValueError(f"its layer has {count} rows but the target '{self.tensor}' has {size}")
        return last[np.unravel_index(picked, last.shape[:-1])]
