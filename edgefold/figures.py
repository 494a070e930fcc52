# SPDX-License-Identifier: Apache-2.0
"""The two sides of the before/after table, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgefold.evaluate import Evaluation
from edgefold.loading import LoadedModel, load_model
from edgefold.measure import bits_per_weight, model_macs, model_weights
from edgefold.pipeline import Inputs
from edgefold.report import Figures
from edgefold.session import make_session

LATENCY_SECONDS = 2.0  # for both models together
LEAST_RUNS = 5


def measured_figures(
    loaded: LoadedModel, written: Path, before: Evaluation | None, after: Evaluation | None, inputs: Inputs
) -> tuple[Figures, Figures, str]:
    """Figures of the original and of the written file, and how the latency was taken."""
    result = load_model(written)
    old_ms, new_ms = None, None
    if inputs.probe:
        sample = one_sample(inputs)
        sessions = [make_session(loaded.path, threads=1), make_session(written, threads=1)]
        old_ms, new_ms = interleaved_medians(sessions, sample)
    return (
        _figures(loaded, before, inputs, old_ms),
        _figures(result, after, inputs, new_ms),
        "one sample, 1 thread, against the original in ONNX Runtime",
    )


def one_sample(inputs: Inputs) -> dict[str, np.ndarray]:
    """The probe cut to the shapes of one sample."""
    assert inputs.probe is not None
    return {name: array[: inputs.shapes[name][0]] if array.ndim else array for name, array in inputs.probe.items()}


def interleaved_medians(
    sessions: Sequence[ort.InferenceSession], feeds: Mapping[str, np.ndarray], seconds: float = LATENCY_SECONDS
) -> list[float]:
    """Median milliseconds of a run of each session, taken in turns so that the machine's moods hit all alike."""
    for session in sessions:
        session.run(None, dict(feeds))
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < LEAST_RUNS:
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, dict(feeds))
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def _figures(model: LoadedModel, score: Evaluation | None, inputs: Inputs, latency: float | None) -> Figures:
    shapes = {name: tuple(shape) for name, shape in inputs.shapes.items()}
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
