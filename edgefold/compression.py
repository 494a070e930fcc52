# SPDX-License-Identifier: Apache-2.0
"""``edgefold compress``: a model, a recipe and a little data in; a smaller model and the evidence out."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from edgefold.checkpoints import Checkpoints
from edgefold.compression_run import Run, unrun
from edgefold.console import log_file
from edgefold.errors import ContractError, ModelError
from edgefold.files.loading import LoadedModel, load_model
from edgefold.files.saving import check_vacant, output_folder, refuse_to_replace
from edgefold.measuring.measure import model_weights
from edgefold.passes import Pass, PreconditionError, Skip, SkipReason
from edgefold.pipeline import Inputs, StepFailedError
from edgefold.plan import Plan, make_plan
from edgefold.provenance import stamp, write_manifest
from edgefold.recipe import Recipe, recipe_as_yaml
from edgefold.report import Figures, Report
from edgefold.reproducer import write_reproducer
from edgefold.scoring.task_files import all_files
from edgefold.targets import Target, find_target


class GoalMissedError(ContractError):
    """A stated goal was missed; ``report`` has the figures of the best artefact, which was written."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def compress(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: str | os.PathLike[str] = "w4",
    task: str | os.PathLike[str] | None = None,
    *,
    target: str = "cpu",
    max_drop: str | None = None,
    max_size: str | None = None,
    bits: float | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    exclude: Sequence[str] = (),
    external_data: bool | None = None,
    dry_run: bool = False,
    resume: bool = False,
    force: bool = False,
    save_config: str | os.PathLike[str] | None = None,
) -> Report:
    """Compress ``model`` by a recipe into the folder ``output``.

    Args:
        model: an ONNX file, or an output folder of ``compress``.
        output: folder to write {model.onnx[, model.onnx.data], recipe.yaml, report.json, manifest.json, run.log}.
        recipe: built-in name or YAML file.
        task: task file; without it nothing is calibrated or scored, and steps fall back and say so.
        target: kind of runtime to emit for.
        max_drop: ``1%`` of the original's metric or ``1pt`` absolute; needs ``task``.
        max_size: as in ``4MB``.
        bits: of a weight on average; a short form of the setting ``quantize.bits``.
        seed: of every random choice; None takes the recipe's.
        settings: ``PASS.OPTION=VALUE`` changes of the recipe.
        exclude: node names or globs that no lossy pass may touch.
        external_data: weights beside the model, inside it, or (None) beside it above 64 MB.
        dry_run: check recipe, task, goals, devices and output, and run the model once; try no step, write no output.
        resume: go on after the steps that an interrupted run of the same call finished.
        force: replace an existing ``output``; a folder that holds anything that is read is never replaced.
        save_config: where to write the recipe that reproduces this call, in a dry run too.

    Raises:
        UsageError, ModelError: wrong arguments or an unusable model; nothing was written.
        GoalMissedError: the best artefact was written all the same.
        VerificationError: a step failed its checks; the last good model and a reproducer were written.
    """
    settings = settings if bits is None else (*settings, f"quantize.bits={bits:g}")
    plan = make_plan(
        model, recipe, task, settings=settings, exclude=exclude, max_drop=max_drop, max_size=max_size, seed=seed
    )
    emitter = find_target(target)
    folder = Path(output)
    loaded = load_model(model)
    for replaced in (folder, _failed(folder)):
        refuse_to_replace(replaced, _used(loaded, plan, recipe, save_config))
    check_vacant(folder, force)
    inputs = plan.inputs(loaded)
    if save_config is not None:
        Path(save_config).write_text(recipe_as_yaml(plan.recipe), encoding="utf-8")
    if dry_run:
        return _dry_report(loaded, plan, folder, inputs)
    with output_folder(folder, force) as partial, log_file(partial / "run.log"):
        run = Run(loaded, plan, inputs, Checkpoints.beside(folder, plan.fingerprint(loaded), resume))
        try:
            result = run.compress()
        except StepFailedError as failure:
            _keep_last_good(run, folder, emitter, external_data, failure)
            raise
        if not len(result.graph):
            raise ModelError(f"{loaded.path}: all its outputs are constants; there is nothing to compress")
        stamp(result, recipe_text=recipe_as_yaml(run.recipe), input_sha256=loaded.sha256)
        written = emitter.emit(result, partial, external_data)
        report = run.report(written, folder)
        _write_records(partial, report, run.recipe)
        write_manifest(
            partial, model_path=loaded.path, model_sha256=loaded.sha256, task=plan.task.path if plan.task else None
        )
    run.checkpoints.discard()
    if report.status != "done":
        raise GoalMissedError("; ".join(f for f in report.findings if f.startswith("Goal missed")), report)
    return report


def _used(
    loaded: LoadedModel, plan: Plan, recipe: str | os.PathLike[str], save_config: str | os.PathLike[str] | None
) -> Iterator[Path]:
    """The files that a call reads, and the one that it writes beside the output."""
    yield from (loaded.path, *loaded.data_files)
    if Path(recipe).is_file():  # not the name of a built-in one
        yield Path(recipe)
    if save_config is not None:
        yield Path(save_config)
    if plan.task:
        yield from all_files(plan.task)


def _failed(folder: Path) -> Path:
    """Where the last good model goes when a step fails."""
    return folder.with_name(folder.name + ".failed")


def _keep_last_good(run: Run, folder: Path, emitter: Target, external: bool | None, failure: StepFailedError) -> None:
    """Write ``<output>.failed``: the last good model, the log so far, and a reproducer of the failed step."""
    kept = _failed(folder)
    with output_folder(kept, True) as partial:
        emitter.emit(run.last_good, partial, external)
        write_reproducer(partial / "repro", failure, run.inputs)
    failure.args = (f"{failure}; the last good model is in {kept}, and `edgefold repro {kept / 'repro'}` reruns it",)


def _write_records(folder: Path, report: Report, recipe: Recipe) -> None:
    (folder / "recipe.yaml").write_text(recipe_as_yaml(recipe), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report.to_json(), indent=2, default=str) + "\n", encoding="utf-8")


def _dry_report(loaded: LoadedModel, plan: Plan, folder: Path, inputs: Inputs) -> Report:
    """What would be done: the steps with all their options, which of them refuse the model as it is, no figures."""
    figures = Figures(bytes=loaded.bytes, weights=model_weights(loaded.model))
    steps = [
        {"pass": step.name, "options": msgspec.to_builtins(step), "skips": _refusals(step, loaded.model)}
        for step in plan.recipe.steps
    ]
    return Report("dry run", plan.model, str(folder), figures, figures, steps, findings=unrun(inputs))


def _refusals(step: Pass, model: ir.Model) -> list[dict[str, Any]]:
    try:
        step.requires(model)
    except PreconditionError as error:
        return [dataclasses.asdict(Skip("model", SkipReason.NOT_APPLICABLE, str(error)))]
    return []
