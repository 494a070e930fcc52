# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/removal_repaired.md: every choice of two blocks, before and after the rest is refitted.

    python docs/results/removal_repaired.py DATA WORK [MODEL COUNT]

DATA holds the models and their tasks, WORK keeps a row a choice, so that a run may be stopped and repeated. The model
is the character GPT of charlm_training.py unless another is named. Errors are those by which `remove-blocks` judges,
on calibration data; the metric is on the evaluation set.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from removal import _key, _read
from rows import inputs, keep, machine_line, model_and_task

from edgefold.calibration_batches import every_second
from edgefold.files.loading import load_model
from edgefold.passes.depth.selection import RUNS, SHORTLIST
from edgefold.passes.depth.truncation import blocks_of
from edgefold.perturbing import Departure
from edgefold.pipeline import Inputs, raise_to_minimum_opset, run_recipe
from edgefold.recipe import parse_recipe
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import Task

PAGE = Path(__file__).with_suffix(".md")


def main(data: Path, work: Path, name: str = "gpt_charlm_longer/model", count: str = "2") -> None:
    path, task = model_and_task(data, name)
    given = inputs(path, task)
    model, _ = raise_to_minimum_opset(load_model(path).model, given)
    folder = work / name.replace("/", ".")
    folder.mkdir(parents=True, exist_ok=True)
    blocks = range(len(blocks_of(model)))
    choices = list(itertools.combinations(blocks, int(count)))
    for gone in choices:
        kept = [number for number in blocks if number not in gone]
        keep(folder, f"pair {_key(gone)}", functools.partial(measured, model, kept, len(gone), given, task))
    rows = {gone: _read(folder / f"pair_{_key(gone)}.json") for gone in choices}
    PAGE.write_text(page(name, evaluate(model, task, threads=1).value, rows), encoding="utf-8")


def measured(model: ir.Model, kept: Sequence[int], count: int, given: Inputs, task: Task) -> dict[str, Any]:
    """Errors and metrics without all blocks but these."""
    assert given.calibration is not None
    halves = [functools.partial(every_second, given.calibration, half) for half in (0, 1)]
    found = {}
    for repair in ("none", "least-squares"):
        step = {"pass": "remove-blocks", "blocks": count, "keep": list(kept), "repair": repair, "criterion": "last"}
        [parsed] = parse_recipe({"steps": [step]}, "removal").steps
        even = Inputs(given.probe, halves[0], given.shapes, classes=given.classes)
        judged = run_recipe(model, [parsed], even)
        found[f"{repair} error"] = Departure(model, halves[1], classes=given.classes)(judged)
        found[f"{repair} metric"] = evaluate(run_recipe(model, [parsed], given), task, threads=1).value
    return found


def page(name: str, whole: float, rows: dict[tuple[int, ...], dict[str, Any]]) -> str:
    """The choices, those first that are least without a refit."""
    order = sorted(rows, key=lambda gone: rows[gone]["none error"])
    runs = [gone for gone in order if gone[-1] - gone[0] == len(gone) - 1]
    asked = order[: SHORTLIST - RUNS]
    asked += [gone for gone in runs if gone not in asked][:RUNS]
    chosen = min(asked, key=lambda gone: rows[gone]["least-squares error"])
    lines = [
        "# Which blocks to remove where the rest is refitted",
        "",
        f"{machine_line()} Command: `python docs/results/removal_repaired.py DATA WORK`.",
        "",
        f"`{name}`, {whole:.4f} with all blocks. Error: of the outputs on the odd batches of the calibration data, as",
        "`remove-blocks` measures it, as blocks are and refitted on the even ones. Metric: on the evaluation set, as",
        f"blocks are and refitted on all batches. `judged`: the {len(asked)} choices that `criterion: repaired`",
        "refits.",
        "",
        "| without | error | refitted | metric | refitted | |",
        "|---|---|---|---|---|---|",
    ]
    for gone in order:
        row = rows[gone]
        said = "taken by `repaired`" if gone == chosen else "judged" if gone in asked else ""
        said += ", by `exhaustive`" if gone == order[0] else ""
        cells = [", ".join(map(str, gone)), *(f"{row[f'{r} error']:.4f}" for r in ("none", "least-squares"))]
        cells += [*(f"{row[f'{r} metric']:.4f}" for r in ("none", "least-squares")), said.removeprefix(", ")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
