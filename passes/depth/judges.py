# SPDX-License-Identifier: Apache-2.0
"""What a choice of parts to remove costs, by what happens to the outputs or to the stream when they are off."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._layer_inputs import Rows
from edgefold.passes.base import Calibrates, Departure, Perturb
from edgefold.passes.depth.blocks import Part
from edgefold.passes.depth.candidates import Move
from edgefold.passes.depth.gates import gated

Float = npt.NDArray[np.floating[Any]]

ROWS = 4096
"""Rows of a stream value that its direction is judged on."""

_CHANNELS_SECOND = frozenset((
    "Conv", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "ShiftConv", "FloatConv",
))  # fmt: skip
_TINY = 1e-30


class Judge(Protocol):
    """The loss of a choice of parts, by their positions; comparable between the choices of one judge."""

    def __call__(self, gone: Move) -> float: ...


class OutputError:
    """The error of the outputs on calibration data, in the unit of what measures it.

    One session serves all choices: the parts have gates, which are inputs. Choices may depend on the losses of others.

    Args:
        model: holds the parts.
        parts: none inside another.
        perturb: as in `Context`; it takes one change after the other and answers each before the next.
    """

    def __init__(self, model: ir.Model, parts: Sequence[Part], perturb: Perturb) -> None:
        copy, self._gates = gated(model, parts)
        self._asked: deque[dict[str, Float]] = deque()
        self._errors = iter(perturb(copy, iter(self._asked.popleft, None)))
        self._known: dict[Move, float] = {frozenset(): 0.0}

    def __call__(self, gone: Move) -> float:
        if gone not in self._known:
            self._asked.append({self._gates[part]: np.zeros(1, np.float32) for part in sorted(gone)})
            self._known[gone] = next(self._errors)
        return self._known[gone]


class RepairedError:
    """The error of the outputs on the odd batches once what is left is repaired on the even ones.

    Args:
        model: holds the parts.
        departure: as in `Context`.
        without: a copy of the model without some parts, repaired on the even batches; asked once for each choice.

    Attributes:
        unseen: the error of a model's outputs on the odd batches; None where there is none.
    """

    def __init__(self, model: ir.Model, departure: Departure, without: Callable[[Move], ir.Model]) -> None:
        self.unseen, self._seen = departure(model, 1), departure(model, 0)
        self._without = without
        self._known: dict[Move, float] = {}

    def __call__(self, gone: Move) -> float:
        if gone not in self._known:
            repaired = self._without(gone)
            error = self.unseen(repaired)
            if error is None:  # there is one batch, or none
                error = self._seen(repaired) or 0.0
            self._known[gone] = math.inf if math.isnan(error) else error
        return self._known[gone]


class MacroInfluence:
    """One minus the mean cosine between the last stream value without the parts and with them.

    The score of FuseGPT (arXiv 2411.14507, section 3.2), against the original however many parts are gone.

    Args:
        model: holds the parts.
        parts: none inside another.
        last: the part whose end is compared.
        calibration: supplies the batches.
    """

    def __init__(self, model: ir.Model, parts: Sequence[Part], last: Part, calibration: Calibrates) -> None:
        self._copy, names = gated(model, parts)
        self._gates = [self._copy.graph.initializers[name] for name in names]
        for gate in self._gates:  # constants, not inputs: a calibration feeds the model's own inputs only
            self._copy.graph.inputs.remove(gate)
        self._rows = Rows(str(last.end.name), _channel_axis(last))
        self._calibration = calibration
        self._whole = self._stream(frozenset())
        self._known: dict[Move, float] = {frozenset(): 0.0}

    def __call__(self, gone: Move) -> float:
        if gone not in self._known:
            self._known[gone] = 1 - _mean_cosine(self._whole, self._stream(gone))
        return self._known[gone]

    def _stream(self, gone: Move) -> Float:
        for position, gate in enumerate(self._gates):
            gate.const_value = ir.tensor(np.full(1, position not in gone, np.float32), name=gate.name)
        found: Float = self._calibration.through(self._copy).rows([self._rows], ROWS)[self._rows]
        return found


class Additive:
    """The sum of scores that each part has of its own: no part knows which others are gone."""

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = tuple(scores)

    def __call__(self, gone: Move) -> float:
        return sum(self._scores[position] for position in sorted(gone))


def block_influence(model: ir.Model, parts: Sequence[Part], calibration: Calibrates) -> list[float]:
    """For each part one minus the mean cosine between the stream before and behind it (ShortGPT, arXiv 2403.03853).

    Args:
        model: holds the parts.
        parts: in any order.
        calibration: supplies the batches.
    """
    pairs = [(Rows(str(p.start.name), _channel_axis(p)), Rows(str(p.end.name), _channel_axis(p))) for p in parts]
    seen = calibration.through(model).rows(list(dict.fromkeys(one for pair in pairs for one in pair)), ROWS)
    return [1 - _mean_cosine(seen[start], seen[end]) for start, end in pairs]


def _mean_cosine(left: Float, right: Float) -> float:
    """Over rows, [1, rows, K] each."""
    a, b = left[0].astype(np.float64), right[0].astype(np.float64)
    products = np.einsum("rk,rk->r", a, b)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean(products / np.maximum(norms, _TINY)))


def _channel_axis(part: Part) -> int:
    """The axis of the stream along which a position's features run: 1 where a convolution or its norm reads it."""
    readers = {use.node.op_type for use in part.start.uses() if use.node in part.nodes}
    return 1 if readers & _CHANNELS_SECOND else -1
