# SPDX-License-Identifier: Apache-2.0
"""The committed digits network, one with noise on its weights, and the parts of a training of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.heal.engine import heal_model
from edgefold.heal.graph_module import GraphModule
from edgefold.heal.objective import make_objective
from edgefold.heal.processes import Processes, chosen_device
from edgefold.heal.progress import TrainingFile
from edgefold.heal.samples import Samples, read_samples
from edgefold.heal.teacher import Teacher
from edgefold.heal.training import Training
from edgefold.interface import ModelInterface
from edgefold.passes import Heal
from edgefold.scoring.task import load_task
from edgefold.session import make_session

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits_cnn"
MODEL, TASK = DIGITS / "model.onnx", DIGITS / "task.yaml"
ALONE = Processes(0, 1, chosen_device("cpu"))


def original() -> ir.Model:
    return ir.load(MODEL)


def damaged(noise: float = 0.7) -> ir.Model:
    """The digits network with noise of that share of each matrix's deviation added."""
    model, random = original(), np.random.default_rng(0)
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.dtype == np.float32 and array.ndim > 1:
            wrong = array + noise * array.std() * random.standard_normal(array.shape)
            value.const_value = ir.tensor(wrong.astype(np.float32), name=name)
    return model


def weights_of(model: ir.Model) -> dict[str, np.ndarray[Any, Any]]:
    return {n: v.const_value.numpy().copy() for n, v in model.graph.initializers.items() if v.const_value is not None}


def same(a: ir.Model, b: ir.Model) -> bool:
    ours, theirs = weights_of(a), weights_of(b)
    return ours.keys() == theirs.keys() and all(ours[n].tobytes() == theirs[n].tobytes() for n in ours)


def training(student: ir.Model, options: Heal, teacher: type[Teacher] = Teacher, state: Path | None = None) -> Training:
    """A training of ``student`` by the digits network, put together as the engine does."""
    interface, task = ModelInterface.of(make_session(student)), load_task(TASK)
    samples: Samples = read_samples(task, interface, options, 0)
    objective = make_objective(options, task, interface, student, original(), samples.take(samples.training[:2]))
    saved = TrainingFile(state, "same") if state else None
    told = teacher(original(), objective.of_teacher, 1)
    return Training(GraphModule(student), objective, samples, told, options, 0, ALONE, saved)


def healed(model: ir.Model, state: Path | None = None, **options: Any) -> Any:
    """Heal ``model`` in place."""
    return heal_model(model, original(), load_task(TASK), Heal(threads=1, **options), 0, ALONE, state)
