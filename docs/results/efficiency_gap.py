# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/efficiency_gap.md and .svg: real models on three backends beside what this machine could do.

    python docs/results/efficiency_gap.py DATA_FOLDER WORK_FOLDER [NAME ...]

What is compressed stays in WORK_FOLDER, with one JSON file of times a model. Delete the JSON files to time again, on a
machine that does nothing else: forms of a model are timed one after the other, not in turns.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rows import keep, machine_line

from edgefold.compression import compress
from edgefold.files.loading import load_model
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.waterline.analysis import BlockRow
from edgefold.measuring.waterline.ceilings import ceilings
from edgefold.measuring.waterline.gap import (
    BLOCKS_HEADER,
    HEADER,
    LOSSES_HEADER,
    EfficiencyGap,
    GapRow,
    blocks_cells,
    cells,
    gap_row,
)
from edgefold.measuring.waterline.gap_picture import draw
from edgefold.measuring.waterline.measure import waterline
from edgefold.measuring.waterline.operators import OperatorGap, operator_cells
from edgefold.scoring.task import load_task

HERE = Path(__file__).resolve().parent
TOKENS = (1, 128)
TURNS = 5  # the quickest of each form counts: a shared machine has slow moments
MODELS: dict[str, dict[str, tuple[int, ...]]] = {
    "imagenet_mobilenetv2": {},
    "imagenet_squeezenet11": {"data": (1, 3, 227, 227)},
    "cifar_resnet56": {"input": (1, 3, 32, 32)},
    "keras_mobilenetv1_vww": {"input_1": (1, 96, 96, 3)},
    "minilm": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), TOKENS),
    "gpt_charlm": {"input_ids": TOKENS},
    "moe_charlm": {"input_ids": TOKENS},
}
READING = (
    "- An int8 form has 0.23 to 0.40 of the float form's floor. EdgeFold's takes 0.23 to 0.43 of its time (0.67 for",
    "  keras_mobilenetv1_vww), ONNX Runtime's 0.40 to 0.57 (1.0 for the same).",
    "- Of convolutional models ONNX Runtime's float forms are at 76 to 98 % of the machine, its integer ones at 43 to",
    "  61 %, EdgeFold's at 51 to 71 %. Of keras_mobilenetv1_vww all less, for its convolutions of some 10 microseconds",
    "  are too short to come near a floor.",
    "- Nearly all of the gap of convolutional models lies in the convolutions themselves and not between them: in",
    "  EdgeFold `FusedConvBlock` (squeezenet) and `FusedInvertedResidual` (mobilenetv2) are what to make faster. Of",
    "  minilm it is attention, whose softmax no floor counts, then feed-forward halves.",
    "- Milliseconds lost in operators are of ONNX Runtime's profile, which counts whole microseconds and takes time",
    "  itself. Where nodes are many and small they add up to more than time less floor.",
    "- EdgeFold's floor of moe_charlm is too low: how many experts a token meets is in no shape, so that `ShiftMoE`",
    "  counts its bytes and no operations. [moe_kernel.md](moe_kernel.md) has the operator beside its work.",
)


def main(data: Path, work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name in names or MODELS:
        keep(work, name, lambda name=name: {"rows": [asdict(row) for row in measure(data / name / "model.onnx", work)]})
    found = [json.loads(path.read_text()) for name in MODELS if (path := work / f"{name}.json").exists()]
    gap = EfficiencyGap(ceilings(), tuple(_row(row) for one in found for row in one["rows"]))
    (HERE / "efficiency_gap.svg").write_text(draw(gap), encoding="utf-8")
    (HERE / "efficiency_gap.md").write_text(page(gap), encoding="utf-8")


def measure(model: Path, work: Path) -> list[GapRow]:
    """The model as it is, ONNX Runtime's int8 form, and the recipe fused."""
    name = model.parent.name
    task = load_task(model.parent / "task.yaml")
    int8, fused = work / f"{name}.int8.onnx", work / f"{name}.fused"
    if not int8.exists():
        kind = "ort-int8-dynamic" if "input_ids" in MODELS[name] else "ort-int8-static"
        build_baseline(model, kind, task, work).path.rename(int8)
    if not fused.exists():
        compress(model, fused, "fused", task.path, seed=0)
    forms = {"ORT fp32": model, "ORT int8": int8, "EdgeFold": fused / "model.onnx"}
    best: dict[str, GapRow] = {}
    for form, path in [*forms.items()] * TURNS:
        row = gap_row(name, form, waterline(load_model(path), MODELS[name]))
        best[form] = min(best.get(form, row), row, key=lambda one: one.time_ms)
    return list(best.values())


def _row(kept: dict[str, Any]) -> GapRow:
    operators = tuple(OperatorGap(**one) for one in kept["operators"])
    return GapRow(**kept | {"operators": operators, "blocks": tuple(BlockRow(**one) for one in kept["blocks"])})


def page(gap: EfficiencyGap) -> str:
    losses = [(row.model, row.form, *operator_cells(one)) for row, one in gap.losses() if one.lost_ms >= 0.4]
    lines = [
        "# The efficiency gap",
        "",
        "How far real models stand from what one core of this machine could do, on three backends: ONNX Runtime with",
        "the float model, ONNX Runtime with its int8 form (static QDQ; dynamic for models of tokens), and EdgeFold",
        "with the recipe `fused`. The **floor** of a form is the sum over its operators of the longer of two times:",
        "its operations at the highest speed of their type, and its bytes from the level of memory that can hold",
        "them. **Time** is that of a run of the whole model without a profile, **of floor** is floor / time. A smaller",
        "or cheaper model moves the floor; better kernels move the time.",
        "`edgefold inspect -m A -m B --waterline --picture gap.svg` draws this for any models.",
        "",
        "![The efficiency gap](efficiency_gap.svg)",
        "",
        f"{machine_line()} Command: `python docs/results/efficiency_gap.py DATA WORK`. One sample (128 tokens)",
        f"at a time, median of the runs in half a second, the quickest of a form's {TURNS} turns; of operators and",
        f"blocks lower quartiles in the profile of that turn; {gap.ceilings.to_text()}.",
        "",
        *_markdown(HEADER, [cells(row) for row in gap.rows]),
        "",
        *READING,
        *(("",) if READING else ()),
        "## Residual blocks",
        "",
        "Sums over the repeated residual blocks of each form that has some: how many nodes compute them, the floor of",
        "these nodes, that of one kernel a block (**fused floor**), and their times in the profile.",
        "",
        *_markdown(BLOCKS_HEADER, [blocks_cells(row) for row in gap.rows if row.blocks]),
        "",
        "## Where the gap lies",
        "",
        "Operators of the rows above by the milliseconds in which they are slower than their floor; those that lose",
        "less than 0.4 ms or a fiftieth of their row are left out.",
        "",
        *_markdown(LOSSES_HEADER, losses),
        "",
    ]
    return "\n".join(lines)


def _markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(one)} |" for one in (header, ("---",) * len(header), *rows)]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
