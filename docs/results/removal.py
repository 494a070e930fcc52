# SPDX-License-Identifier: Apache-2.0
"""Which blocks each criterion of `remove-blocks` takes, and where its choice ranks among all choices.

    python docs/results/removal.py DATA WORK [MODEL COUNT ...]

DATA holds the models and their tasks, WORK keeps a row a choice, so that a run may be stopped and repeated. Each model
loses 1 to COUNT of its blocks; it is the character GPT, as it was given and as `charlm_training.py` trains it on, at 1
to 5 of its 6 blocks unless others are named. Nothing is repaired or healed, so that only the choice counts; the
criteria see calibration data, the rank is by the metric on the evaluation set.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from rows import inputs, keep, machine_line, model_and_task

from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.heal.differentiation import gate_learner
from edgefold.measuring.macs import macs_by_name
from edgefold.passes import Context
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.budget import ByCount
from edgefold.passes.depth.candidates import Candidate, candidates, moves
from edgefold.passes.depth.judges import OutputError
from edgefold.passes.depth.selection import Criterion, Selector
from edgefold.passes.depth.surgery import cut_out
from edgefold.perturbing import perturb
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import Task

PAGE = Path(__file__).with_name("removal.md")
CRITERIA: tuple[Criterion, ...] = (
    "exhaustive", "greedy", "block-influence", "macro-influence", "gates", "last", "random"
)  # fmt: skip
SEEDS = {"random": range(5), "gates": range(3)}
COMMAND = "Command: `python docs/results/removal.py DATA WORK`."
EPILOGUE = """Loss: what `max-error` counts, on 64 calibration samples. Rank 1 of n: no choice of
as many blocks is better on the evaluation set. Nothing was repaired or healed.

The gates, learnt jointly, and greedy loss choose what exhaustive search chooses, the best on the evaluation
set too, at every count and on both models; the gates with each of three seeds, in about a minute of processor time.
Block influence takes the third best choice at two, three and four blocks, and on the model trained to its end the
fifth, tenth and fifth best."""


def found_in(path: Path, task: Task) -> tuple[list[Candidate], Any]:
    """The blocks that may go, and the model that holds them."""
    model = load_model(path).model
    macs = macs_by_name(model, inputs(path, task).shapes)
    found, _ = candidates(find_stacks(model), "blocks", macs, keep=(), excludes=lambda name: False)
    return found, model


def value_without(path: Path, task: Task, gone: Sequence[int]) -> float:
    """The metric on the evaluation set without some blocks."""
    found, model = found_in(path, task)
    cut_out(model, *(found[position].part for position in gone))
    return evaluate(model, task, threads=1).value


def all_losses(path: Path, task: Task, choices: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """What the calibration data say of every choice."""
    found, model = found_in(path, task)
    judge = OutputError(model, [one.part for one in found], context(path, task, model, 0).divergence)  # type: ignore[arg-type]
    return {_key(one): judge(frozenset(one)) for one in choices}


def context(path: Path, task: Task, model: Any, seed: int) -> Context:
    given = inputs(path, task)
    assert given.calibration is not None
    return Context(
        calibration=Calibration(model, given.calibration, seed=seed, threads=1),
        divergence=functools.partial(perturb, feeds=given.calibration, classes=given.classes),
        learn_gates=gate_learner(task, seed),
        seed=seed,
    )


def selected(path: Path, task: Task, criterion: Criterion, count: int, seed: int) -> dict[str, Any]:
    found, model = found_in(path, task)
    selector = Selector.of(model, found, moves(found, "blocks"), context(path, task, model, seed))
    selection = selector.select(criterion, ByCount(found, Fraction(count)))
    assert selection.criterion == criterion, selection.skips
    return {"gone": sorted(selection.gone), "scores": [float(f"{loss:.4g}") for loss in selection.losses]}


def measure(data: Path, work: Path, name: str, most: int) -> None:
    path, task = model_and_task(data, name)
    blocks = len(found_in(path, task)[0])
    choices = [gone for size in range(most + 1) for gone in itertools.combinations(range(blocks), size)]
    folder = work / name.replace("/", ".")
    folder.mkdir(parents=True, exist_ok=True)
    keep(folder, "losses", lambda: all_losses(path, task, choices[1:]))
    for gone in choices:
        keep(folder, f"without {_key(gone)}", lambda gone=gone: {"value": value_without(path, task, gone)})
    for criterion, count in itertools.product(CRITERIA, range(1, most + 1)):
        for seed in SEEDS.get(criterion, (0,)):
            row = functools.partial(selected, path, task, criterion, count, seed)
            keep(folder, f"{criterion} {count} {seed}", row)


def page(work: Path, name: str, most: int, lower_is_better: bool) -> Iterator[str]:
    folder = work / name.replace("/", ".")
    values = {row.stem.removeprefix("without_"): _read(row)["value"] for row in folder.glob("without_*")}
    losses = _read(folder / "losses.json")
    yield f"## {name}: {values['']:.4f} with all blocks\n"
    yield "| blocks out | criterion | takes | loss | metric | rank |\n|---|---|---|---|---|---|"
    for count, criterion in itertools.product(range(1, most + 1), CRITERIA):
        rivals = [value for key, value in values.items() if key and key.count("-") == count - 1]
        rivals.sort(reverse=not lower_is_better)
        for seed in SEEDS.get(criterion, (0,)):
            key = _key(_read(folder / f"{criterion}_{count}_{seed}.json")["gone"])
            rank = rivals.index(values[key]) + 1
            label = f"{criterion}, seed {seed}" if criterion in SEEDS else criterion
            taken = key.replace("-", ", ")
            yield f"| {count} | {label} | {taken} | {losses[key]:.4f} | {values[key]:.4f} | {rank} of {len(rivals)} |"


def _read(row: Path) -> Any:
    return json.loads(row.read_text())


def _key(gone: Sequence[int]) -> str:
    return "-".join(map(str, gone))


def main(data: Path, work: Path, *named: str) -> None:
    named = named or ("gpt_charlm/model", "5", "gpt_charlm_longer/model", "5")
    sections = []
    for name, count in zip(named[::2], named[1::2], strict=True):
        measure(data, work, name, int(count))
        lower_is_better = model_and_task(data, name)[1].metric.name == "perplexity"
        sections.append("\n".join(page(work, name, int(count), lower_is_better)))
    title = "# Which blocks to remove: criteria against exhaustive search"
    PAGE.write_text("\n\n".join([title, f"{machine_line()} {COMMAND}", *sections, EPILOGUE]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
