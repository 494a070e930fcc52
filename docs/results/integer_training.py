# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/integer_training.md: a small ResNet from scratch in integers, beside itself in float.

    python docs/results/integer_training.py DATA_FOLDER WORK_FOLDER [VARIANT ...]

Trains on 2,700 images of cifar10/calib.npz, three seeds a variant, each at most ten processor minutes on one thread;
scored once on cifar10/test.npz. Rows are kept as one JSON file each in WORK_FOLDER, so that an interrupted run goes on.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import compared, keep, machine_line

import edgefold
from edgefold.scoring.task import load_task

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parents[1] / "models" / "cifar_integer.py"
SEEDS = (0, 1, 2)
REFERENCE = "float"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    REFERENCE: ("--arithmetic", "float"),
    "float, L1": ("--arithmetic", "float", "--norm", "l1"),
    "W4A4G4": (),
    "W4A4G4, L2": ("--norm", "l2"),
    "W4A4G4, one scale for all samples": ("--sample-groups", "1"),
    "W4A4G4, one scale a gradient": ("--groups", "1", "--sample-groups", "1"),
    "W4A4G4, ends too": ("--ends", "4"),
    "W4A4, gradients float": ("--gradients", "32"),
    "W6A6G6": ("--bits", "6"),
}

VARIANCE = (
    "What rounding adds to the gradient: squared error over the squared gradient, mean of 20 draws, by convolution,",
    "after five epochs (`python docs/results/gradient_variance.py CALIB.npz`). Scales for samples are worth more than",
    "scales for channels; beyond three groups of samples there is nothing left to gain.",
    "",
    "| groups of channels | groups of samples | mean over layers | largest |",
    "|---|---|---|---|",
    "| 1 | 1 | 0.377 | 0.763 |",
    "| 5 | 1 | 0.244 | 0.515 |",
    "| 1 | 5 | 0.214 | 0.449 |",
    "| 5 | 3 | 0.205 | 0.422 |",
    "| 5 | 5 | 0.205 | 0.425 |",
)


def main(data: Path, work: Path, names: Sequence[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for variant in names or VARIANTS:
        for seed in SEEDS:
            keep(work, f"{variant} {seed}", functools.partial(row, data, work, variant, seed))
    rows = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    (HERE / "integer_training.md").write_text(page(rows), encoding="utf-8")


def row(data: Path, work: Path, variant: str, seed: int) -> dict[str, Any]:
    """A variant against the float network of the same seed, which is trained first where it is not there."""
    trained = {name: model(data, work, name, seed) for name in dict.fromkeys((REFERENCE, variant))}
    seconds = re.search(r"([0-9]+) processor seconds", (trained[variant].parent / "log").read_text())
    assert seconds is not None
    task = load_task(data / "cifar_resnet20" / "task.yaml")
    found = compared(trained[REFERENCE], trained[variant], task)
    return {"variant": variant, "seed": seed, "seconds": int(seconds[1]), **found}


def model(data: Path, work: Path, variant: str, seed: int) -> Path:
    folder = work / f"{variant.replace(', ', '.').replace(' ', '-')}.{seed}"
    path = folder / "model.onnx"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        arguments = [data / "cifar10" / "calib.npz", folder, "--seed", seed, *VARIANTS[variant]]
        with (folder / "log").open("w") as log:
            subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], stdout=log, check=True)
    return path


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Integer training",
        "",
        "A ResNet-8 whose first convolution halves the sides, from scratch on 2,700 CIFAR-10 images, 100 epochs on one",
        "core. `W4A4G4`: weights, inputs and gradients of 4 bits, all three products of a layer on integers, gradients",
        "by ShiftQuant with stochastic rounding, L1 batch normalization, first and last layer 8 bits. `float` is the",
        "reference: the same schedule, images and order, with ordinary batch normalization. `change` is against",
        "`float` of the same seed, with its paired 95 % interval over 4,000 images; the mean of the seeds follows.",
        "",
        machine_line(),
        "Command: `python docs/results/integer_training.py DATA WORK`.",
        "",
        "| variant | seed | top-1 | change | 95 % interval | processor minutes |",
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        found = [one for one in rows if one["variant"] == variant]
        lines += [line(one) for one in found]
        if len(found) > 1:
            value, change = (statistics.fmean(one[key] for one in found) for key in ("value", "change"))
            lines.append(f"| {variant} | mean | {value:.2f} | {change:+.2f} | | |")
    return "\n".join([*lines, "", *VARIANCE, ""])


def line(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    return (
        f"| {one['variant']} | {one['seed']} | {one['value']:.2f} | {one['change']:+.2f} | {low:+.2f} to {high:+.2f} "
        f"| {one['seconds'] / 60:.1f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__ or edgefold.__version__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
