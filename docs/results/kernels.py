# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/kernels.md: whole convolutional models in integers, one sample at a time, beside ONNX Runtime.

    python docs/results/kernels.py DATA_FOLDER WORK_FOLDER [NAME ...]

What is compressed stays in WORK_FOLDER, with one JSON file of times a model, so that an interrupted run goes on where
it stopped. Delete the JSON files to time again; all forms of a model are timed in turns in one run, by the processor
time of the calling thread, which does all the work: other processes disturb it little. What the page says of kernels
and blocks is `kernels_blocks.py`, from files of their own benches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kernels_blocks
import numpy as np

import edgefold
from edgefold.compression import compress
from edgefold.errors import EdgefoldError
from edgefold.interface import ModelInterface
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.machine import this_machine
from edgefold.provenance import versions
from edgefold.scoring.task import load_task
from edgefold.session import make_session

HERE = Path(__file__).resolve().parent
MODELS: dict[str, dict[str, tuple[int, ...]]] = {
    "imagenet_mobilenetv2": {},
    "cifar_resnet20": {"input": (1, 3, 32, 32)},
    "cifar_resnet56": {"input": (1, 3, 32, 32)},
    "imagenet_squeezenet11": {"data": (1, 3, 227, 227)},
    "ppocr_det_v2": {"x": (1, 3, 640, 640)},
    "keras_mobilenetv1_vww": {"input_1": (1, 96, 96, 3)},
}
RECIPES = ("w4", "w8")
READING = (
    "Fusing makes every one of these files 1.4 to 2.0 times as fast and changes the metric by nothing that the",
    "sets can show. The aims were 3.5 times fp32 for MobileNetV2, 3 for ResNet-56 and SqueezeNet and 2.5 for the",
    "PP-OCR detector: SqueezeNet, the detector and ResNet-56 (3.04; 2.99 to 3.13 in earlier runs of the day) have",
    "reached their own, MobileNetV2 is 22 % short. All run faster than in ONNX Runtime's int8, by 19 to 103 %; its",
    "own factors are 2.2, 2.6, 2.5 and 1.5. The width of the weights makes no difference to the speed. On Zen",
    "3 such files reached 1.0 to 1.6 ([kernels_avx2.md](kernels_avx2.md)), before codes came from estimates; here with",
    "`EDGEFOLD_ISA=avx2` the recipe `fused` reaches 1.6 (MobileNetV2), 1.7 (ResNet-56 and SqueezeNet) and 1.3 (the",
    "detector), by least times beside other work.",
    "",
    "The recipe `fused` writes the detector's two transposed convolutions as 1x1 convolutions and rearrangements",
    "(`subpixel-conv`), so that it is further ahead of `w4, fused`, where they stay ONNX Runtime's floats. Of 18.8",
    "ms, the sum of its nodes, convolutions take 11.6 (two of 3x3 with 96 channels 5.1, the former transposed ones",
    "1.75), inverted residual blocks 5.5, repeating and rearranging pixels 1.3 (Expand 0.67, Transpose 0.62) and",
    "Concat 0.28. ONNX Runtime's Resize took 4.3 and its ConvTranspose 3.5 before. Its cosine is 0.002 lower with",
    "those layers in integers; noise of 3e-7 in one tensor moves that of one photograph by 0.007 (ADR 0019).",
    "",
    "What limits MobileNetV2, of 2.6 ms when it runs alone: the products of its 1x1 convolutions take about 54 %,",
    "1.4 ms, where the peak of 472 GOP/s would allow 1.27; requantization about 20 %; depthwise products about 10 %,",
    "5 to 9 cycles for 16 sums of 3x3, where the units need 3.3. The arithmetic alone would take about 2.0 ms, 3.6",
    "times fp32; the floor of its operators, 1.32 ms, is 49 % of its time ([efficiency_gap.md](efficiency_gap.md)).",
    "Products of few codes are",
    "furthest from the peak: 0.65 of it with 16 and 0.78 with 32, since sums are stored to be requantized and the",
    "next tile waits for its registers. A kernel that requantizes a tile of 4 x 64 sums in its registers (ReLU, no",
    "residual) was tried alone: against product and requantization one after the other it takes 0.80 of the time",
    "with 16 codes, 0.82 with 24, 0.86 with 32, 0.96 with 64 and 0.98 with 96 and more. That would be about 4 % of",
    "MobileNetV2 and 1 % of SqueezeNet, for one more variant of every activation; it is not in the library. Tiles of",
    "three rows reach 0.88 of the peak where those of four reach 0.98, so that rows of 14 pixels, and images of 49,",
    "are cut into tiles of four and five: 0.965 of the time of MobileNetV2 and SqueezeNet.",
    "Tried before: tiles of 24 sums (slower below 64 codes), and several panels in one call for depthwise products",
    "(rows of 14 pixels take half the time). Of SqueezeNet a quarter is one 1x1 convolution with padding, whose",
    "border of bias alone is no longer multiplied.",
    "",
    "Peak memory of MobileNetV2 is 0.47 of ONNX Runtime's int8 (aim: half). It was 0.63: 2.1 MB of decoded weights",
    "lay beside the packed ones, which a call now decodes and lets go (but for small ones: on CIFAR that would take",
    "3 % of a ResNet), 1 MB were floats of the image before its codes, 0.3 MB pages of kernels for other processors.",
    "Of the 8.7 MB left, 2.6 are packed weights and 1.6 ONNX Runtime's graph.",
)
MEMORY = (
    "Resident memory that loading and running a model takes at most, in MB above a model of one node, in a process of",
    "its own:",
)
LOAD = "times with nothing else running, memory and metrics beside other work"
TURNS, CALLS, SECONDS = 40, 3, 20.0  # of the forms of a model: no fewer turns, no less time
SPEED = "fused"  # the recipe: `shift` at 4 bits, then fuse-blocks
FUSED = "steps:\n  - {pass: fuse-blocks}\n"


