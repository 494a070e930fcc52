# SPDX-License-Identifier: Apache-2.0
"""What ``edgefold heal`` does not replace, the figures of what it wrote, and whose state it takes up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

from damaged import ALONE, DIGITS, MODEL, TASK, damaged, original

import edgefold as package
from edgefold.errors import UsageError
from edgefold.heal.engine import heal_model
from edgefold.heal.training import Training
from edgefold.passes import Heal
from edgefold.scoring.task import load_task

QUICK: dict[str, Any] = {"steps": 1, "threads": 1, "batch": 46}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    ir.save(damaged(), tmp_path / "student.onnx")
    return tmp_path / "student.onnx"


def test_the_teacher_and_the_data_are_not_replaced(student: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(DIGITS, folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"out: holds \S+/out/model.onnx, which would be lost"):
        package.heal(student, folder, TASK, folder, force=True, **QUICK)
    with pytest.raises(UsageError, match=r"out: holds \S+/out/task.yaml, which would be lost"):
        package.heal(student, MODEL, folder / "task.yaml", folder, force=True, **QUICK)
    assert (folder / "model.onnx").read_bytes() == MODEL.read_bytes()
    # The near miss: another output is replaced.
    assert package.heal(student, MODEL, TASK, folder, force=True, **QUICK) is not None
    assert (folder / "report.json").is_file()


def test_figures_after_are_of_the_written_file(student: Path, tmp_path: Path) -> None:
    ir.save(ir.load(student), student, external_data="weights", size_threshold_bytes=1024)
    report = package.heal(student, MODEL, TASK, tmp_path / "out", external_data=False, **QUICK)
    assert report is not None
    assert report.before.bytes == student.stat().st_size + (tmp_path / "weights").stat().st_size
    assert report.after.bytes == (tmp_path / "out" / "model.onnx").stat().st_size != report.before.bytes
    assert report.after.weights == report.before.weights


def test_a_negative_seed_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="seed -1: expected a whole number from 0"):
        package.heal(student, MODEL, TASK, tmp_path / "out", seed=-1, **QUICK)


@pytest.mark.parametrize("change", ["data", "graph", "nothing"])
def test_only_the_same_training_goes_on(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, then with other calibration data under the same name, or another graph with the same weights."""
    shutil.copytree(DIGITS, tmp_path / "data")
    step, started = Training._step, []

    def watched(self: Training, module: Any) -> float:
        started.append(self.progress.step)
        if len(started) == 7:  # in the second epoch
            raise KeyboardInterrupt
        return step(self, module)

    def run(teacher: ir.Model) -> None:
        task = load_task(tmp_path / "data" / "task.yaml")
        options = Heal(epochs=2, batch=46, threads=1)
        heal_model(damaged(), teacher, task, options, 0, ALONE, tmp_path / "state")

    monkeypatch.setattr(Training, "_step", watched)
    with pytest.raises(KeyboardInterrupt):
        run(original())
    teacher = original()
    if change == "graph":
        last = teacher.graph.outputs[0].producer()
        assert last is not None
        last.name = "same"  # names of nodes change nothing
        last.attributes["alpha"] = ir.AttrFloat32("alpha", 0.5)
    if change == "data":
        arrays = dict(np.load(tmp_path / "data" / "calib.npz"))
        first = next(iter(arrays))
        arrays[first] = arrays[first][::-1]
        np.savez(tmp_path / "data" / "calib.npz", **arrays)
    started.clear()
    monkeypatch.setattr(
        Training, "_step", lambda self, module: started.append(self.progress.step) or step(self, module)
    )
    run(teacher)
    assert started[0] == (5 if change == "nothing" else 0)
