# SPDX-License-Identifier: Apache-2.0
"""The two sides of the before/after table, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefold.files.loading import LoadedModel, load_model
from edgefold.float_caches import native_call
from edgefold.measuring.latency import interleave, pinned
from edgefold.measuring.measure import bits_per_weight, model_macs, model_weights
from edgefold.pipeline import Inputs
from edgefold.report import Figures
from edgefold.scoring.evaluate import Evaluation
from edgefold.session import make_session

LATENCY_SECONDS = 2.0  # for both models together


def measured_figures(
    loaded: LoadedModel, written: Path, before: Evaluation | None, after: Evaluation | None, inputs: Inputs
) -> tuple[Figures, Figures, str]:
    """Figures of the original and of the written file, and how the latency was taken."""
    result = load_model(written)
    old_ms, new_ms, busy = None, None, ""
    if inputs.probe:
        sample = one_sample(inputs)
        with pinned(1):
            old, new = make_session(loaded.model, threads=1), make_session(written, threads=1)
            times = interleave({"old": native_call(old, sample), "new": native_call(new, sample)}, LATENCY_SECONDS)
        old_ms, new_ms = times["old"].median, times["new"].median
        busy = ", on a machine busy with other work" if any(one.disturbed for one in times.values()) else ""
    return (
        _figures(loaded, before, inputs, old_ms),
        _figures(result, after, inputs, new_ms),
        f"one sample, 1 thread, against the original in ONNX Runtime{busy}",
    )


def one_sample(inputs: Inputs) -> dict[str, np.ndarray]:
    """The probe cut to the shapes of one sample."""
    assert inputs.probe is not None
    return {name: array[: inputs.shapes[name][0]] if array.ndim else array for name, array in inputs.probe.items()}


def _figures(model: LoadedModel, score: Evaluation | None, inputs: Inputs, latency: float | None) -> Figures:
    shapes = inputs.shapes
    macs = model_macs(model.model, shapes) if shapes else None
    batch = next((shape[0] for shape in shapes.values() if shape), 1)
    return Figures(
        bytes=model.bytes,
        weights=model_weights(model.model),
        macs=None if macs is None else macs // max(batch, 1),
        metric=score.to_json() if score else None,
        latency_ms=latency,
        bits_per_weight=bits_per_weight(model.model),
    )
