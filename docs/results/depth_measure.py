# SPDX-License-Identifier: Apache-2.0
"""Measures for docs/results/depth.md: one row with its bytes, metric and processor time, and the latencies of all."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from depth_methods import SUBJECTS, Row
from rows import inputs, made_now, model_and_task, score

import edgefold
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.heal.step import healer
from edgefold.measuring.measure import model_macs
from edgefold.passes._subgraphs import reads
from edgefold.passes.depth.blocks import find_stacks
from edgefold.pipeline import raise_to_minimum_opset, run_recipe
from edgefold.recipe import parse_recipe
from edgefold.scoring.evaluate import evaluate, paired_difference
from edgefold.scoring.task import load_task


def model_file(work: Path, row: Row, seed: int) -> Path:
    """Where the model of a row is kept."""
    return work / f"{row.name(seed).replace(' ', '_')}.onnx"


def measured(data: Path, work: Path, row: Row, seed: int, base: Path | None) -> dict[str, Any]:
    """Makes the model of a row and measures it.

    Args:
        data: folder of models and tasks.
        work: folder of results.
        row: what to make.
        seed: of every random choice.
        base: the model that it starts from; the original where it is None.
    """
    subject = SUBJECTS[row.subject]
    original, task = model_and_task(data, subject.file)
    out = model_file(work, row, seed)
    started = time.process_time()
    notes = _made(original, base or original, out, row, seed)
    seconds = time.process_time() - started
    before, after = score(original, task.path), evaluate(out, task, threads=1, values=row.values)
    change, interval = paired_difference(after, before)
    stored, whole = _block_bytes(original, out), _block_bytes(original, original)
    done, full = _macs(out, row), _macs(original, row)
    return {
        "subject": row.subject,
        "method": row.method,
        "seed": seed,
        "base": row.base,
        "steps": list(row.steps),
        "values": dict(row.values),
        "task": row.task,
        "model": out.name,
        "metric": after.metric,
        "fp32": before.value,
        "value": after.value,
        "change": change,
        "interval": list(interval),
        "block_share": stored / whole,
        "bytes": load_model(out).bytes,
        "macs_share": done / full if done and full and not row.values else None,
        "seconds": seconds,
        **made_now(),
        "notes": json.loads(json.dumps(notes, default=str)),
    }


def latencies(data: Path, work: Path, subject: str, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By method, the median time of one sample over the original's, all of a model's methods in one interleaved run."""
    original, _ = model_and_task(data, SUBJECTS[subject].file)
    first = {str(one["method"]): one for one in reversed(results)}
    plain = [method for method, one in first.items() if not one["values"]]
    paths = [original, *(work / first[method]["model"] for method in plain if method != "original")]
    timed = edgefold.bench(paths, shapes=SUBJECTS[subject].shapes).rows
    found = {row.model: 1 / row.ratio for row in timed if row.ratio}
    shares = {method: found[str(work / first[method]["model"])] for method in plain if method != "original"}
    for method, one in first.items():
        if one["values"]:
            feeds = [f"{name}={value:g}" for name, value in one["values"].items()]
            pair = [original, work / one["model"]]
            ratio = edgefold.bench(pair, shapes=SUBJECTS[subject].shapes, inputs=feeds).rows[-1].ratio
            shares[method] = 1 / ratio if ratio else float("nan")
    return {"original": 1.0, **shares}


def _made(original: Path, start: Path, out: Path, row: Row, seed: int) -> list[dict[str, Any]]:
    """Runs the steps and writes the model; the figures that the steps reported."""
    task = load_task(original.parent / f"{row.task}.yaml")
    teacher = load_model(original).model
    state = out.with_suffix(".heal")
    given = dataclasses.replace(inputs(original, task), heal=healer(teacher, task, seed, state))
    model, _ = raise_to_minimum_opset(load_model(start).model, given)
    recipe = parse_recipe({"steps": [dict(step) for step in row.steps]}, row.name(seed))
    notes: list[dict[str, Any]] = []

    def finished(_index: int, _model: ir.Model, record: Any) -> None:
        said = record.to_json()
        notes.append({"pass": said["pass"], "stats": said["stats"], "table": said["table"], "skips": said["skips"]})

    outside = SUBJECTS[row.subject].outside if any("low-rank" in step.values() for step in row.steps) else ()
    model = run_recipe(model, recipe.steps, given, exclude=tuple(outside), seed=seed, finished=finished)
    save_model(model, out, external=False)
    return notes


def _block_bytes(original: Path, path: Path) -> int:
    """Bytes of all that blocks read: nodes that give no value which the original makes outside of its blocks."""
    graph = load_model(original).model.graph
    stacks = find_stacks(load_model(original).model)
    inside = {
        value.name for stack in stacks for block in stack.blocks for node in block.nodes for value in node.outputs
    }
    outside = {value.name for node in graph for value in node.outputs} - inside
    tensors: dict[int, int] = {}
    for node in load_model(path).model.graph:
        if not any(value.name in outside for value in node.outputs):
            for value in reads(node):
                tensor = value.const_value
                if tensor is not None:
                    tensors[id(tensor)] = tensor.nbytes
    return sum(tensors.values())


def _macs(path: Path, row: Row) -> int | None:
    """Multiply-accumulates at the shapes whose latency is measured; None where branches hide a shape."""
    pairs = [shape.split("=") for shape in SUBJECTS[row.subject].shapes]
    return model_macs(load_model(path).model, {name: tuple(map(int, size.split("x"))) for name, size in pairs})
