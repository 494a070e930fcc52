# SPDX-License-Identifier: Apache-2.0
"""Heal a model in memory: what the command and the recipe step have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgefold import __version__
from edgefold.errors import ModelError, UsageError
from edgefold.files.digest import model_sha256
from edgefold.heal.augmentation import check_inputs
from edgefold.heal.device_teacher import best_teacher
from edgefold.heal.graph_module import GraphModule, supports
from edgefold.heal.objective import Objective, make_objective
from edgefold.heal.processes import Processes
from edgefold.heal.progress import Epoch, TrainingFile
from edgefold.heal.samples import read_samples
from edgefold.heal.selection import adapted_weights, selected_weights
from edgefold.heal.training import Training
from edgefold.heal.views import TeacherOfViews
from edgefold.interface import ModelInterface
from edgefold.passes.adapters import attach, fold
from edgefold.passes.heal import Heal
from edgefold.scoring.task import Task
from edgefold.scoring.task_files import content_sha256, data_files
from edgefold.session import DOMAIN, LITTLE_MEMORY, make_session

log = logging.getLogger("edgefold")
LISTED_REASONS = 3
PROBE_ROWS = 2
TABLES = ("Gather",)  # operators whose first input is looked up by the numbers of the second


@dataclasses.dataclass(frozen=True)
class Healing:
    """What a training did.

    Attributes:
        losses: what was made small, a sentence a term.
        training: samples trained on.
        held_out: samples that chose the best weights.
        weights: number of trained weight elements.
        steps: of the optimizer; fewer than asked for where training stopped early.
        best_step: the step whose weights were kept; 0 where none was better than the model as it came.
        seconds: of training.
        processor_seconds: of all processor cores of process 0 together.
        device: as torch calls it.
        processes: how many shared each batch.
        history: a record for each epoch, the first for the model as it came.
    """

    losses: tuple[str, ...]
    training: int
    held_out: int
    weights: int
    steps: int
    best_step: int
    seconds: float
    processor_seconds: float
    device: str
    processes: int
    history: tuple[Epoch, ...]

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def stats(self) -> dict[str, float | int | str]:
        """The numbers of `to_json` that a step's record holds."""
        return {
            "steps": self.steps,
            "best_step": self.best_step,
            "held_out_loss_before": self.history[0].held_out,
            "held_out_loss_after": min(epoch.held_out for epoch in self.history),
            "training_samples": self.training,
            "held_out_samples": self.held_out,
            "losses": "; ".join(self.losses),
        }


def heal_model(
    student: ir.Model,
    teacher: ir.Model,
    task: Task,
    options: Heal,
    seed: int,
    processes: Processes,
    state: Path | None = None,
) -> Healing:
    """Train ``student``, in place, to do again what ``teacher`` does on the task's calibration data.

    Args:
        student: keeps its names and structure; only weights change.
        teacher: the original; inputs and outputs have the student's names.
        task: how both are fed; its evaluation data are not read.
        options: what to make small, how long and how fast.
        seed: of split, order and augmentation.
        processes: that train together; alone, `Processes(0, 1, device)`.
        state: folder for the state of the training, which goes on from what lies there; None keeps none.

    Raises:
        ModelError: the student has operators that cannot be trained; lists them.
        UsageError: task, models and options do not fit each other.
    """
    reason = refusal(student)
    if reason:
        raise ModelError(reason)
    interface = ModelInterface.of(make_session(student, config=LITTLE_MEMORY))
    samples = read_samples(task, interface, options, seed)
    probe = samples.take(samples.training[: samples.chunk or PROBE_ROWS])
    if options.augment:
        samples = dataclasses.replace(samples, vocabulary=vocabulary(student))
        check_inputs(probe, options.augment, samples.vocabulary)
    objective = make_objective(options, task, interface, student, teacher, probe)
    saved = TrainingFile(state, _fingerprint(student, teacher, task, options, seed)) if state else None
    told = best_teacher(teacher, objective.of_teacher, options.threads, processes.device)
    if options.teacher_views:
        told = TeacherOfViews(told, objective.means, options.teacher_views, probe)
    log.info("healing: %s; %d samples, %d held out", "; ".join(objective.described), *samples.sizes)
    with _threads(options.threads), _trainable(student, objective, options, seed) as module:
        training = Training(module, objective, samples, told, options, seed, processes, saved)
        progress = training.run()
        module.cpu().write_back(student)
    if saved and not processes.rank:
        saved.discard()
    weights = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    return Healing(
        objective.described,
        *samples.sizes,
        weights,
        progress.step,
        progress.best_step,
        progress.seconds,
        progress.processor_seconds,
        str(processes.device),
        processes.count,
        tuple(progress.history),
    )


@contextlib.contextmanager
def _trainable(student: ir.Model, objective: Objective, options: Heal, seed: int) -> Iterator[GraphModule]:
    """The student as a module that trains what was asked for; adapters are in the student meanwhile."""
    chosen = selected_weights(student, options.train)
    adapted = adapted_weights(student, chosen, options.adapters) if options.adapters else ()
    adapters = attach(student, dict.fromkeys(adapted), options.adapters or 1, seed)
    try:
        module = GraphModule(_what_is_read(student, objective), options.gradient_bits)
        trained = {*chosen, *(name for adapter in adapters for name in adapter.trained)}.difference(adapted)
        for name, weight in module.named_parameters():
            weight.requires_grad_(name in trained)
        if not any(weight.requires_grad for weight in module.parameters()):
            raise UsageError(f"--train {','.join(options.train)}: the losses read none of these weights")
        yield module
    finally:
        fold(student, adapters)


def _what_is_read(student: ir.Model, objective: Objective) -> ir.Model:
    """The student, or where no output of it is read a copy that ends at the hidden tensors that are."""
    if objective.reads_outputs:
        return student
    copy = student.clone()
    computed = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(computed[name] for name in objective.of_student)
    RemoveUnusedNodesPass()(copy)
    return copy


def vocabulary(model: ir.Model) -> tuple[str, int] | None:
    """The input whose numbers are looked up in the largest table, and its rows; None where none is looked up."""
    found: list[tuple[int, str]] = []
    for value in model.graph.inputs:
        readers = [node for node, _ in value.uses()]
        readers += [node for cast in readers if cast.op_type == "Cast" for node, _ in cast.outputs[0].uses()]
        for node in readers:
            table = node.inputs[0] if node.op_type in TABLES else None
            if table is not None and table is not value and table.const_value is not None:
                found.append((int(table.const_value.shape.numpy()[0]), str(value.name)))
    if not found:
        return None
    rows, name = max(found)
    return name, rows


def refusal(model: ir.Model) -> str | None:
    """Why a model cannot be trained, or None where it can."""
    reasons = supports(model)
    if not reasons:
        return None
    more = f" and {len(reasons) - LISTED_REASONS} more" if len(reasons) > LISTED_REASONS else ""
    joined = any(domain == DOMAIN and name.startswith("Fused") for domain, name, _ in model.functions)
    way_out = "; heal it before the step fuse-blocks, which joined layers of it" if joined else ""
    return f"the model cannot be trained: {'; '.join(reasons[:LISTED_REASONS])}{more}{way_out}"


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(student: ir.Model, teacher: ir.Model, task: Task, options: Heal, seed: int) -> str:
    """Identity of a training, so that only its own state is taken up."""
    digest = hashlib.sha256(f"{__version__} {seed} {options}".encode())
    digest.update(content_sha256((task.path, *data_files(task, "calibration"))).encode())
    for model in (student, teacher):
        digest.update(model_sha256(model).encode())
    return digest.hexdigest()
