# SPDX-License-Identifier: Apache-2.0
"""Healing a model with an input that has one value for all samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from edgefold.errors import UsageError
from edgefold.heal.engine import heal_model
from edgefold.heal.processes import Processes, chosen_device
from edgefold.passes.heal import Heal
from edgefold.scoring.task import Task, load_task

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float gain, float[n, 2] x) => (float[n, 2] y) <float[2, 2] w = {WEIGHTS}> { h = MatMul (x, w) y = Mul (h, gain) }"""
TASK = """
data: data.npz
inputs: {gain: {array: gain}, x: {array: x}}
metric: {name: mse, labels: y}
calibration: {data: data.npz}
batch: 8
"""


def task(folder: Path, gain: np.ndarray) -> Task:
    x = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    np.savez(folder / "data.npz", gain=gain, x=x, y=x)
    (folder / "task.yaml").write_text(TASK)
    return load_task(folder / "task.yaml")


def healed(task: Task) -> tuple[float, float]:
    """Loss before and after."""
    student, teacher = (ir.from_onnx_text(MODEL.replace("WEIGHTS", w)) for w in ("1.1, 0, 0, 0.9", "1, 0, 0, 1"))
    alone = Processes(0, 1, chosen_device("cpu"))
    stats = heal_model(student, teacher, task, Heal(epochs=4, batch=8), 0, alone).stats()
    return float(stats["held_out_loss_before"]), float(stats["held_out_loss_after"])


def test_every_batch_is_given_the_scalar(tmp_path: Path) -> None:
    before, after = healed(task(tmp_path, np.full(40, 3, np.float32)))
    assert after < before


def test_scalars_that_differ_between_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="healing takes samples of all batches together, and 'gain' differs"):
        healed(task(tmp_path, np.repeat(np.arange(5, dtype=np.float32), 8)))
