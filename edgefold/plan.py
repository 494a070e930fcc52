# SPDX-License-Identifier: Apache-2.0
"""What ``compress`` was asked to do, checked before anything is read or written."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgefold import __version__
from edgefold.errors import ModelError, UsageError
from edgefold.files.loading import LoadedModel
from edgefold.goals import Drop, parse_drop, parse_size
from edgefold.heal import require_torch
from edgefold.interface import ModelInterface
from edgefold.measuring.devices import device
from edgefold.passes import FuseBlocks, FuseLayers, Heal, Pass
from edgefold.passes._names import matches
from edgefold.passes.remove_blocks import RemoveBlocks
from edgefold.pipeline import Inputs
from edgefold.probing_feeds import guessed_sizes, make_feeds
from edgefold.recipe import Recipe, check_seed, load_recipe, recipe_as_yaml
from edgefold.scoring.calibration_metric import calibration_metric
from edgefold.scoring.task import Split, Task, load_task
from edgefold.scoring.task_files import all_files, content_sha256
from edgefold.session import LITTLE_MEMORY, make_session, run

if TYPE_CHECKING:
    import onnxruntime as ort

log = logging.getLogger("edgefold")

PROBE_SAMPLES = 8  # enough to verify a step on, few enough to do it after every step
_OF_CLASSES = ("top1", "top5", "agreement", "perplexity")  # metrics of scores along the last axis


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked recipe, task and goals.

    Attributes:
        model: the path as the user gave it.
        recipe: with the flags of the call worked in.
        task: None when nothing can be calibrated or scored.
        max_drop: largest accepted loss of the metric, or None.
        max_bytes: largest accepted size, or None.
    """

    model: str
    recipe: Recipe
    task: Task | None
    max_drop: Drop | None
    max_bytes: int | None

    @property
    def has_goals(self) -> bool:
        """Whether the user stated what may be lost or must be gained."""
        return self.max_drop is not None or self.max_bytes is not None

    def fingerprint(self, loaded: LoadedModel) -> str:
        """Identity of the call, for ``--resume``: model, recipe, task with its data, and version."""
        task = content_sha256(all_files(self.task)) if self.task else ""
        parts = (loaded.sha256, recipe_as_yaml(self.recipe), task, __version__)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def inputs(self, loaded: LoadedModel) -> Inputs:
        """Open the model in ONNX Runtime, check names against it, and make what it will be run on.

        Raises:
            ModelError: ONNX Runtime refuses the model.
            UsageError: the task or an ``--exclude`` does not fit the model.
        """
        self._check_excludes(loaded)
        session = make_session(loaded.model, config=LITTLE_MEMORY)
        interface = ModelInterface.of(session).require_tensors()
        task = self.task
        if task is None:
            probe = guessed_feeds(session, self.recipe.seed)
            return Inputs(probe, None, _per_sample(interface, probe))
        split: Split = "calibration" if task.has_calibration else "eval"
        batch = next(task.batches(interface, split, PROBE_SAMPLES))
        run(session, None, batch.feeds)
        interface.output(task.metric.output, f"{task.path}: metric")
        next(task.batches(interface, "eval", 1))

        def calibration() -> Iterator[Mapping[str, np.ndarray]]:
            assert task is not None
            for one in task.batches(interface, "calibration"):
                yield one.feeds

        return Inputs(
            batch.feeds,
            calibration if task.has_calibration else None,
            _per_sample(interface, batch.feeds),
            classes=class_scores(task, interface),
            metric=functools.partial(calibration_metric, task, interface) if task.calibration_has_metric else None,
        )

    def _check_excludes(self, loaded: LoadedModel) -> None:
        names = [str(node.name) for node in loaded.model.graph.all_nodes()]
        for pattern in self.recipe.exclude:
            if not any(matches(name, pattern) for name in names):
                raise UsageError(
                    f"--exclude {pattern}: no node of {loaded.path} has such a name; "
                    f"`edgefold inspect -m {loaded.path}` lists them"
                )


