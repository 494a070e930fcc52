# SPDX-License-Identifier: Apache-2.0
"""Measures for docs/results/moe.md: a row's model with its loss, its expert bytes and what they cost at run time."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import yaml
from moe_methods import Row, Step
from rows import inputs, score

import edgefold
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.heal.step import healer
from edgefold.passes import Skip
from edgefold.passes._weighted_nodes import weighted_node
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.pipeline import raise_to_minimum_opset, run_recipe
from edgefold.recipe import parse_recipe
from edgefold.scoring.evaluate import evaluate, paired_difference
from edgefold.scoring.task import Task, load_task
from edgefold.session import make_session, run

WINDOW = 96  # tokens that every subject takes
TO_HEAL_ON, TO_CALIBRATE_ON = 4096, 256  # windows of 128 tokens
PEAK = """
import sys
from edgefold.measuring.measure import peak_rss
from edgefold.session import make_session, run
import numpy as np
import onnx, onnx_ir, onnxruntime
before = peak_rss()
session = make_session(__import__("pathlib").Path(sys.argv[1]), threads=1)
run(session, None, {session.get_inputs()[0].name: np.ones((1, 64), np.int64)})
print(peak_rss() - before)
"""


def model_file(work: Path, row: str, seed: int) -> Path:
    """Where the model of a row is kept."""
    return work / "models" / f"{row.replace(' ', '_').replace('/', '-')}.seed{seed}.onnx"


def dispatched(folder: Path, work: Path) -> Path:
    """The original with its layers in dispatch form: what every row starts from and is compared with."""
    out = model_file(work, "original", 0)
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        _run(folder, folder / "model.onnx", out, [{"pass": "dispatch-experts"}], 0)
    return out


def measured(folder: Path, work: Path, row: Row, seed: int, base: Path) -> dict[str, Any]:
    """Makes the model of a row and measures it.

    Args:
        folder: of the original, its task and its text to train on.
        work: folder of results.
        row: what to make.
        seed: of the calibration data and of every random choice.
        base: the model that it starts from.
    """
    original = dispatched(folder, work)
    out = model_file(work, row.name, seed)
    started = time.process_time()
    notes = _run(folder, base, out, row.steps, seed) if row.steps else []
    seconds = time.process_time() - started
    task = load_task(folder / "task.yaml")
    before, after = score(original, task.path), evaluate(out, task, threads=1)
    _, interval = paired_difference(after, before)
    stored, whole = expert_tensors(out), expert_tensors(original)
    return {
        "method": row.name,
        "seed": seed,
        "base": row.base,
        "steps": list(row.steps),
        "original": before.value,
        "value": after.value,
        "nats": math.log(after.value / before.value),
        "interval": list(interval),
        "expert_bytes": sum(stored.values()),
        "expert_share": sum(stored.values()) / sum(whole.values()),
        "tensors": len(stored),
        "bytes": out.stat().st_size,
        "peak": _peak(out),
        "seconds": seconds,
        "text": generated(out, original, task),
        "notes": json.loads(json.dumps(notes, default=str)),
    }


def expert_tensors(path: Path) -> dict[str, int]:
    """Bytes of each stored tensor that only experts read, by name; those of the dispatch itself count too."""
    model = load_model(path).model
    inside = {
        node
        for layer in find_dispatched(model)
        for expert in layer.experts
        for product in (*expert.inputs, expert.down)
        for node in (*product.nodes, *([product.bias] if product.bias else []))
    }
    return {
        str(value.name): value.const_value.nbytes
        for node in inside
        for value in node.inputs
        if value is not None and value.const_value is not None
    }


def latencies(methods: Mapping[str, Path], length: int) -> dict[str, float]:
    """By method, the median time of `length` tokens over the original's, all in one interleaved run."""
    timed = edgefold.bench(list(methods.values()), shapes=[f"input_ids=1x{length}"], threads=2).rows
    times = {row.model: row.median_ms for row in timed}
    first = next(iter(times.values()))
    return {name: times[str(path)] / first for name, path in methods.items()}


