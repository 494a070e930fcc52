# SPDX-License-Identifier: Apache-2.0
"""How far a model's outputs move when some of its tensors are exchanged: what the bits of a layer are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.session import LITTLE_MEMORY, make_session, run

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

SAMPLES = 64
"""Samples of the calibration data, at least; whole batches. Enough to rank layers whose errors differ by factors."""


def perturb(
    model: ir.Model, changes: Iterable[Mapping[str, Array]], feeds: Callable[[], Iterable[Feeds]]
) -> Iterator[float]:
    """The error of the outputs for each change: squared differences over the energy of each output, added up.

    Args:
        model: with the tensors to exchange among its inputs, and among its initializers, which serve as defaults.
        changes: each a mapping from such inputs to other values; one is taken for each error that is asked for.
        feeds: makes an iterator over batches for the other inputs.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    session = make_session(model, config=LITTLE_MEMORY)
    batches = _first(feeds())
    references = [[output.astype(np.float64) for output in run(session, None, batch)] for batch in batches]
    energies = [max(sum(float(np.vdot(one, one)) for one in same), 1e-30) for same in zip(*references, strict=True)]
    for change in changes:
        error = 0.0
        for batch, wanted in zip(batches, references, strict=True):
            for output, reference, energy in zip(
                run(session, None, {**batch, **change}), wanted, energies, strict=True
            ):
                difference = output.astype(np.float64) - reference
                error += float(np.vdot(difference, difference)) / energy
        yield error


def _first(batches: Iterable[Feeds]) -> list[Feeds]:
    """The first batches that together have enough samples."""
    taken: list[Feeds] = []
    for batch in batches:
        taken.append(batch)
        if sum(next(iter(one.values())).shape[0] for one in taken) >= SAMPLES:
            break
    return taken
