# SPDX-License-Identifier: Apache-2.0
"""``edgefold heal``: a damaged model and its original in; the model trained back, and the evidence, out."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx_ir as ir

from edgefold.console import log_file
from edgefold.errors import UsageError
from edgefold.files.loading import LoadedModel, load_model
from edgefold.files.saving import check_vacant, output_folder, refuse_to_replace
from edgefold.heal import require_torch
from edgefold.passes.base import PreconditionError
from edgefold.passes.heal import Heal
from edgefold.provenance import stamp, write_manifest
from edgefold.recipe import check_seed
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import Task, load_task
from edgefold.scoring.task_files import all_files
from edgefold.targets import find_target

if TYPE_CHECKING:
    from edgefold.heal.engine import Healing
    from edgefold.heal.processes import Processes
    from edgefold.heal.report import HealReport

log = logging.getLogger("edgefold")


def heal(
    student: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    task: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    external_data: bool | None = None,
    resume: bool = False,
    force: bool = False,
    **options: Any,
) -> HealReport | None:
    """Train a compressed model to do again what the original does, into the folder ``output``.

    Started by ``torchrun``, its processes share every batch; process 0 scores and writes.

    Args:
        student: an ONNX file, or an output folder of ``compress``.
        teacher: the original, likewise.
        task: task file with calibration data, the only data that are trained on.
        output: folder to write {model.onnx[, model.onnx.data], report.json, manifest.json, run.log}.
        seed: of split, order and augmentation.
        external_data: weights beside the model, inside it, or (None) beside it above 64 MB.
        resume: go on where an interrupted run of the same call was.
        force: replace an existing ``output``; a folder that holds anything that is read is never replaced.
        options: of the pass ``heal``: see `edgefold.passes.heal.Heal`.

    Returns:
        The report; None in every process but the first.

    Raises:
        UsageError: wrong arguments, or torch is not installed; nothing was written.
        ModelError: a model that cannot be read, or a student that cannot be trained.
    """
    check_seed(seed)
    require_torch()
    from edgefold.heal.processes import joined_processes

    job = _job(student, teacher, task, output, options, seed)
    folder = job.folder
    refuse_to_replace(folder, job.used())
    check_vacant(folder, force)
    with joined_processes(job.options.device) as processes:
        if processes.rank:
            log.setLevel(logging.WARNING)  # one process is enough to tell how it goes
            job.train(processes, resume)
            return None
        with output_folder(folder, force) as partial, log_file(partial / "run.log"):
            report = job.report(processes, resume, partial, external_data)
    return report


@dataclasses.dataclass(frozen=True)
class _Job:
    """A checked call."""

    student: LoadedModel
    teacher: LoadedModel
    task: Task
    folder: Path
    options: Heal
    seed: int

    def used(self) -> Iterator[Path]:
        """The files that the call reads."""
        for model in (self.student, self.teacher):
            yield from (model.path, *model.data_files)
        yield from all_files(self.task)

    def train(self, processes: Processes, resume: bool) -> tuple[ir.Model, Healing]:
        """The healed model; process 0 keeps the state of the training beside the output until it is complete."""
        from edgefold.heal.engine import heal_model

        state = self.folder.with_name(f".{self.folder.name}.training")
        if not resume and processes.rank == 0 and state.is_dir():
            shutil.rmtree(state)
        kept = state if resume or processes.rank == 0 else None
        model = self.student.model.clone()
        try:
            return model, heal_model(model, self.teacher.model, self.task, self.options, self.seed, processes, kept)
        except KeyboardInterrupt:
            if state.is_dir():
                log.warning("the state of the training is kept: the same call with --resume goes on")
            raise

    def report(self, processes: Processes, resume: bool, partial: Path, external: bool | None) -> HealReport:
        """Score, train, write and score again."""
        from edgefold.heal.report import make_report

        threads = self.options.threads
        log.info("scoring the teacher and the student ...")
        teacher = evaluate(self.teacher.path, self.task, threads=threads)
        before = evaluate(self.student.path, self.task, threads=threads)
        model, healing = self.train(processes, resume)
        options = {**msgspec.to_builtins(self.options), "seed": self.seed}
        stamp(model, recipe_text=json.dumps(options), input_sha256=self.student.sha256)
        written = find_target("cpu").emit(model, partial, external)
        log.info("scoring the healed model ...")
        scores = (teacher, before, evaluate(written, self.task, threads=threads))
        report = make_report(self.student, self.teacher, load_model(written), self.folder, scores, healing, options)
        text = json.dumps(report.to_json(), indent=2, default=str)
        (partial / "report.json").write_text(text + "\n", encoding="utf-8")
        write_manifest(partial, model_path=self.student.path, model_sha256=self.student.sha256, task=self.task.path)
        return report


def _job(
    student: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
    task: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Mapping[str, Any],
    seed: int,
) -> _Job:
    try:
        checked = msgspec.convert({"pass": "heal", **options}, Heal)
    except msgspec.ValidationError as error:
        listed = ", ".join(name.replace("_", "-") for name in Heal.__struct_fields__)
        raise UsageError(f"heal: {error}; it takes {listed}") from None
    parsed = load_task(task)
    if not parsed.has_calibration:
        raise UsageError(f"{parsed.path}: healing trains on calibration data; add: calibration: {{data: FILE}}")
    job = _Job(load_model(student), load_model(teacher), parsed, Path(output), checked, seed)
    try:
        checked.requires(job.student.model)
    except PreconditionError as error:
        raise UsageError(f"-m {job.student.path}: {error}") from None
    for kind in ("inputs", "outputs"):
        ours, theirs = ([v.name for v in getattr(m.model.graph, kind)] for m in (job.student, job.teacher))
        if ours != theirs:
            raise UsageError(
                f"--teacher {job.teacher.path}: expected the model that {job.student.path} was made from; the {kind} "
                f"are {', '.join(theirs)}, and not {', '.join(ours)}"
            )
    return job
