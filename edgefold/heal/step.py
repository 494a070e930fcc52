# SPDX-License-Identifier: Apache-2.0
"""What the pass ``heal`` is given by the pipeline: a training of its model against the original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from edgefold.passes import PreconditionError
from edgefold.passes.base import Heals
from edgefold.passes.heal import Heal
from edgefold.scoring.task import Task


def healer(original: ir.Model, task: Task, seed: int, state: Path) -> Heals:
    """A function that trains a model, in place, and returns the numbers of its record.

    Args:
        original: what the model is to do again, where no other teacher is given.
        task: with calibration data.
        seed: of split, order and augmentation.
        state: folder for the state of the training, so that an interrupted one goes on.
    """

    def heal(model: ir.Model, options: Heal, teacher: ir.Model | None = None) -> Mapping[str, float | int | str]:
        from edgefold.heal.engine import heal_model, refusal
        from edgefold.heal.processes import Processes, chosen_device

        reason = refusal(model)
        if reason:
            raise PreconditionError("model", reason)
        alone = Processes(0, 1, chosen_device(options.device))
        return heal_model(model, teacher or original, task, options, seed, alone, state).stats()

    return heal
