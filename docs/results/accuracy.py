# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/accuracy.md: every model with a task, compressed by the recipe w4, beside ONNX Runtime's forms.

    python docs/results/accuracy.py DATA_FOLDER WORK_FOLDER [NAME ...]

Results are kept as one JSON file a model in WORK_FOLDER, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import edgefold
from edgefold.compression import compress
from edgefold.errors import EdgefoldError
from edgefold.files.loading import load_model
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.machine import this_machine
from edgefold.measuring.measure import bits_per_weight
from edgefold.provenance import versions
from edgefold.scoring.evaluate import Evaluation, evaluate, paired_difference
from edgefold.scoring.task import load_task

READING = (
    "How to read it: where the interval holds 0, nothing was lost that this set can show. The sentence encoder,",
    "the vision transformer and the residual networks lose nothing measurable; the two language models lose 0.1",
    "to 0.2 % of their perplexity, less than in ONNX Runtime's int4. Without training, networks with depthwise",
    "convolutions (MobileNet, DeepLab, PP-OCR) and SqueezeNet lose points that int8 mostly keeps (not on",
    "MobileNetV2); wider weights for them were not measured here. Static int8 breaks the transformers; dynamic int8 is",
    "ONNX Runtime's fair form there. `ort-int4` knows no convolution and leaves those models float.",
    "",
    "The rows of cifar_resnet20/model, cifar_resnet56/model and minilm are of 2026-11-22; the others were made before",
    "each layer was rounded for what the quantized ones in front of it give, and were not repeated.",
)
HERE = Path(__file__).resolve().parent


def main(data: Path, work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    models = sorted(
        path for folder in data.iterdir() if (folder / "task.yaml").is_file() for path in folder.glob("*.onnx")
    )
    for path in models:
        name = f"{path.parent.name}/{path.stem}"
        record = work / f"{name.replace('/', '.')}.json"
        if record.exists() or (names and path.parent.name not in names):
            continue
        print(name, flush=True)
        record.write_text(json.dumps({"name": name, "rows": measure(path, work)}, indent=1))
    rows = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    (HERE / "accuracy.md").write_text(page(rows), encoding="utf-8")


def measure(path: Path, work: Path) -> list[dict[str, Any]]:
    """Score the original, our w4, and ONNX Runtime's forms of one model."""
    task = load_task(path.parent / "task.yaml")
    original = evaluate(path, task)
    rows = [row("fp32", path, original, original)]
    out = work / f"{path.parent.name}.{path.stem}.w4"
    started = time.perf_counter()
    try:
        report = compress(path, out, "w4", task.path, seed=0, force=True)
        ours = row("edgefold w4", out / "model.onnx", evaluate(out / "model.onnx", task), original)
        skipped = sum(len(step["skips"]) for step in report.steps)
        rows.append({**ours, "seconds": time.perf_counter() - started, "skips": skipped})
    except EdgefoldError as error:
        rows.append({"form": "edgefold w4", "note": str(error)})
    for form in forms(path):
        try:
            built = build_baseline(path, form, task, work)
            rows.append({**row(form, built.path, evaluate(built.path, task), original), "note": built.note})
        except EdgefoldError as error:
            rows.append({"form": form, "note": str(error)})
    return rows


def forms(path: Path) -> tuple[str, ...]:
    """ONNX Runtime's forms; dynamic int8 only without convolutions, which it makes slower than float."""
    has_conv = any(node.op_type == "Conv" for node in load_model(path).model.graph)
    return ("ort-int8", "ort-int4") if has_conv else ("ort-int8", "ort-int8-dynamic", "ort-int4")


def row(form: str, path: Path, score: Evaluation, original: Evaluation) -> dict[str, Any]:
    change, interval = paired_difference(score, original)
    loaded = load_model(path)
    return {
        "form": form,
        "bytes": loaded.bytes,
        "bits": bits_per_weight(loaded.model),
        "metric": score.metric,
        "value": score.value,
        "change": change,
        "interval": list(interval),
    }


def page(models: list[dict[str, Any]]) -> str:
    machine = this_machine()
    built_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Accuracy of the recipe `w4`",
        "",
        "4-bit weights (`shift-lut`, GPTQ rounding), 8-bit activations, embeddings, first and last layer at 8 bits; no",
        "training. `change` is against fp32 with its paired 95 % interval over the evaluation set. Bits a weight count",
        "codes, selectors, scales, tables and padding of MatMul, Gemm and Conv weights. Only the calibration split was",
        "used to choose anything.",
        "",
        f"Machine: {machine.cpu}; {built_with}; seed 0. Command: `python docs/results/accuracy.py DATA WORK`.",
        "",
        "| model | form | size | bits a weight | metric | value | change | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes: list[str] = []
    for model in models:  # as measured, losses included
        for one in model["rows"]:
            lines.append(table_row(model["name"], one))
            if one["form"] != "fp32" and one.get("note"):
                notes.append(f"- {model['name']}, {one['form']}: {one['note']}")
    return "\n".join([*lines, "", *READING, "", "Notes of the builders:", "", *notes, ""])


def table_row(name: str, one: dict[str, Any]) -> str:
    if "value" not in one:
        return f"| {name} | {one['form']} | | | | could not be made | | |"
    bits = f"{one['bits']:.2f}" if one["bits"] else ""
    low, high = one["interval"]
    return (
        f"| {name} | {one['form']} | {one['bytes'] / 1e6:.2f} MB | {bits} | {one['metric']} | {one['value']:.4f} "
        f"| {one['change']:+.4f} | {low:+.4f} to {high:+.4f} |"
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__ or edgefold.__version__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
