# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/shared_memory.md: what sharing takes off the file and off the memory of ONNX Runtime.

    python docs/results/shared_memory.py DATA WORK

WORK is the work folder of depth.py, whose models are measured. Each is opened and run once in a process of its own;
what counts is the resident memory that no file backs, after free memory was given back, above that of a model of one
node. The file of a model is not mapped, so that its weights are in this memory.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from depth_methods import SUBJECTS
from rows import machine_line, model_and_task

from edgefold.interface import ModelInterface
from edgefold.session import make_session

PAGE = Path(__file__).with_name("shared_memory.md")
SMALL = '<ir_version: 9, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
MODELS = {"minilm": ("half shared", "half shared, healed on glosses, 4 bits"), "gpt_charlm": ("half shared",)}
RUNS = 5
INTRODUCTION = """# Shared weights in memory

`original` and what `share-weights` made of it (`keep: 0.5`, one matrix for several blocks; rows of
[depth.md](depth.md)). Memory is what no file backs after one run of ONNX Runtime, in MB above a model of one node,
the median of five processes; `less` is against the original."""
READING = """Memory falls with the file, by 0.8 to 1.0 of what it loses: a matrix that several blocks read is one
initializer, and ONNX Runtime packs it once (from version 1.21 on). That holds within one session; two sessions of one
file do not share what they pack."""


def resident(path: Path) -> float:
    """Megabytes, the median of several processes."""
    command = [sys.executable, __file__, "resident", str(path)]
    told = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(RUNS)]
    return statistics.median(map(float, told))


def print_resident(path: Path) -> None:
    _run(onnx.parser.parse_model(SMALL).SerializeToString())
    before = _anonymous()
    session = _run(path)
    print((_anonymous() - before) / 1e3)
    del session


def _run(model: bytes | Path) -> object:
    session = make_session(model, threads=1)
    ports = ModelInterface.of(session).inputs
    session.run(
        None, {port.name: np.ones([n if isinstance(n, int) else 16 for n in port.shape], port.dtype) for port in ports}
    )
    return session


def _anonymous() -> int:
    """Kilobytes."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main(data: Path, work: Path) -> None:
    lines = [INTRODUCTION, "", f"{machine_line()} Command: `python docs/results/shared_memory.py DATA WORK`.", ""]
    lines += ["| model | method | file, MB | less | memory, MB | less |", "|---|---|---|---|---|---|"]
    for name, methods in MODELS.items():
        original, _ = model_and_task(data, SUBJECTS[name].file)
        files = {"original": original}
        files |= {method: work / f"{name} {method} seed0.onnx".replace(" ", "_") for method in methods}
        sizes = {method: (path.stat().st_size / 1e6, resident(path)) for method, path in files.items()}
        whole = sizes["original"]
        for method, (stored, memory) in sizes.items():
            less = (whole[0] - stored, whole[1] - memory)
            cells = (name, method, f"{stored:.2f}", f"{less[0]:.2f}", f"{memory:.1f}", f"{less[1]:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
    PAGE.write_text("\n".join([*lines, "", READING, ""]), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    if sys.argv[1] == "resident":
        print_resident(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