def generated(path: Path, original: Path, task: Task) -> dict[str, float]:
    """Greedy continuations of the first 16 evaluation rows, 64 tokens each.

    `distinct` is the share of their 4-grams that are new within the row (REAP's diagnostic); `surprise` the original's
    mean negative log-likelihood of them, in nats.
    """
    with np.load(task.path.parent / yaml.safe_load(task.path.read_text())["data"]) as arrays:
        ids = np.asarray(arrays["x"][:16, :32], np.int64)
    session, judge = make_session(path, threads=1), make_session(original, threads=1)
    name = session.get_inputs()[0].name
    for _ in range(64):
        logits = run(session, None, {name: ids[:, -WINDOW:]})[0]
        ids = np.concatenate([ids, logits[:, -1].argmax(-1)[:, None]], axis=1)
    window = ids[:, -WINDOW:]
    scores = run(judge, None, {name: window})[0][:, -65:-1].astype(np.float64)
    scores -= np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True)) + scores.max(
        -1, keepdims=True
    )
    new = window[:, -64:]
    surprise = -np.take_along_axis(scores, new[..., None], axis=-1).mean()
    grams = [len({tuple(row[i : i + 4]) for i in range(61)}) / 61 for row in new.tolist()]
    return {"distinct": float(np.mean(grams)), "surprise": float(surprise)}


def _run(folder: Path, start: Path, out: Path, steps: Sequence[Step], seed: int) -> list[dict[str, Any]]:
    """Runs steps and writes the model; the figures that they reported.

    Seed 0 calibrates on the task's own data, others on as many windows drawn from the text to train on.
    """
    heals = any("heal" in step.values() for step in steps)
    windows = TO_HEAL_ON if heals else TO_CALIBRATE_ON if seed else 0
    task = load_task(_task_on_text(folder, out, windows, seed) if windows else folder / "task.yaml")
    original = folder / "model.onnx"
    given = inputs(original, task)
    if heals:
        teacher = load_model(original).model
        given = dataclasses.replace(given, heal=healer(teacher, task, seed, out.with_suffix(".heal")))
    model, _ = raise_to_minimum_opset(load_model(start).model, given)
    counts = _counts(model)
    numbered = [
        {key: counts.get(value, value) if key == "experts" else value for key, value in step.items()} for step in steps
    ]
    recipe = parse_recipe({"steps": numbered}, out.stem)
    notes: list[dict[str, Any]] = []

    def finished(_index: int, _model: ir.Model, record: Any) -> None:
        said = record.to_json()
        notes.append({"pass": said["pass"], "stats": said["stats"], "table": said["table"], "skips": said["skips"]})

    model = run_recipe(model, recipe.steps, given, exclude=outside(model), seed=seed, finished=finished)
    save_model(model, out, external=False)
    return notes


def outside(model: ir.Model) -> tuple[str, ...]:
    """Names of the nodes with weights that belong to no expert: every method leaves them alone."""
    inside = {
        node
        for layer in find_dispatched(model)
        for expert in layer.experts
        for product in (*expert.inputs, expert.down)
        for node in product.nodes
    }
    sites = ((node, weighted_node(node)) for node in model.graph if inside and node not in inside)
    return tuple(str(node.name) for node, site in sites if not isinstance(site, Skip) and site is not None)


def _counts(model: ir.Model) -> dict[Any, int]:
    """Three quarters and half of the experts of a layer."""
    size = max((len(layer.experts) for layer in find_dispatched(model)), default=0)
    return {"MANY": size * 3 // 4, "HALF": size // 2}


def _task_on_text(folder: Path, out: Path, count: int, seed: int) -> Path:
    """A task whose calibration data are windows of the text that the model was trained on."""
    task = yaml.safe_load((folder / "task.yaml").read_text())
    place = (folder / task["data"]).resolve()
    with np.load(place.parent / "train.npz") as arrays:
        text = arrays["ids"] if "ids" in arrays else arrays["x"].ravel()
    starts = np.random.default_rng(seed).integers(0, len(text) - 128, count)
    windows = out.with_suffix(".train.npz")
    np.savez(windows, x=text[starts[:, None] + np.arange(128)])
    task |= {"data": str(place), "calibration": {"data": str(windows.resolve())}}
    path = out.with_suffix(".task.yaml")
    path.write_text(yaml.safe_dump(task))
    return path


def _peak(path: Path) -> int:
    """Bytes of resident memory that opening and running the model adds, in a process of its own."""
    told = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    return int(told.stdout)
