# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/packed_codes.md: codes of four bits stored two a byte between fused convolutions, or a byte each.

    python docs/results/packed_codes.py DATA_FOLDER WORK_FOLDER [NAME ...]

Models are quantized once, 4-bit weights and 4-bit activations with one step a tensor, and fused in both forms; what is
compressed stays in WORK_FOLDER. The forms take turns in one run, processor time of the calling thread; peak memory is
that of a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import kernels
import numpy as np

from edgefold.compression import compress
from edgefold.interface import ModelInterface
from edgefold.measuring.machine import this_machine
from edgefold.provenance import versions
from edgefold.scoring.task import load_task
from edgefold.session import make_session

HERE = Path(__file__).resolve().parent
NAMES = ("ppocr_det_v2", "cifar_resnet20")
QUANTIZED = """steps:
  - {pass: simplify}
  - {pass: fold-batchnorm}
  - {pass: subpixel-conv}
  - {pass: quantize, weights: 4, activations: 4, groups: 1, method: shift, rounding: nearest}
"""
FORMS = ("bytes", "packed")
READING = (
    "Results are equal in every bit. Packed codes are for memory alone: kernels take them apart and put them",
    "together, which costs more than moving half of the bytes saves, since these lie in the caches. So `fuse-blocks`",
    "leaves codes a byte each unless it is asked (`four_bits: packed`), and where images are small, as on CIFAR,",
    "there is nothing to gain. Channels with steps of their own (the default of `quantize`) keep a convolution out",
    "of a region; `groups: 1` joins them. Without training the detector is of no use at 4 bits of activations: the",
    "cosine to its float outputs says so.",
)


def main(data: Path, work: Path, names: tuple[str, ...]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    rows = [row(data / name, work) for name in names]
    (HERE / "packed_codes.md").write_text(page(rows), encoding="utf-8")


def row(source: Path, work: Path) -> dict[str, Any]:
    """Times, peak memory and metric of one model's forms."""
    task = load_task(source / "task.yaml")
    forms = {"ORT fp32": source / "model.onnx"}
    for form in FORMS:
        recipe, folder = work / f"{form}.yaml", work / f"{source.name}.{form}"
        recipe.write_text(f"{QUANTIZED}  - {{pass: fuse-blocks, four_bits: {form}}}\n")
        if not folder.exists():
            compress(source / "model.onnx", folder, str(recipe), task.path, seed=0)
        forms[form] = folder / "model.onnx"
    shapes = kernels.MODELS[source.name]
    report = json.loads((work / f"{source.name}.bytes" / "report.json").read_text())
    return {
        "name": source.name,
        "equal": equal(*(forms[form] for form in FORMS), shapes),
        "times": kernels.in_turns(forms, shapes),
        "memory": {form: kernels.peak_memory(path, shapes) for form, path in forms.items()},
        "metric": [report[when]["metric"]["value"] for when in ("before", "after")],
        "measure": task.metric.name,
    }


def equal(one: Path, other: Path, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether two models give the same bits on random inputs."""
    sessions = [make_session(path, threads=1) for path in (one, other)]
    [port] = ModelInterface.of(sessions[0]).inputs
    x = np.random.default_rng(0).normal(size=next(iter(shapes.values()), port.shape)).astype(port.dtype)
    first, second = (session.run(None, {port.name: x}) for session in sessions)
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def page(rows: list[dict[str, Any]]) -> str:
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Codes of four bits, two a byte",
        "",
        "One sample, one thread, forms in turns; milliseconds are processor time of the thread, below which are a",
        "twentieth of the calls. Peak memory in MB above a model of one node, in a process of its own. Weights and",
        "activations have 4 bits (`shift`, rounded to nearest, `groups: 1`; first and last layer 8), which without",
        "training costs these models much of their metric: the rows are about memory and time.",
        "",
        f"Machine: {machine.cpu} ({' '.join(machine.features)}); {built_with}; load average {os.getloadavg()[0]:.1f}.",
        "Command: `python docs/results/packed_codes.py DATA WORK`.",
        "",
        "| model | fp32 ms | a byte each, ms | two a byte, ms | time | fp32 MB | a byte each, MB | two a byte, MB |"
        " memory | same bits | metric: fp32 | 4 bits |",
        "|---" * 12 + "|",
        *map(table_row, rows),
        "",
        *READING,
    ]
    return "\n".join([*lines, ""])


def table_row(row: dict[str, Any]) -> str:
    cells = []
    for figures, scale, digits in ((row["times"], 1.0, 2), (row["memory"], 1e-6, 1)):
        cells += [f"{figures[form] * scale:.{digits}f}" for form in ("ORT fp32", *FORMS)]
        cells.append(f"{figures['packed'] / figures['bytes']:.2f}x")
    metric = [f"{row['measure']} {row['metric'][0]:.4g}", f"{row['metric'][1]:.4g}"]
    return f"| {row['name']} | {' | '.join([*cells, 'yes' if row['equal'] else 'NO', *metric])} |"


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]) or NAMES)
