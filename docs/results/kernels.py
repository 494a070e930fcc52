# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/kernels.md: whole convolutional models in integers, one sample at a time, beside ONNX Runtime.

    python docs/results/kernels.py DATA_FOLDER WORK_FOLDER [NAME ...]

What is compressed stays in WORK_FOLDER, with one JSON file of times a model, so that an interrupted run goes on where
it stopped. Delete the JSON files to time again; all forms of a model are timed in turns in one run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import edgefold
from edgefold.compression import compress
from edgefold.errors import EdgefoldError
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.bench import bench
from edgefold.measuring.machine import this_machine
from edgefold.provenance import versions
from edgefold.scoring.task import load_task

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
    "Fusing makes every one of these files 1.3 times faster and changes the metric by nothing that the sets can show.",
    "The aims of 2.5 to 3.5 times fp32 are not reached. ORT int8 is level with the recipe `fused` on ResNet-20 and",
    "ahead by 5 and 10 % on the others, and ahead of 8-bit weights by 12 to 33 %. The files take turns here, so that",
    "each finds the caches full of the others' weights, and `gemm_wide` reads two bytes a weight; running alone, by",
    "the least times of their nodes, MobileNetV2, SqueezeNet and ResNet-20 take 6.3, 6.2 and 0.73 ms with the recipe",
    "`fused`, 6.2, 6.0 and 0.77 ms in ORT int8, 7.7, 7.3 and 0.80 ms with w8, fused.",
    "",
    "What limits: without VNNI an exact product of 8-bit numbers takes two multiplications for 32 pairs, in whatever",
    "form, which is 82 GMAC/s here. `gemm_wide` reaches 80 of them in a full tile, and ORT's kernel, which may",
    "saturate, as much. `shift` at 4 bits needs one multiplication for 32 pairs. Of MobileNetV2's time with the",
    "recipe `fused` a quarter is requantization, about 8 cycles for 16 results where the units for vectors could do",
    "it in 6.3; depthwise products take a tenth. Tried last: windows read in place, which takes up to a sixth off 3x3",
    "layers of 8 bits; and one requantization for each place of the residual in place of branches, which gained",
    "nothing that could be measured and was taken back.",
    "",
    "MobileNetV2 with the recipe `fused` takes 0.53 of the memory of ORT int8 (aim: half). By massif 2.6 MB of it are",
    "the weights, which the kernels read where ONNX Runtime keeps them, and 3.1 its arena, pieces of 1 and 2 MB; the",
    "library makes no allocation of 0.4 MB or more. ResNet-20's memory is ONNX Runtime's own.",
    "",
    "Networks with squeeze-and-excitation, with random weights (models/zoo), w8 and `fuse-blocks`, taking turns with",
    "fp32 alone: RegNetY-400MF 10.0 ms (fp32: 12.9), EfficientNetB0 of Keras 3.8 (4.5), MobileNetV3-Large 7.2 (8.0),",
    "EfficientNet-B0 of torch 16.5 (16.6).",
)
MEMORY = (
    "Resident memory that loading and running a model takes at most, in MB above a model of one node, in a process of",
    "its own:",
)
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
    timed = bench(list(forms.values()), shapes=MODELS[name], threads=1)
    found = {row.model: row for row in timed.rows}
    times = {form: found[str(path)].median_ms for form, path in forms.items()}
    memory = {form: peak_memory(path, MODELS[name]) for form, path in forms.items()}
    isa = sorted(set(timed.isa.values()))
    return {"name": name, "note": int8.note, "times": times, "memory": memory, "changes": changes, "isa": isa}


def peak_memory(model: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Bytes that a process needs at most to load and run a model of one input."""
    given = ["x".join(map(str, shape)) for shape in shapes.values()]
    command = [sys.executable, str(HERE / "peak_memory.py"), str(model), *given]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def page(models: list[dict[str, Any]]) -> str:
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    isa = "/".join(dict.fromkeys(name for model in models for name in model["isa"]))
    lines = [
        "# Whole models in integers",
        "",
        "One sample, one thread, medians of one interleaved run; in brackets the median of ONNX Runtime's fp32 over",
        "the form's: above 1 is faster. `fused` is the same file after the pass `fuse-blocks`; `change` is what that",
        "alone does to the metric of the task, with its paired 95 % interval. `recipe fused` is the recipe of that",
        "name, 4 bits of the method `shift`; its change is against fp32. ORT int8 is static QDQ.",
        "",
        f"Machine: {machine.cpu}; EdgeFold kernels: {isa}; {built_with}; seed 0. Command:",
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
        "Blocks and tensors that became integers:",
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
