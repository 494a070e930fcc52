# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/depth.md: what can be done about depth, side by side, with the cheap controls.

    python docs/results/depth.py DATA_FOLDER WORK_FOLDER [PATTERN ...]
    python docs/results/depth.py DATA_FOLDER WORK_FOLDER latency

A row is kept as a JSON file and a model in WORK_FOLDER, so that an interrupted run goes on where it stopped, and a row
that fails does not keep the others from being made. The page is made of the rows in depth.jsonl beside it, where each
takes the place of an older one. Patterns choose rows by name, such as ``"minilm *seed0"``, and what they start from;
without any, what depth.jsonl lacks is made. Processes may work on different models at a time. The second form is for a
quiet moment: it times all methods of a model whose files are in WORK_FOLDER in one interleaved run.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depth_measure import latencies, measured, model_file
from depth_methods import SEEDS, SUBJECTS, Row, rows
from depth_reading import INTRODUCTION, READING
from rows import commit_rows, keep, kept_rows, made_from, made_now, makers, mean

PAGE = Path(__file__).with_name("depth.md")
KEPT = PAGE.with_suffix(".jsonl")
LATENCIES = PAGE.with_name("depth_latencies.jsonl")
NOT_COMMITTED = ("notes", "model")
Result = Mapping[str, Any]
COMMAND = (
    "Command: `python docs/results/depth.py DATA WORK`; for one row its model, method and seed follow, as in"
    ' `"minilm third removed, healed seed0"`.'
)
BY_BYTES = (
    "method",
    "block bytes",
    "file",
    "MACs",
    "latency",
    "value",
    "change",
    "interval",
    "processor seconds",
    "made",
)
BY_LATENCY = ("method", "latency", "change", "interval")
FASTER = 0.95


def main(data: Path, work: Path, patterns: Sequence[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    if list(patterns) == ["latency"]:
        time_all(data, work)
        patterns = ["page only"]
    listed = {(row.subject, row.method): row for row in rows()}
    there = {_key(one) for one in all_rows(work)}
    for seed, row in [(seed, row) for seed in SEEDS for row in listed.values() if seed in row.seeds]:
        chosen = any(fnmatch.fnmatchcase(row.name(seed), pattern) for pattern in patterns)
        if chosen or (not patterns and (row.subject, row.method, seed) not in there):
            try:
                _make(data, work, row, seed, listed)
            except Exception:  # noqa: BLE001 - hours of other rows wait behind this one
                traceback.print_exc()
    found = all_rows(work)
    commit_rows(KEPT, found)
    PAGE.write_text(page(found, kept_rows(LATENCIES)), encoding="utf-8")


def time_all(data: Path, work: Path) -> None:
    """Time what lies in the work folder; of other methods what was measured before stays."""
    kept = {(one["subject"], one["method"]): one for one in kept_rows(LATENCIES)}
    for subject in SUBJECTS:
        made = [one for one in work_rows(work) if one["subject"] == subject]
        for method, share in (latencies(data, work, subject, made) if made else {}).items():
            kept[subject, method] = {"subject": subject, "method": method, "share": share, **made_now()}
    commit_rows(LATENCIES, list(kept.values()))


def _make(data: Path, work: Path, row: Row, seed: int, listed: Mapping[tuple[str, str], Row]) -> Path:
    """Makes what a row starts from and then the row, unless they are there; the row's model."""
    base = None
    if row.base:
        start = listed[row.subject, row.base]
        base = _make(data, work, start, seed if seed in start.seeds else 0, listed)
    keep(work, row.name(seed), functools.partial(measured, data, work, row, seed, base))
    return model_file(work, row, seed)


def work_rows(work: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in work.glob("*.json")]


def all_rows(work: Path) -> list[dict[str, Any]]:
    """The committed rows and those of the work folder, by model, in the order of the methods and seeds."""
    order = {row.method: number for number, row in enumerate(rows())}
    found = {_key(one): one for one in kept_rows(KEPT)}
    for one in work_rows(work):
        found[_key(one)] = {name: value for name, value in one.items() if name not in NOT_COMMITTED}
    subjects = list(SUBJECTS)
    return sorted(
        found.values(),
        key=lambda one: (subjects.index(one["subject"]), order.get(one["method"], len(order)), one["seed"]),
    )


def _key(row: Result) -> tuple[str, str, int]:
    return row["subject"], row["method"], row["seed"]


def page(found: Sequence[Result], timed: Sequence[Result]) -> str:
    lines = ["# Folding depth", "", INTRODUCTION, COMMAND, "", *(f"- {made}" for made in makers(found))]
    if timed:
        lines += [f"- Latencies: {made}" for made in makers(timed)]
    for subject in SUBJECTS:
        mine = [one for one in found if one["subject"] == subject]
        latency = {one["method"]: one["share"] for one in timed if one["subject"] == subject}
        lines += ["", *section(subject, mine, latency)] if mine else []
    return "\n".join([*lines, "", "## Reading", "", READING, "## The recipes", "", *made_from(found), ""])


def section(subject: str, results: Sequence[Result], latency: Mapping[str, float]) -> list[str]:
    """A model's methods by the bytes that they store, then those that are faster by their latency."""
    methods: dict[str, list[Result]] = {}
    for one in results:
        methods.setdefault(one["method"], []).append(one)
    stored = sorted(methods.values(), key=lambda of: -mean(of, "block_share"))
    faster = sorted((share, method) for method, share in latency.items() if share < FASTER and method in methods)
    by_latency = [
        "",
        "By latency:",
        "",
        table(BY_LATENCY),
        *(f"| {method} | {share:.2f} | {shown_change(methods[method])} |" for share, method in faster),
    ]
    return [
        f"## {subject}: {results[0]['metric']} {results[0]['fp32']:.4f} in float32",
        "",
        "By stored bytes:",
        "",
        table(BY_BYTES),
        *(by_bytes(of, latency.get(of[0]["method"])) for of in stored),
        *(by_latency if faster else []),
    ]


def by_bytes(of: Sequence[Result], latency: float | None) -> str:
    macs = of[0]["macs_share"]
    cells = (
        of[0]["method"],
        f"1/{1 / mean(of, 'block_share'):.2f}",
        f"{mean(of, 'bytes') / 1e6:.2f} MB",
        "" if macs is None else f"{macs:.2f}",
        "" if latency is None else f"{latency:.2f}",
        f"{mean(of, 'value'):.4f}",
        shown_change(of),
        f"{mean(of, 'seconds'):.0f}",
        max(one["date"] for one in of),
    )
    return f"| {' | '.join(cells)} |"


def shown_change(of: Sequence[Result]) -> str:
    """Mean change, relative change, and the interval (one seed) or the range (several)."""
    changes = [one["change"] for one in of]
    low, high = of[0]["interval"] if len(of) == 1 else (min(changes), max(changes))
    seeds = "" if len(of) == 1 else f", {len(of)} seeds"
    relative = 100 * mean(of, "change") / of[0]["fp32"]
    return f"{mean(of, 'change'):+.4f} ({relative:+.2f} %) | {low:+.4f} to {high:+.4f}{seeds}"


def table(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
