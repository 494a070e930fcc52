# SPDX-License-Identifier: Apache-2.0
"""A folder that reruns one failed step: the model before it, the step, the inputs, and what came of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgefold.errors import UsageError
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.pipeline import Inputs, StepFailedError, run_step
from edgefold.recipe import Recipe, load_recipe, recipe_as_yaml
from edgefold.verification import run_model

HOW_TO_RUN = "Run `edgefold repro` with this folder: it repeats the step on before.onnx and checks it again.\n"


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What came of rerunning a reproducer that no longer fails."""

    step: str
    edits: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_text(self) -> str:
        return f"{self.step}: passes its checks here with {self.edits} edits; the failure does not occur"


def write_reproducer(folder: Path, failure: StepFailedError, inputs: Inputs) -> None:
    """Write {before.onnx, recipe.yaml, inputs.npz, expected.npz, how-to-run.txt, failure.txt} into a new folder."""
    folder.mkdir()
    save_model(failure.before, folder / "before.onnx")
    (folder / "recipe.yaml").write_text(recipe_as_yaml(Recipe(steps=(failure.step,))), encoding="utf-8")
    (folder / "how-to-run.txt").write_text(HOW_TO_RUN, encoding="utf-8")
    (folder / "failure.txt").write_text(f"{failure}\n", encoding="utf-8")
    if inputs.probe:
        np.savez(folder / "inputs.npz", **dict(inputs.probe))  # type: ignore[arg-type]
        np.savez(folder / "expected.npz", **run_model(failure.before, inputs.probe))  # type: ignore[arg-type]


def reproduce(folder: str | os.PathLike[str]) -> Reproduction:
    """Rerun the step of a reproducer folder.

    Raises:
        UsageError: not a reproducer folder.
        StepFailedError: the step fails here too.
    """
    place = Path(folder)
    if not (place / "before.onnx").is_file() or not (place / "recipe.yaml").is_file():
        raise UsageError(f"{place}: expected a reproducer folder with before.onnx and recipe.yaml")
    (step,) = load_recipe(str(place / "recipe.yaml")).steps
    probe = None
    if (place / "inputs.npz").is_file():
        with np.load(place / "inputs.npz", allow_pickle=False) as arrays:
            probe = {name: arrays[name] for name in arrays.files}
    feeds = probe

    def calibration() -> Iterator[dict[str, np.ndarray]]:
        assert feeds is not None
        yield feeds

    from edgefold.calibration import Calibration
    from edgefold.passes import Context

    model = load_model(place / "before.onnx").model
    inputs = Inputs(probe, calibration if probe else None, {k: v.shape for k, v in (probe or {}).items()})
    context = Context(calibration=Calibration(model, calibration) if probe else None)
    _, record = run_step(model, step, inputs, context)
    return Reproduction(step.name, len(record.notes.edits))
