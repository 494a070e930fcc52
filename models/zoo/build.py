# SPDX-License-Identifier: Apache-2.0
"""Writes ONNX files of one source into OUT/SOURCE; see README.md for what to install.

    python models/zoo/build.py SOURCE OUT [NAME ...]

Each file is made in a process of its own, so that an exporter that crashes costs one row. A file that is there is
kept. What could not be made is listed in OUT/SOURCE/failures.json with the last line of its error.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 400
PLAIN = {**os.environ, "JAX_TRACEBACK_FILTERING": "off"}  # else the last line of an error says nothing
Writer = Callable[[Path], None]


def writers(source: str) -> dict[str, Writer]:
    """Name -> a function that writes its file."""
    if source.startswith("torch-"):
        export = importlib.import_module("torch_export").export
        listed = importlib.import_module("torch_zoo").catalogue()
        return {name: partial(export, build, example, source) for name, (build, example) in listed.items()}
    if source.startswith("transformers-"):
        export = importlib.import_module("torch_export").export
        listed = importlib.import_module("transformers_zoo").catalogue()
        exporter = source.replace("transformers", "torch")
        return {name: partial(export, build, example, exporter) for name, (build, example) in listed.items()}
    found: dict[str, Writer] = importlib.import_module(f"{source}_zoo").catalogue()
    return found


def main(source: str, out: Path, names: list[str]) -> None:
    folder = out / source
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "failures.json"
    failures = json.loads(note.read_text()) if note.exists() else {}
    for name in names or list(writers(source)):
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        problem = attempt(source, out, name)
        failures.pop(name, None)
        if problem or not path.exists():
            path.unlink(missing_ok=True)
            failures[name] = problem or "wrote nothing"
        print(source, name, failures.get(name, "written"), flush=True)
        note.write_text(json.dumps(failures, indent=1, sort_keys=True))


def attempt(source: str, out: Path, name: str) -> str:
    """Runs this script for one file; the last line of its error, or nothing."""
    command = [sys.executable, str(HERE / "build.py"), "--one", source, str(out), name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=PLAIN)
    except subprocess.TimeoutExpired:
        return f"took more than {SECONDS} s"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        chosen, target, wanted = sys.argv[2:5]
        writers(chosen)[wanted](Path(target) / chosen / f"{wanted}.onnx")
    elif len(sys.argv) < 3:
        sys.exit(__doc__)
    else:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