def make_plan(
    model: str | os.PathLike[str],
    recipe: str | os.PathLike[str],
    task: str | os.PathLike[str] | None,
    *,
    settings: Sequence[str],
    exclude: Sequence[str],
    max_drop: str | None,
    max_size: str | None,
    seed: int | None,
) -> Plan:
    """Read and check the recipe, the flags that change it, the task and the goals.

    Raises:
        UsageError: anything is malformed or contradicts something else.
    """
    read = load_recipe(os.fspath(recipe), settings)
    read = msgspec.structs.replace(
        read,
        exclude=(*read.exclude, *exclude),
        max_drop=max_drop or read.max_drop,
        max_size=max_size or read.max_size,
        seed=read.seed if seed is None else seed,
    )
    check_seed(read.seed)
    _check_devices(read.steps)
    parsed = load_task(task) if task is not None else None
    if any(isinstance(step, Heal | FuseLayers) for step in read.steps):
        require_torch()
        if parsed is None or not parsed.has_calibration:
            raise UsageError(
                "the recipe heals, which needs a task with calibration data (-d TASK): it is trained on them"
            )
    if read.max_drop and (parsed is None or not parsed.has_calibration):
        raise UsageError("--max-drop needs a task with calibration data (-d TASK): the loss is judged on them")
    for step in read.steps:
        if isinstance(step, RemoveBlocks) and step.max_drop:
            _require_calibration_metric(parsed, halves=step.repair != "none")
    return Plan(
        model=os.fspath(model),
        recipe=read,
        task=parsed,
        max_drop=parse_drop(read.max_drop) if read.max_drop else None,
        max_bytes=parse_size(read.max_size) if read.max_size else None,
    )


def _check_devices(steps: Sequence[Pass]) -> None:
    """Checks that the devices that steps name are known, and those that they run on here.

    Raises:
        UsageError: one is not, or torch is missing.
    """
    for step in steps:
        if isinstance(step, FuseBlocks):
            try:
                device(step.device)
            except UsageError as error:
                raise UsageError(f"{step.name}: {error}") from None
        if isinstance(step, Heal):
            require_torch()
            from edgefold.heal.processes import chosen_device

            chosen_device(step.device)


def _require_calibration_metric(task: Task | None, *, halves: bool) -> None:
    """Checks that ``max_drop`` of a step can be judged.

    Raises:
        UsageError: there is no task, or its calibration data lack labels, or they are one batch and cannot be halved.
    """
    if task is None or not task.has_calibration:
        raise UsageError("remove-blocks: max_drop needs a task with calibration data (-d TASK): it is judged on them")
    if not task.calibration_has_metric:
        raise UsageError(
            f"{task.path}: remove-blocks: max_drop needs the metric's labels '{task.metric.labels}' in the calibration "
            "data, which lack them; max_error needs no labels"
        )
    samples = task.samples("calibration")
    if halves and samples <= task.rule.batch:
        raise UsageError(
            f"{task.path}: remove-blocks: max_drop needs two batches of calibration data, one to refit on and one to "
            f"judge by; there are {samples} samples: lower 'batch', now {task.rule.batch}"
        )


def class_scores(task: Task, interface: ModelInterface) -> frozenset[str]:
    """The name of the output that the task's metric takes as scores of classes, if it does."""
    scored = interface.output(task.metric.output, f"{task.path}: metric")
    return frozenset((scored.name,)) if task.metric.name in _OF_CLASSES and "float" in scored.kind else frozenset()


def guessed_feeds(session: ort.InferenceSession, seed: int) -> dict[str, np.ndarray] | None:
    """Random inputs of one sample on which the model runs; None, with a warning, where none were found."""
    interface = ModelInterface.of(session)
    refused: UsageError | ModelError | None = None
    for sizes in guessed_sizes(interface, batches=(1,)):
        try:
            feeds = make_feeds(interface, sizes, None, seed)
            run(session, None, feeds)
            return feeds
        except (UsageError, ModelError) as error:
            refused = refused or error
    log.warning(
        "the model does not run on made-up inputs, so nothing is verified by running it; give a task with -d (%s)",
        refused,
    )
    return None


def _per_sample(interface: ModelInterface, probe: Mapping[str, np.ndarray] | None) -> dict[str, tuple[int, ...]]:
    """Input shapes of one sample: the first dimension is 1 where it is dynamic."""
    if probe is None:
        return {}
    return {
        port.name: tuple(
            1 if axis == 0 and not isinstance(port.shape[0], int) else size
            for axis, size in enumerate(probe[port.name].shape)
        )
        for port in interface.inputs
    }
