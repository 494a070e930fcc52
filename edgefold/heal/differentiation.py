# SPDX-License-Identifier: Apache-2.0
"""What the pipeline hands to passes that ask for derivatives on a task's calibration data: gradients, learnt gates."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.heal import require_torch
from edgefold.interface import ModelInterface
from edgefold.passes.base import LearnGates
from edgefold.scoring.task import Batch, Task
from edgefold.session import LITTLE_MEMORY, make_session

if TYPE_CHECKING:
    from edgefold.heal.gradients import Loss

Differentiator = Callable[[ir.Model, bool], Mapping[str, NDArray[np.float32]]]

_WITH_LABEL_LOSS = ("top1", "top5", "perplexity", "mse", "psnr")


def differentiator(task: Task) -> Differentiator:
    """A function from a model, and whether to multiply by the Hessian, to gradients by name of the weight.

    The loss is that of the labels where the metric has a differentiable one and the calibration data hold labels, else
    half the squared norm of the outputs. torch is imported when the function is first called.

    Args:
        task: with calibration data.
    """

    def differentiate(model: ir.Model, times_hessian: bool) -> Mapping[str, NDArray[np.float32]]:
        require_torch()
        from edgefold.heal.gradients import gradients, half_squared_norm

        interface = ModelInterface.of(make_session(model, config=LITTLE_MEMORY))
        labelled = task.metric.name in _WITH_LABEL_LOSS and task.has_labels("calibration")
        loss = _label_loss(task, interface, model) if labelled else half_squared_norm

        def batches() -> Iterator[Batch]:
            return task.batches(interface, "calibration")

        return gradients(model, batches, loss, times_hessian=times_hessian)

    return differentiate


def gate_learner(task: Task, seed: int) -> LearnGates | None:
    """A function that learns which gates of a model the task can best do without; None where torch is not installed.

    torch is imported when the function is first called.

    Args:
        task: with calibration data.
        seed: of every random choice.
    """
    if importlib.util.find_spec("torch") is None:
        return None

    def learn(model: ir.Model, costs: Mapping[str, float], keep: float) -> Mapping[str, float]:
        from edgefold.heal.gates import learn_gates

        return learn_gates(model, costs, keep, task, seed)

    return learn


def _label_loss(task: Task, interface: ModelInterface, model: ir.Model) -> Loss:
    from edgefold.heal.objective import make_objective
    from edgefold.passes.heal import Heal

    objective = make_objective(Heal(loss=("labels",)), task, interface, model, model, {})
    return lambda outputs, labels: objective(outputs, outputs, labels, {})
