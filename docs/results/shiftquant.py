# SPDX-License-Identifier: Apache-2.0
"""Makes docs/results/shiftquant.md: what power-of-two channel shifts are worth, against their rivals at equal bits.

    python docs/results/shiftquant.py DATA_FOLDER WORK_FOLDER [MODEL ...]

Rows are kept as one JSON file each in WORK_FOLDER, so that an interrupted run goes on where it stopped. Everything is
chosen on the calibration split; the evaluation split is scored once a row. One thread.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from activation_error import measured_layers, section
from activation_influence import influence_section, measured_influence
from rows import compared, inputs, keep, machine_line, model_and_task

import edgefold
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.interface import ModelInterface
from edgefold.passes import EqualizeChannels, FoldBatchnorm, L1Normalization, Quantize, Simplify
from edgefold.passes.base import Pass
from edgefold.passes.quantization.activation_codes import MOST_GROUPS
from edgefold.pipeline import raise_to_minimum_opset, run_recipe
from edgefold.scoring.task import Task
from edgefold.session import make_session

HERE = Path(__file__).resolve().parent
MODELS = (
    *("cifar_resnet20/model", "cifar_resnet56/model", "imagenet_mobilenetv2/model"),
    *("gpt_charlm/model", "minilm/model"),
)
SPREAD = (
    "The error of each layer's output, in dB below its signal, that codes of its inputs alone make: weights as they",
    "are, nothing rounded before. Median over the layers between the first and the last. `spread` is the deviation of",
    "the logarithm of the channels' sizes: what steps of channels can be worth. `gain of shifts` is within the formats",
    "that ship, one step for convolutions and a step a row for matrix products: median, least, most.",
)
JUDGED = 400  # samples
PUZZLE = "imagenet_mobilenetv2/model"
INFLUENCE = (
    "What the codes of one convolution's inputs, 6 bits, cost the logits of MobileNetV2: dB between the logits and",
    "their error, everything else in float, on 50 images that chose nothing. Errors of several add up as if they were",
    "independent.",
)
READING = (
    "**Shifts against one step and against a step a row.** By the error of the output, which tells more than a metric",
    "of few samples, shifts are ahead on every model at every width of 4 and 6 bits: ResNet-20 by 0.1 to 0.7 dB,",
    "ResNet-56 by 0.1 to 0.2, MobileNetV2 by 0.1 to 0.6, the GPT by 0.6 to 1.3 and MiniLM by 1.4 to 4.1. The metrics",
    "follow where the error is large enough to move them: MiniLM has 0.8592 at W4A4 where a step a row has 0.8364, and",
    "0.8667 at W6A6 against 0.8647; the GPT a perplexity of 6.970 against 7.081 at W4A4 and 6.639 against 6.646 at",
    "W4A6; MobileNetV2 83.25 against 81.25 at W4A6. Where they do not, 0.75 points against shifts at most, they are",
    "well inside their intervals: 4-bit weights and activations lose nothing on the CIFAR networks that 4,000 images",
    "can show, in any format, and MobileNetV2 has 400.",
    "",
    "**Against moving the differences into the weights.** Shifts are ahead of SmoothQuant on MiniLM (0.8592 and 0.8570",
    "at W4A4, level at W4A6, 0.8667 and 0.8658 at W6A6) and on the GPT (6.970 and 6.999, 6.639 and 6.643, level at",
    "W6A6), and of equalization by powers of two on both. On MobileNetV2 at W4A4 equalization has 65.75 where shifts",
    "have 63.0, with intervals of 4 points. Rows of rivals without a number in the last column were made before wide",
    "layers were judged by 4,096 rows instead of 512.",
    "",
    "**MobileNetV2.** Its layers gain 0.8 dB each on the rows that chose, and the network 0.1 to 0.6. The table above",
    "says why: the first depthwise convolution alone makes four tenths of the error at 6 bits, and shifts find nothing",
    "there, nor in the next two; in all but the worst five together they gain 0.3 dB. And a part of the gain of single",
    "layers was none: steps of rarely active channels had been fitted to the sample, up to 7 dB worse than one step on",
    "other images, and W6A6 had 82.25 and 84.0 in two earlier forms. Cross-validation decides now (ADR 0012).",
    "`groups: 1` leaves shifts out; they cost about one per cent of a layer's time.",
    "",
    "First and last layers at 4 bits too cost ResNet-20 0.1 points and ResNet-56 0.2, within the intervals,",
    "MobileNetV2 2.5 and the GPT 0.01; MiniLM has none but its embedding.",
    "",
    "L1 normalization, calibrated and not trained, costs more than 6 bits do: MiniLM 0.80 of 0.867 at 6 and 8 bits,",
    "0.727 of 0.859 at W4A4, the GPT 6.72 of 6.64 and 7.06 of 6.97. Training gives it back: in float MiniLM has",
    "0.8139 with L1 and, healed, 0.8665 of 0.8672, the mean of three seeds ([healing.md](healing.md)).",
)
ALL_LOW = "shifts, first and last layer too"
WITH_L1 = "shifts, L1 normalization"
METHODS = ("shifts off", "power-of-two equalization", "SmoothQuant", "shifts", WITH_L1, ALL_LOW)
LAYER_NORMALIZED = ("gpt_charlm/model", "minilm/model")
SETTINGS = {"W4A4": (4, 4), "W4A6": (4, 6), "W6A6": (6, 6), "W4A8": (4, 8)}


def before_quantization(method: str) -> tuple[Pass, ...]:
    """The pass that a method needs."""
    needed: Mapping[str, Pass] = {
        "power-of-two equalization": EqualizeChannels(method="power-of-two", alpha=1.0, insert=True),
        "SmoothQuant": EqualizeChannels(method="smoothquant", alpha=0.5, insert=True),
        WITH_L1: L1Normalization(),
    }
    return (needed[method],) if method in needed else ()


def main(data: Path, work: Path, names: Sequence[str]) -> None:
    errors, influence = work / "activations", work / "influence"
    for folder in (errors, influence):
        folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        if names and name.partition("/")[0] not in names:
            continue
        for setting in SETTINGS:
            for method in METHODS:
                if not is_row(name, setting, method):
                    continue
                keep(work, f"{name} {setting} {method}", functools.partial(row, data, work, name, setting, method))
        keep(errors, name, functools.partial(measured_layers, data, name))
        if name == PUZZLE:
            keep(influence, name, functools.partial(measured_influence, data, name))
    rows = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    layers = [json.loads(path.read_text()) for path in errors.glob("*.json")]
    spread = section(sorted(layers, key=lambda one: MODELS.index(one["model"])))
    costs = [influence_section(json.loads(path.read_text())) for path in influence.glob("*.json")]
    (HERE / "shiftquant.md").write_text(page(rows, spread, *costs), encoding="utf-8")


def is_row(name: str, setting: str, method: str) -> bool:
    """Whether the combination says something: 8-bit codes leave no room for a shift."""
    if method == ALL_LOW:
        return setting == "W4A4"
    if method == WITH_L1:
        return name in LAYER_NORMALIZED
    return (setting, method) != ("W4A8", "shifts")


def row(data: Path, work: Path, name: str, setting: str, method: str) -> dict[str, Any]:
    path, task = model_and_task(data, name)
    weights, activations = SETTINGS[setting]
    quantize = Quantize(
        weights=weights,
        activations=activations,
        rounding="gptq",
        groups=MOST_GROUPS if method.startswith("shifts,") or method == "shifts" else 1,
        first_last=weights if method == ALL_LOW else 8,
    )
    started = time.process_time()
    model = load_model(path).model
    given = inputs(path, task)
    model, _ = raise_to_minimum_opset(model, given)
    steps = (Simplify(), FoldBatchnorm(), *before_quantization(method), quantize)
    out = work / "model.onnx"
    save_model(run_recipe(model, steps, given), out)
    seconds = time.process_time() - started
    scored = compared(path, out, task)
    ratio = output_ratio(path, out, task)
    return {"model": name, "setting": setting, "method": method, "seconds": seconds, **scored, "db": ratio}


def output_ratio(path: Path, out: Path, task: Task) -> float:
    """How far the output that the metric reads is above its error on samples of the evaluation split, in dB."""
    before, after = make_session(path, threads=1), make_session(out, threads=1)
    interface = ModelInterface.of(before)
    name = interface.output(task.metric.output, f"{task.path}: metric").name
    signal = error = 0.0
    for batch in task.batches(interface, "eval", JUDGED):
        wanted, got = (session.run([name], batch.feeds)[0].astype(np.float64) for session in (before, after))
        if task.metric.name == "perplexity":  # softmax does not see what all logits have in common
            wanted, got = (logits - logits.mean(axis=-1, keepdims=True) for logits in (wanted, got))
        signal += float(np.square(wanted).sum())
        error += float(np.square(got - wanted).sum())
    return 10 * math.log10(signal / error)


def page(rows: Sequence[Mapping[str, Any]], spread: Sequence[str], *influence: Sequence[str]) -> str:
    lines = [
        "# ShiftQuant: activations below 8 bits",
        "",
        "`W4A6`: weights of 4 bits (`shift-lut`), activations of 6 (one scale a tensor for convolutions, one a row for",
        "matrix products); first and last layer 8 bits; GPTQ rounding on calibration inputs, biases corrected, nothing",
        "trained. `change` is against fp32 with its paired 95 % interval over the evaluation set. `output` tells in dB",
        f"by how much the output that the metric reads exceeds its error on {JUDGED} samples, where that was measured.",
        "",
        f"{machine_line()} Seed 0.",
        "Command: `python docs/results/shiftquant.py DATA WORK`.",
        "",
        "| model | setting | method | metric | fp32 | value | change | 95 % interval | output |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = [(name, setting, method) for name in MODELS for setting in SETTINGS for method in METHODS]
    made = {(one["model"], one["setting"], one["method"]): one for one in rows}
    lines += [line(made[key]) for key in order if key in made]
    lines += ["", "## Why", "", *SPREAD, "", *spread]
    for one in influence:
        lines += ["", *INFLUENCE, "", *one]
    return "\n".join([*lines, "", "## Reading", "", *READING, ""])


def line(one: Mapping[str, Any]) -> str:
    low, high = one["interval"]
    ratio = f"{one['db']:.2f}" if "db" in one else ""
    return (
        f"| {one['model']} | {one['setting']} | {one['method']} | {one['metric']} | {one['fp32']:.4f} "
        f"| {one['value']:.4f} | {one['change']:+.4f} | {low:+.4f} to {high:+.4f} | {ratio} |"
    )


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__ or edgefold.__version__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