def main(data: Path, work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for name in names or MODELS:
        record = work / f"{name}.json"
        if not record.exists():
            print(name, flush=True)
            try:
                record.write_text(json.dumps(measure(data / name / "model.onnx", work), indent=1))
            except EdgefoldError as error:
                print(error, flush=True)
    rows = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    (HERE / "kernels.md").write_text(page(rows), encoding="utf-8")


def measure(model: Path, work: Path) -> dict[str, Any]:
    """Times of every form of one model, and what fusing did to the metric."""
    name = model.parent.name
    task = load_task(model.parent / "task.yaml")
    int8 = build_baseline(model, "ort-int8", task, work)
    forms = {"ORT fp32": model, "ORT int8": int8.path.rename(work / f"{name}.int8.onnx")}
    changes: dict[str, Any] = {}
    recipe = work / "fuse.yaml"
    recipe.write_text(FUSED)
    for one in RECIPES:
        plain, fused = work / f"{name}.{one}", work / f"{name}.{one}.fused"
        if not plain.exists():
            compress(model, plain, one, task.path, seed=0)
        if not fused.exists():
            compress(plain, fused, str(recipe), task.path, seed=0)
        report = json.loads((fused / "report.json").read_text())
        changes[f"{one}, fused"] = {
            "change": report["change"],
            "stats": report["steps"][-1]["stats"],
            "metric": report["after"]["metric"]["metric"],
        }
        forms |= {one: plain / "model.onnx", f"{one}, fused": fused / "model.onnx"}
    made = work / f"{name}.{SPEED}"
    if not made.exists():
        compress(model, made, SPEED, task.path, seed=0)
    report = json.loads((made / "report.json").read_text())
    changes[f"recipe {SPEED}"] = {"change": report["change"], "metric": report["after"]["metric"]["metric"]}
    forms[f"recipe {SPEED}"] = made / "model.onnx"
    times = in_turns(forms, MODELS[name])
    memory = {form: peak_memory(path, MODELS[name]) for form, path in forms.items()}
    return {"name": name, "note": int8.note, "times": times, "memory": memory, "changes": changes}


def in_turns(forms: dict[str, Path], shapes: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """Milliseconds of a run of each form: the twentieth part of the runs was faster."""
    sessions = {form: make_session(path, threads=1) for form, path in forms.items()}
    [port] = ModelInterface.of(next(iter(sessions.values()))).inputs
    rng = np.random.default_rng(0)
    shape = next(iter(shapes.values()), port.shape)
    x = rng.integers(0, 256, shape).astype(np.uint8) if port.dtype == np.uint8 else rng.normal(size=shape)
    feeds = {port.name: x.astype(port.dtype)}
    times: dict[str, list[float]] = {form: [] for form in forms}
    for session in sessions.values():
        session.run(None, feeds)
    while len(times["ORT fp32"]) < TURNS * CALLS or sum(map(sum, times.values())) < SECONDS * 1e3:
        for form, session in sessions.items():
            for _ in range(CALLS):
                start = time.thread_time_ns()
                session.run(None, feeds)
                times[form].append((time.thread_time_ns() - start) * 1e-6)
    return {form: float(np.quantile(its, 0.05)) for form, its in times.items()}


def peak_memory(model: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes that a process needs at most to load and run a model of one input."""
    given = ["x".join(map(str, shape)) for shape in shapes.values()]
    command = [sys.executable, str(HERE / "peak_memory.py"), str(model), *given]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def page(models: list[dict[str, Any]]) -> str:
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Whole models in integers",
        "",
        "One sample, one thread, three calls of every form in turns: processor time of the thread, below which are a",
        "twentieth of the calls; in brackets that of ONNX Runtime's fp32 over the form's: above 1 is faster. `fused`",
        "is the same file after the pass `fuse-blocks`; `change` is what that does to the metric of the task, with",
        "its paired 95 % interval. `recipe fused` is the recipe of that name, 4 bits of the method `shift`; its change",
        "is against fp32. ORT int8 is static QDQ. [kernels_avx2.md](kernels_avx2.md) has a processor without VNNI.",
        "",
        f"Machine: {machine.cpu}, 2026-11-22 (Zen 4: AVX-512 with VNNI and VBMI), two cores; {LOAD};",
        f"{built_with}; seed 0. Command:",
        "`python docs/results/kernels.py DATA WORK`.",
        "",
        "| model | "
        + " | ".join(models[0]["times"])
        + " | w4, fused: change | w8, fused: change | recipe fused: change |"
        if models
        else "",
        "|---" * (4 + len(models[0]["times"]) if models else 1) + "|",
        *(table_row(model) for model in models),
        "",
        *MEMORY,
        "",
        "| model | " + " | ".join(models[0]["times"]) + " |" if models else "",
        "|---" * (1 + len(models[0]["times"]) if models else 1) + "|",
        *(memory_row(model) for model in models if "memory" in model),
        "",
        *READING,
        "",
        *kernels_blocks.section(),
        kernels_blocks.BEHIND,
        "",
        *(f"- {model['name']}: {stats(model)}" for model in models),
    ]
    return "\n".join([*lines, ""])


def table_row(model: dict[str, Any]) -> str:
    base = model["times"]["ORT fp32"]
    times = (f"{ms:.2f} ms ({base / ms:.2f}x)" for ms in model["times"].values())
    changes = (model["changes"][name] for name in (*(f"{recipe}, fused" for recipe in RECIPES), f"recipe {SPEED}"))
    cells = (
        f"{one['metric']} {one['change']['value']:+.3f} ({one['change']['ci95'][0]:+.3f} to "
        f"{one['change']['ci95'][1]:+.3f})"
        for one in changes
    )
    return f"| {model['name']} | {' | '.join((*times, *cells))} |"


def memory_row(model: dict[str, Any]) -> str:
    return f"| {model['name']} | {' | '.join(f'{size / 1e6:.1f}' for size in model['memory'].values())} |"


def stats(model: dict[str, Any]) -> str:
    found = model["changes"]["w4, fused"]["stats"]
    return (
        f"{found.get('conv-region.blocks', 0)} convolutions, {found.get('conv-region.integer_tensors', 0)} tensors "
        f"between them; {found.get('inverted-residual.blocks', 0)} inverted residual blocks in one node each"
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__ or edgefold.__version__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
