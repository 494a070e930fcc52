# SPDX-License-Identifier: Apache-2.0
"""How far a model's outputs move when some of its tensors are exchanged: what the bits of a layer are worth."""

from __future__ import annotations

import functools
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

MAX_KEPT = 256 << 20
"""Bytes of outputs, in float64, that are kept to measure others by."""

_TINY = 1e-30


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
    batches = [(batch, real_positions(batch)) for batch in _first(feeds())]
    wanted = [_outputs(session, batch, real) for batch, real in batches]
    sizes = {name: sum(_size(one[name], name in classes) for one in wanted) for name in (wanted[0] if wanted else ())}
    for change in changes:
        error = 0.0
        for (batch, real), references in zip(batches, wanted, strict=True):
            for name, output in _outputs(session, {**batch, **change}, real).items():
                error += _distance(name in classes)(output, references[name]) / max(sizes[name], _TINY)
        yield error


class Departure:
    """The error of changed models' outputs by what a model gives, as ``perturb`` measures it, on all batches.

    Args:
        model: what the error is counted from; it stays as it is. Its outputs are computed once, and kept as far as
            ``MAX_KEPT`` reaches.
        feeds: makes an iterator over batches, always the same.
        classes: as in ``perturb``.
    """

    def __init__(self, model: ir.Model, feeds: Callable[[], Iterable[Feeds]], *, classes: Collection[str] = ()) -> None:
        self._model, self._feeds, self._classes = model, feeds, classes
        self._kept: list[dict[str, Array]] = []  # of the first batches
        self._room = MAX_KEPT

    def __call__(self, changed: ir.Model) -> float | None:
        """The error of a model with the same inputs and outputs; None where there are no batches.

        Raises:
            ModelError: ONNX Runtime cannot run one of the models.
        """
        session = make_session(changed, config=LITTLE_MEMORY)
        distances: dict[str, float] = {}
        sizes: dict[str, float] = {}
        for number, batch in enumerate(self._feeds()):
            real = real_positions(batch)
            found = _outputs(session, batch, real)
            for name, output in self._wanted(number, batch, real).items():
                classes = name in self._classes
                distances[name] = distances.get(name, 0.0) + _distance(classes)(found[name], output)
                sizes[name] = sizes.get(name, 0.0) + _size(output, classes)
        return sum(distance / max(sizes[name], _TINY) for name, distance in distances.items()) if sizes else None

    def _wanted(self, number: int, batch: Feeds, real: Array | None) -> dict[str, Array]:
        """What the model gives for a batch."""
        if number < len(self._kept):
            return self._kept[number]
        found = _outputs(self._session, batch, real)
        size = sum(output.nbytes for output in found.values())
        if number == len(self._kept) and size <= self._room:
            self._kept.append(found)
            self._room -= size
        return found

    @functools.cached_property
    def _session(self) -> ort.InferenceSession:
        return make_session(self._model, config=LITTLE_MEMORY)


def _outputs(session: ort.InferenceSession, feeds: Feeds, real: Array | None) -> dict[str, Array]:
    """By name, in float64, without the rows at padding."""
    names = [output.name for output in session.get_outputs()]
    found = zip(names, run(session, None, feeds), strict=True)
    return {name: without_padding(output.astype(np.float64), real) for name, output in found}


def _squares(output: Array, reference: Array) -> float:
    difference = output - reference
    return float(np.vdot(difference, difference))


def _size(output: Array, classes: bool) -> float:
    """What its distances are divided by: rows of scores, else its energy."""
    return float(output.size // max(1, output.shape[-1])) if classes else float(np.vdot(output, output))


def _distance(classes: bool) -> Callable[[Array, Array], float]:
    return _divergence if classes else _squares


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
