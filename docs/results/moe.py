# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/moe.md: what can be done about the experts of a model, at equal stored bytes.

    python docs/results/moe.py WORK_FOLDER MODEL_FOLDER [MODEL_FOLDER ...] [--rows PATTERN]
    python docs/results/moe.py WORK_FOLDER MODEL_FOLDER [MODEL_FOLDER ...] --latency

A model folder holds `model.onnx`, `task.yaml` and, beside the task's data, `train.npz` to heal on. A row is kept as a
JSON file and a model in WORK_FOLDER, so that an interrupted run goes on where it stopped, and a row that fails does
not keep the others from being made. The second form is for a quiet moment: it times the rows made so far.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import math
import statistics
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_measure import dispatched, latencies, measured, model_file
from moe_methods import Row, rows
from rows import keep, machine_line, made_from, mean

HERE = Path(__file__).resolve().parent
Result = Mapping[str, Any]
INTRODUCTION = (
    "Every method starts from the same model with its layers in dispatch form and touches the experts only. Bytes are",
    "those of the tensors that experts read, over the original's in float32. `nats` is the increase of the evaluation",
    "loss a token, mean over seeds of calibration; `range` is over two seeds, or the paired 95 % interval of one, in",
    "nats too. `memory` is the resident memory that opening the file and running 64 tokens adds; `one` and `64` are",
    "times of as many tokens over the original's in one interleaved run, two threads. Of the text that models write",
    "(greedy, 16 rows of 64 tokens), `distinct` is the share of 4-grams that are new in their row, `surprise` the",
    "original's loss.",
    "Everything is chosen and fitted on calibration data.",
)
COLUMNS = (
    "method",
    "expert bytes",
    "tensors",
    "nats",
    "range",
    "memory",
    "one",
    "64",
    "distinct",
    "surprise",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--rows", default="*")
    parser.add_argument("--latency", action="store_true")
    options = parser.parse_args()
    for folder in options.folders:
        work = options.work / folder.name
        work.mkdir(parents=True, exist_ok=True)
        if options.latency:
            _time(work)
        else:
            _make_all(folder, work, options.rows)
    (HERE / "moe.md").write_text(page(options.work, [folder.name for folder in options.folders]), encoding="utf-8")


def _make_all(folder: Path, work: Path, pattern: str) -> None:
    listed = {row.name: row for row in rows()}
    for row in listed.values():
        for seed in row.seeds:
            if fnmatch.fnmatchcase(row.name, pattern):
                try:
                    _make(folder, work, row, seed, listed)
                except Exception:  # noqa: BLE001 - hours of other rows wait behind this one
                    traceback.print_exc()


def _make(folder: Path, work: Path, row: Row, seed: int, listed: Mapping[str, Row]) -> Path:
    """Makes what a row starts from and then the row, unless they are there; the row's model."""
    base = dispatched(folder, work)
    if row.base:
        start = listed[row.base]
        base = _make(folder, work, start, seed if seed in start.seeds else 0, listed)
    keep(work, f"{row.name} seed{seed}".replace("/", "-"), functools.partial(measured, folder, work, row, seed, base))
    return model_file(work, row.name, seed)


def _time(work: Path) -> None:
    found = {one["method"]: model_file(work, one["method"], 0) for one in results(work) if one["seed"] == 0}
    times = {str(length): latencies(found, length) for length in (1, 64)}
    (work / "latency").write_text(json.dumps(times, indent=1))


def results(work: Path) -> list[Result]:
    """All rows made so far, in the order of the methods."""
    order = {row.name: number for number, row in enumerate(rows())}
    found = [json.loads(path.read_text()) for path in work.glob("*.json")]
    return sorted(found, key=lambda one: (order.get(one["method"], len(order)), one["seed"]))


def page(work: Path, names: Sequence[str]) -> str:
    lines = [
        "# Mixtures of experts",
        "",
        *INTRODUCTION,
        "",
        machine_line(),
        "Command: `python docs/results/moe.py WORK DATA...`.",
    ]
    for name in names:
        lines += section(name, results(work / name), work / name / "latency")
    reading = HERE / "moe_reading.md"
    made = made_from(next((found for name in names if (found := results(work / name))), []))
    return "\n".join([*lines, "", reading.read_text().rstrip(), "", "## The rows", "", *made, ""])


def section(name: str, found: Sequence[Result], timed: Path) -> list[str]:
    """The methods of one model by the bytes that they store."""
    if not found:
        return []
    times = json.loads(timed.read_text()) if timed.exists() else {"1": {}, "64": {}}
    methods: dict[str, list[Result]] = {}
    for one in found:
        methods.setdefault(one["method"], []).append(one)
    stored = sorted(methods.values(), key=lambda of: (-round(mean(of, "expert_share"), 2), mean(of, "nats")))
    title = f"## {name}: perplexity {found[0]['original']:.4f}"
    return [
        "",
        title,
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(_line(of, times) for of in stored),
    ]


def _line(of: Sequence[Result], times: Mapping[str, Mapping[str, float]]) -> str:
    low, high = _range(of)
    method = of[0]["method"]
    cells = (
        method,
        f"1/{1 / mean(of, 'expert_share'):.2f}",
        f"{mean(of, 'tensors'):.0f}",
        f"{mean(of, 'nats'):+.4f}",
        f"{low:+.4f} to {high:+.4f}",
        f"{mean(of, 'peak') / 1e6:.1f} MB",
        *(f"{times[length][method]:.2f}" if method in times[length] else "" for length in ("1", "64")),
        *(f"{statistics.mean(one['text'][key] for one in of):.2f}" for key in ("distinct", "surprise")),
        f"{mean(of, 'seconds'):.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _range(of: Sequence[Result]) -> tuple[float, float]:
    """The least and the largest increase of the loss, in nats.

    Of one seed, the ends of the paired interval: rows hold it as a difference of perplexities.
    """
    if len(of) > 1:
        nats = [float(one["nats"]) for one in of]
        return min(nats), max(nats)
    [one] = of
    low, high = (math.log1p(end / one["original"]) for end in one["interval"])
    return low, high


if __name__ == "__main__":
    main()
