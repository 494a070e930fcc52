# SPDX-License-Identifier: Apache-2.0
"""How well codes of activations hold what a layer computes: one step a tensor, a step a row, and shifts with either.

Part of docs/results/shiftquant.md. The error is that of the layer's output, with weights as they are, on a sample of
its inputs; nothing is rounded before the layer. It is what the digits of the activations alone cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from rows import inputs, model_and_task

from edgefold.files.loading import load_model
from edgefold.passes import Context, Effect, FoldBatchnorm, Notes, Pass, Simplify
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.quantization.activation_codes import MOST_GROUPS, channel_gram, sampled_rows
from edgefold.passes.quantization.channel_shifts import choose_dynamic, choose_static, output_error
from edgefold.pipeline import raise_to_minimum_opset, run_recipe

BITS = (4, 6)
FORMATS = ("one step", "a step a row", "shifts", "shifts, a step a row")
_TINY = 1e-30


class MeasureActivations(Pass, frozen=True, kw_only=True):
    """Changes nothing: its table has, for every layer, the spread of its input channels and the ratio of signal to
    error of its output, in dB, for every format and width.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        found = (weighted_node(node) for node in model.graph)
        sites = [one for one in found if isinstance(one, WeightedNode) and one.kind != "gather"]
        assert context.calibration is not None
        inner = sites[1:-1]  # the first and the last have 8 bits in the table above
        return Notes(table=tuple(_layer(one, sampled_rows(one, context.calibration)) for one in inner))


def _layer(site: WeightedNode, rows: np.ndarray) -> dict[str, float | str]:
    gram = channel_gram(site)
    centred = rows - rows.mean(axis=0)
    signal = float(np.einsum("ij,ij->", centred.T @ centred, gram, dtype=np.float64)) / len(rows)
    size = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=0))
    measured: dict[str, float | str] = {"layer": site.label, "spread": float(np.log(size[size > 0]).std())}
    for bits in BITS:
        coded = {
            "one step": choose_static(rows, gram, bits, 1),
            "a step a row": choose_dynamic(rows, gram, bits, 1),
            "shifts": choose_static(rows, gram, bits, MOST_GROUPS),
            "shifts, a step a row": choose_dynamic(rows, gram, bits, MOST_GROUPS),
        }
        for name, activation in coded.items():
            if site.kind != "conv" or "row" not in name:
                ratio = signal / max(output_error(rows, gram, activation), _TINY)
                measured[f"{name}, {bits} bits"] = 10 * float(np.log10(max(ratio, _TINY)))
    return measured


def measured_layers(data: Path, name: str) -> dict[str, Any]:
    """The table of one model."""
    path, task = model_and_task(data, name)
    given = inputs(path, task)
    model, _ = raise_to_minimum_opset(load_model(path).model, given)
    tables: list[Mapping[str, Any]] = []
    steps = (Simplify(), FoldBatchnorm(), MeasureActivations())
    run_recipe(model, steps, given, finished=lambda _index, _model, record: tables.extend(record.to_json()["table"]))
    return {"model": name, "layers": tables}


def section(measured: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines of the page."""
    columns = ["model", "layers", "spread", "bits", *FORMATS, "gain of shifts"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [_line(one["model"], one["layers"], bits) for one in measured for bits in BITS]


def _line(model: str, layers: Sequence[Mapping[str, Any]], bits: int) -> str:
    told = {name: [one[key] for one in layers if (key := f"{name}, {bits} bits") in one] for name in FORMATS}
    pairs = (("shifts", "one step"), ("shifts, a step a row", "a step a row"))
    fine, plain = next((a, b) for a, b in reversed(pairs) if told[a])
    gains = [
        one[f"{fine}, {bits} bits"] - one[f"{plain}, {bits} bits"] for one in layers if f"{fine}, {bits} bits" in one
    ]
    cells = [
        model.partition("/")[0],
        str(len(layers)),
        f"{median(one['spread'] for one in layers):.2f}",
        str(bits),
        *(f"{median(told[name]):.1f}" if told[name] else "" for name in FORMATS),
        f"{median(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})",
    ]
    return f"| {' | '.join(cells)} |"
