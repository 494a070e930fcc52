# SPDX-License-Identifier: Apache-2.0
"""Instructions of one call of every kernel family, counted by callgrind and compared with a committed baseline.

    python runtime/bench/count_instructions.py [--binary build/runtime/count_instructions] [--tolerance 2] [--update]

Counts do not feel what else the machine runs, so they show a regression of a percent where times show none; but they
say nothing of stalls and caches. Prints a line for each call with its change in percent against the baseline; exit
status 1 where one grew by more than the tolerance, or the calls are not those of the baseline. `--update` writes the
baseline anew. Counts of another compiler or instruction set are not comparable and are refused: exit status 2.
Valgrind runs no AVX-512, so on x86-64 the kernels counted are those of AVX2.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "build" / "runtime" / "count_instructions"
BASELINE = Path(__file__).with_name("instructions.json")
COUNTED = "edgefold_counted_call"


class UncountableError(Exception):
    """What stands in the way of a count or of a comparison, in one line."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """Instructions by name of the call, of what was built by one compiler for one instruction set."""

    built: str
    calls: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Change:
    """One call now and in the baseline; None where it is missing there."""

    name: str
    now: int | None
    before: int | None

    @property
    def percent(self) -> float | None:
        return None if self.now is None or not self.before else 100.0 * (self.now - self.before) / self.before

    def fails(self, tolerance: float) -> bool:
        return self.percent is None or self.percent > tolerance


def count(binary: Path) -> Counts:
    """Runs the program once; callgrind writes a file after each counted call."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise UncountableError("valgrind is not installed (Debian: valgrind)")
    if not binary.is_file():
        raise UncountableError(f"{binary} is not there: build the target count_instructions, or name it by --binary")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        only = (f"--toggle-collect={COUNTED}", f"--dump-after={COUNTED}")
        command = [valgrind, "-q", "--tool=callgrind", f"--callgrind-out-file={out}", *only, str(binary)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise UncountableError(f"{binary} failed under valgrind: {done.stderr.strip()[-500:]}")
        built, *names = done.stdout.splitlines()
        return Counts(built, {name: _instructions(Path(f"{out}.{i}")) for i, name in enumerate(names, 1)})


def _instructions(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise UncountableError(f"callgrind wrote no count: {dump.name}")
    return int(found[1])


def compare(now: Counts, before: Counts) -> list[Change]:
    """All calls of both, those of the baseline first."""
    if now.built != before.built:
        raise UncountableError(f"the baseline is of '{before.built}', this build of '{now.built}': not comparable")
    names = dict.fromkeys((*before.calls, *now.calls))
    return [Change(name, now.calls.get(name), before.calls.get(name)) for name in names]


def load(path: Path) -> Counts:
    return Counts(**json.loads(path.read_text(encoding="utf-8")))


def save(counts: Counts, path: Path) -> None:
    path.write_text(json.dumps(dataclasses.asdict(counts), indent=1) + "\n", encoding="utf-8")


def table(changes: list[Change], tolerance: float) -> str:
    lines = [f"{'call':<44} {'baseline':>12} {'now':>12} {'change':>8}"]
    for change in changes:
        if change.percent is None:
            verdict = "on one side only"
        else:
            verdict = f"{change.percent:+.2f}%" + ("  above the tolerance" if change.fails(tolerance) else "")
        lines.append(f"{change.name:<44} {_number(change.before)} {_number(change.now)} {verdict:>8}")
    return "\n".join(lines)


def _number(value: int | None) -> str:
    return f"{'-' if value is None else format(value, ','):>12}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--json", type=Path, help="where to write the counts")
    parser.add_argument("--tolerance", type=float, default=2.0, help="percent by which a count may grow")
    parser.add_argument("--update", action="store_true", help="make this count the baseline")
    options = parser.parse_args(arguments)
    try:
        now = count(options.binary)
        if options.json:
            save(now, options.json)
        if options.update:
            save(now, options.baseline)
        changes = compare(now, load(options.baseline))
    except UncountableError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{now.built}\n{table(changes, options.tolerance)}")
    return 1 if any(change.fails(options.tolerance) for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
