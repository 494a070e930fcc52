# SPDX-License-Identifier: Apache-2.0
"""A layer's inputs as its activation codes give them back: what quantized weights really meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._layer_inputs import Indices, Patches, Rows, Tensor
from edgefold.passes.quantization.shift_nodes import Activation

_PRESENT = 1e-30  # rows below it have scale 0


@dataclass(frozen=True)
class Coded:
    """The rows of `inputs`, rounded to activation codes and back.

    Attributes:
        inputs: of the layer, in float.
        activation: its codes.
        graph: in which the layer is: what it should give is there only when that runs.
    """

    inputs: Rows | Patches
    activation: Activation
    graph: object = None

    @property
    def tensor(self) -> str:
        """The name of the tensor in the graph."""
        return self.inputs.tensor

    def count(self, shape: tuple[int, ...]) -> int:
        """How many rows a tensor of this shape has."""
        return self.inputs.count(shape)

    def gather(self, value: Tensor, picked: Indices) -> Tensor:
        """The picked rows, float32 [P, len(picked), K].

        Raises:
            ValueError: one of them is NaN or infinite.
        """
        rows = self.inputs.gather(value, picked).astype(np.float32)
        if not np.isfinite(rows).all():
            raise ValueError("calibration gave NaN or infinite activations")
        return round_to_codes(rows, self.activation, steps_of(self.inputs, self.activation, rows.shape[-1]))


def steps_of(inputs: Rows | Patches, activation: Activation, width: int) -> NDArray[np.float32]:
    """The step of every input in units of the scale, two to the power of its shift: float32 [P, 1, K] or [1]."""
    steps: NDArray[np.float32] = np.exp2(np.array(activation.shifts or (0,), np.float32))
    if len(steps) == 1:
        return steps
    if isinstance(inputs, Rows):
        return steps[None, None, :]
    by_run = steps.reshape(inputs.group, 1, -1)
    return np.tile(by_run, width // by_run.shape[-1])


def round_to_codes(x: Tensor, activation: Activation, steps: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of values: ``code * steps * scale`` with the nearest code, half to even.

    Args:
        x: float32 [..., K].
        activation: codes; with high 0 the values stay.
        steps: two to the power of the shift of each k.
    """
    if activation.high == 0:
        return np.asarray(x, np.float32)
    scale = np.array(activation.scale, np.float32)
    if activation.scale == 0:
        largest = np.abs(x / steps).max(axis=-1, keepdims=True)
        scale = np.where(largest > _PRESENT, largest / np.float32(activation.high), np.float32(np.inf))
    codes = np.clip(np.rint(x / (scale * steps)), activation.low, activation.high)
    rounded: NDArray[np.float32] = codes * np.where(np.isinf(scale), np.float32(0), scale * steps)
    return rounded
