# SPDX-License-Identifier: Apache-2.0
"""How far a model's outputs move when some of its tensors are exchanged: what the bits of a layer are worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgefold.padding import real_positions, without_padding
from edgefold.session import LITTLE_MEMORY, make_session, run

if TYPE_CHECKING:
    import onnxruntime as ort

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

SAMPLES = 64
"""Samples of the calibration data, at least; whole batches. Enough to rank layers whose errors differ by factors."""


def perturb(
    model: ir.Model,
    changes: Iterable[Mapping[str, Array]],
    feeds: Callable[[], Iterable[Feeds]],
    *,
    classes: Collection[str] = (),
) -> Iterator[float]:
    """The error of the outputs for each change: squared differences over the energy of each output, added up.

    What an output has at positions that only fill samples up does not count.

    Args:
        model: with the tensors to exchange among its inputs, and among its initializers, which serve as defaults.
        changes: each a mapping from such inputs to other values; one is taken for each error that is asked for.
        feeds: makes an iterator over batches for the other inputs.
        classes: names of outputs that are scores of classes along their last axis; the error of these is the mean
            Kullback-Leibler divergence of their softmax from what it was, in nats.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    session = make_session(model, config=LITTLE_MEMORY)
    names = [output.name for output in session.get_outputs()]
    batches = _first(feeds())
    real = [real_positions(batch) for batch in batches]
    wanted = [_outputs(session, batch, there) for batch, there in zip(batches, real, strict=True)]
    sizes = [
        max(sum(_rows(one) if name in classes else float(np.vdot(one, one)) for one in same), 1e-30)
        for name, same in zip(names, zip(*wanted, strict=True), strict=True)
    ]
    for change in changes:
        error = 0.0
        for batch, there, references in zip(batches, real, wanted, strict=True):
            outputs = _outputs(session, {**batch, **change}, there)
            for name, output, reference, size in zip(names, outputs, references, sizes, strict=True):
                distance = _divergence if name in classes else _squares
                error += distance(output, reference) / size
        yield error


def _outputs(session: ort.InferenceSession, feeds: Feeds, real: Array | None) -> list[Array]:
    """In float64, without the rows at padding."""
    return [without_padding(output.astype(np.float64), real) for output in run(session, None, feeds)]


def _squares(output: Array, reference: Array) -> float:
    difference = output - reference
    return float(np.vdot(difference, difference))


def _rows(scores: Array) -> int:
    return int(scores.size // max(1, scores.shape[-1]))


def _divergence(output: Array, reference: Array) -> float:
    """Added up over rows."""
    before, after = _log_softmax(reference), _log_softmax(output)
    return float(np.sum(np.exp(before) * (before - after)))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    logarithms: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


def _first(batches: Iterable[Feeds]) -> list[Feeds]:
    """The first batches that together have enough samples."""
    taken: list[Feeds] = []
    for batch in batches:
        taken.append(batch)
        if sum(next(iter(one.values())).shape[0] for one in taken) >= SAMPLES:
            break
    return taken
