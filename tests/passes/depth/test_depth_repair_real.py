# SPDX-License-Identifier: Apache-2.0
"""On real models: without blocks the outputs go wrong, and repair makes up for a good part of it on data not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.interface import ModelInterface
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.depth.surgery import cut_out
from edgefold.scoring.task import load_task
from edgefold.session import make_session, run

Feeds = list[dict[str, np.ndarray]]


def loss(model: ir.Model, original: ir.Model, feeds: Feeds) -> float:
    sessions = [make_session(one, threads=1) for one in (model, original)]
    pairs = [[run(session, None, feed)[0] for session in sessions] for feed in feeds]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(b).sum() for _, b in pairs))


@pytest.mark.parametrize(
    ("name", "gone", "most"), [("vit_mnist", (2, 3), 0.7), ("cifar_resnet20", (1, 4), 0.6)], ids=lambda one: str(one)
)
def test_repair_is_worth_much(name: str, gone: tuple[int, ...], most: float, data_folder: Path) -> None:
    if not (data_folder / name).exists():
        pytest.skip(f"{name} is not there")
    model = load_model(data_folder / name / "model.onnx").model
    task = load_task(data_folder / name / "task.yaml")
    interface = ModelInterface.of(make_session(model))
    feeds = [batch.feeds for batch in task.batches(interface, "calibration", 400)]
    cut = model.clone()
    blocks = [block for stack in find_stacks(cut) for block in stack.blocks]
    parts = [blocks[number] for number in gone]
    targets = {str(part.start.name): str(part.end.name) for part in parts}
    if len(set(targets) | set(targets.values())) < 4:  # they follow one another
        targets = {str(parts[0].start.name): str(parts[-1].end.name)}
    cut_out(cut, *parts)
    fitted = cut.clone()
    repair_depth(fitted, Uncut(model, Calibration(model, lambda: iter(feeds[:3]), threads=1)), targets)
    assert loss(fitted, model, feeds[3:]) < most * loss(cut, model, feeds[3:])
