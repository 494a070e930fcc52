# SPDX-License-Identifier: Apache-2.0
"""What attention on integers costs: the table of docs/results/fused_linear.md, printed.

    python docs/results/attention_accuracy.py DATA_FOLDER WORK_FOLDER [NAME ...]

What is compressed stays in WORK_FOLDER. ``int8 dynamic`` is ONNX Runtime's quantize_dynamic with its defaults, which
leaves the products of attention in float32; ``attention too`` where it may quantize these as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgefold.compression import compress
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import load_task

SAMPLES = {"vit_mnist": 2000, "gpt_charlm": 48, "minilm": 360}
ATTENTION = "  - {pass: quantize-attention}\n"
W8 = """  - {pass: simplify}
  - {pass: fold-batchnorm}
  - {pass: quantize, weights: 8, activations: 8, method: shift, rounding: nearest, embeddings: 8, first-last: 8}
"""
RECIPES = {
    "`quantize-attention` alone": ATTENTION,
    "`w8`": W8,
    "`w8`, attention": W8 + ATTENTION,
    "`w8`, attention, fused": W8 + ATTENTION + "  - {pass: fuse-blocks}\n",
}


def forms(source: Path, task: Path, work: Path) -> dict[str, Path]:
    """The model's forms by name."""
    from onnxruntime.quantization import quantize_dynamic

    made = {"float32": source}
    for name, options in (("int8 dynamic", {}), ("int8 dynamic, attention too", {"MatMulConstBOnly": False})):
        made[name] = work / f"{source.parent.name}.{name.replace(' ', '_').replace(',', '')}.onnx"
        if not made[name].exists():
            quantize_dynamic(source, made[name], extra_options=options)
    for place, (name, steps) in enumerate(RECIPES.items()):
        recipe, folder = work / f"recipe{place}.yaml", work / f"{source.parent.name}.{place}"
        recipe.write_text(f"steps:\n{steps}")
        if not folder.exists():
            compress(source, folder, str(recipe), task, seed=0)
        made[name] = folder / "model.onnx"
    return made


def main(data: Path, work: Path, names: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    columns = ["float32", "int8 dynamic", "int8 dynamic, attention too", *RECIPES]
    print(f"| model | metric | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    for name in names or SAMPLES:
        task = load_task(data / name / "task.yaml")
        its = forms(data / name / "model.onnx", task.path, work)
        scores = (evaluate(path, task, limit=SAMPLES[name]).value for path in its.values())
        cells = " | ".join(f"{value:.2f}" if name == "vit_mnist" else f"{value:.4f}" for value in scores)
        print(f"| {name}, {SAMPLES[name]} samples | {task.metric.name} | {cells} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
