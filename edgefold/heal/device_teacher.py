# SPDX-License-Identifier: Apache-2.0
"""The original as a torch module, where the student trains on a GPU that ONNX Runtime would leave waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgefold.heal.graph_module import GraphModule, supports
from edgefold.heal.teacher import Teacher

Array = np.ndarray[Any, Any]


class DeviceTeacher(Teacher):
    """Gives what a `Teacher` gives, computed by torch on a device.

    Args:
        model: of operators that `GraphModule` has.
        names: tensors to give.
        device: where to compute.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], device: torch.device) -> None:
        super().__init__(model, ())
        self.names = list(names)
        self._device = device
        self._module = GraphModule(model).to(device)

    def __call__(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """The named tensors for some inputs [rows, ...]: all, or those of ``names``."""
        names = self.names if names is None else names
        tensors = {name: torch.from_numpy(value).to(self._device) for name, value in feeds.items()}
        with torch.no_grad():
            given = self._module(tensors, names)
        return {name: given[name].cpu().numpy() for name in names}


def best_teacher(model: ir.Model, names: Sequence[str], threads: int, device: torch.device) -> Teacher:
    """ONNX Runtime on the CPU, which knows every operator; torch on a GPU, where it can run the model."""
    if device.type == "cuda" and not supports(model):
        return DeviceTeacher(model, names, device)
    return Teacher(model, names, threads)
