# SPDX-License-Identifier: Apache-2.0
"""What the pages of results share: rows that survive an interruption, and models scored against their originals.

A page whose rows take hours has them committed beside it, a line of JSON each: the page is made of these, and a row
that is made anew takes the place of the old one. Models lie in the work folder alone.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgefold.files.loading import load_model
from edgefold.heal.differentiation import differentiator
from edgefold.interface import ModelInterface
from edgefold.measuring.machine import this_machine
from edgefold.measuring.measure import model_macs
from edgefold.pipeline import Feeds, Inputs
from edgefold.plan import class_scores
from edgefold.provenance import versions
from edgefold.scoring.evaluate import Evaluation, evaluate, paired_difference
from edgefold.scoring.task import Task, load_task
from edgefold.session import make_session


def keep(work: Path, name: str, make: Callable[[], dict[str, Any]]) -> None:
    """Make a row unless it is there."""
    record = work / f"{name.replace('/', '.').replace(' ', '_')}.json"
    if not record.exists():
        print(name, flush=True)
        record.write_text(json.dumps(make(), indent=1))


def kept_rows(path: Path) -> list[dict[str, Any]]:
    """The committed rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def commit_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows beside the page."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def made_now() -> dict[str, str]:
    """When and where a row is made."""
    return {"date": dt.datetime.now(dt.UTC).date().isoformat(), "on": machine_line()}


def makers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The machines that made the rows, the latest first, each with how many and when."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["on"], []).append(row["date"])
    dates = {on: sorted(set(of)) for on, of in found.items()}
    order = sorted(found, key=lambda on: dates[on][-1], reverse=True)
    return [f"{len(found[on])} rows of {' and '.join(dates[on])}. {on}" for on in order]


def inputs(path: Path, task: Task) -> Inputs:
    """What the pipeline may run the model on: the task's calibration split."""
    interface = ModelInterface.of(make_session(path))
    first = next(task.batches(interface, "calibration", 4)).feeds
    shapes = {name: (1, *value.shape[1:]) for name, value in first.items()}

    def calibration() -> Iterator[Feeds]:
        return (one.feeds for one in task.batches(interface, "calibration"))

    classes = class_scores(task, interface)
    return Inputs(first, calibration, shapes, gradients=differentiator(task), classes=classes)


@functools.cache
def score(path: Path, task_path: Path) -> Evaluation:
    return evaluate(path, load_task(task_path), threads=1)


def compared(path: Path, out: Path, task: Task) -> dict[str, Any]:
    """The metric of a changed model beside that of its original, with the paired 95 % interval."""
    before, after = score(path, task.path), evaluate(out, task, threads=1)
    change, interval = paired_difference(after, before)
    return {
        "metric": after.metric,
        "fp32": before.value,
        "value": after.value,
        "change": change,
        "interval": list(interval),
    }


def model_and_task(data: Path, name: str) -> tuple[Path, Task]:
    path = data / f"{name}.onnx"
    return path, load_task(path.parent / "task.yaml")


def macs(path: Path, task: Task) -> int:
    count = model_macs(load_model(path).model, inputs(path, task).shapes)
    assert count is not None
    return count


def machine_line() -> str:
    """Where the rows were made, and with what."""
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    machine = this_machine()
    features = " ".join(name for name in ("avx2", "avx512f", "avx512_vnni") if name in machine.features)
    return f"Machine: {machine.cpu}{f' ({features})' if features else ''}; {built_with}."


def mean(of: Sequence[Mapping[str, Any]], key: str) -> float:
    """Of one figure over several results."""
    return statistics.mean(float(one[key]) for one in of)


def made_from(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each row is made from and by, for the first seed of each."""
    lines = []
    for one in found:
        if one["seed"] == 0 and one["steps"]:
            steps = yaml.safe_dump(one["steps"], default_flow_style=True, sort_keys=False, width=10**6).strip()
            subject = f"{one['subject']}, " if "subject" in one else ""
            task = f", on {one['task']}.yaml" if one.get("task", "task") != "task" else ""
            lines.append(f"- {subject}{one['method']}, from {one['base'] or 'the original'}{task}: `{steps}`")
    return lines
