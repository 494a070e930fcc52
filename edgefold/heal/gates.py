# SPDX-License-Identifier: Apache-2.0
"""Gates at the parts of a model, learned together: which of them the outputs can best do without.

After FoldGPT's gated block removal (arXiv 2407.00928, section 3.2), of which no code was published. The backbone is
frozen, and one number a gate is learned. Because all are learned at once, the worth of a part depends on which others
are closed, which scores of single parts cannot know.

Two things differ from the usual smoothed gate with a price on its sum. A loss that is smooth in the gates is least
where all are half open, which says little about closing some; so gates are random and mostly at 0 or 1 (hard concrete,
Louizos et al. 2018, arXiv 1712.01312, section 2.2), and the loss is one of models with parts really missing. And the
sum is held at the budget at every step, by one shift of all gates, so that they compete from the beginning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from edgefold.errors import UsageError
from edgefold.heal.graph_module import GraphModule
from edgefold.heal.objective import make_objective
from edgefold.heal.samples import Samples, read_samples
from edgefold.heal.teacher import Teacher
from edgefold.interface import ModelInterface
from edgefold.passes.heal import Heal
from edgefold.session import LITTLE_MEMORY, make_session

if TYPE_CHECKING:
    from edgefold.scoring.task import Task

STEPS = 150
DRAWS = 8  # of all gates, in a step; many, because they are what the loss scatters most with
SAMPLES = 1  # that see one draw
RATE = 0.15  # at first; it falls to 0 along half a cosine
TEMPERATURE = 2 / 3  # of the hard concrete distribution, its authors' choice
STRETCH = 0.1  # beyond 0 and 1, so that a draw is often at one of them exactly
CHOICES = 32  # that are tried in the end
JUDGED = 64  # samples that those are tried on
ROUNDING = 1e-5
HALVINGS, FARTHEST, LEAST_SLOPE = 60, 30.0, 1e-6


def learn_gates(model: ir.Model, costs: Mapping[str, float], keep: float, task: Task, seed: int) -> dict[str, float]:
    """How open each gate is, from 0 to 1, where what stays costs a share of all that gates can close.

    Args:
        model: not changed; its gates are float32 [1] inputs with 1 as the default, at which it is the original.
        costs: of what stands behind each gate, by the gate's name, in any unit; all alike where their sum is 0.
        keep: share of the sum that stays, between 0 and 1.
        task: its calibration data and metric say what the outputs are compared on, and how.
        seed: of the samples' order and of the draws.

    Raises:
        ModelError: the model has operators without a gradient.
        UsageError: no output is a float, or there are too few samples for the draws of a step.
    """
    if not costs or not 0 < keep < 1:
        return dict.fromkeys(costs, float(keep >= 1))
    shares = torch.tensor(list(costs.values()), dtype=torch.float32)
    shares = shares / shares.sum() if float(shares.sum()) > 0 else torch.full_like(shares, 1 / len(shares))
    scores = torch.zeros(len(shares), requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=RATE, betas=(0.9, 0.95))
    random = np.random.default_rng(seed)
    loss_of = _Losses(model, tuple(costs), task, seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        places = _within_budget(scores, shares, keep)
        optimizer.zero_grad()
        loss_of(step, [_drawn(places, random) for _ in range(DRAWS)]).backward()
        optimizer.step()
    places = _within_budget(scores, shares, keep).detach()
    closed = _most_harmless(_likely_choices(places, shares, keep, random), loss_of)
    opened = torch.sigmoid(places)
    values = torch.where(closed, opened / 2, (1 + opened) / 2)
    return dict(zip(costs, values.tolist(), strict=True))


def _likely_choices(places: Tensor, shares: Tensor, keep: float, random: np.random.Generator) -> list[Tensor]:
    """Which gates to close, bool [gates] each: as they rank, and as they rank in draws."""
    found: dict[tuple[bool, ...], None] = {}
    for number in range(CHOICES):
        noise = random.logistic(size=len(places)).astype(np.float32) if number else np.zeros(len(places), np.float32)
        order = torch.argsort(places + torch.from_numpy(noise))
        gone = torch.cumsum(shares[order], 0) - shares[order]  # before each one in the order
        closed = torch.zeros(len(places), dtype=torch.bool)
        closed[order[gone < 1 - keep - ROUNDING]] = True
        found[tuple(closed.tolist())] = None
    return [torch.tensor(choice) for choice in found]


def _most_harmless(choices: Sequence[Tensor], loss_of: _Losses) -> Tensor:
    """The choice that, made in earnest, moves the outputs least: draws near the end tell close ones badly apart."""
    losses = [loss_of.on_judged((~choice).float()) for choice in choices]
    return choices[int(np.argmin(losses))]


def _drawn(places: Tensor, random: np.random.Generator) -> Tensor:
    """Gates [gates] of a hard concrete distribution, which are open with about the probability sigmoid(places)."""
    noise = torch.from_numpy(random.logistic(size=len(places)).astype(np.float32))
    smooth = torch.sigmoid((places + noise) / TEMPERATURE)
    return (smooth * (1 + 2 * STRETCH) - STRETCH).clamp(0, 1)


def _within_budget(scores: Tensor, shares: Tensor, keep: float) -> Tensor:
    """Scores [gates] less the number that makes the shares that are open, in the mean, add up to ``keep``."""
    fixed = scores.detach()
    low, high = fixed.min() - FARTHEST, fixed.max() + FARTHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = float((shares * torch.sigmoid(fixed - middle)).sum()) > keep
        low, high = (middle, high) if too_much else (low, middle)
    opened = torch.sigmoid(scores - low)
    slope = (shares * opened * (1 - opened)).sum().detach().clamp_min(LEAST_SLOPE)
    # A step of Newton's method that changes no value and carries the derivative of the shift by the scores.
    shift = low + ((shares * opened).sum() - keep) / slope
    return scores - shift


class _Losses:
    """How far the outputs move from the original's, on calibration data, when gates close."""

    def __init__(self, model: ir.Model, gates: Sequence[str], task: Task, seed: int) -> None:
        # Heal's own temperature is for students that learn from small probabilities; here only ranks matter.
        options = Heal(batch=DRAWS * SAMPLES, temperature=1.0)
        interface = ModelInterface.of(make_session(model, config=LITTLE_MEMORY))
        self._samples = read_samples(task, interface, options, seed)
        self._size = DRAWS * (self._samples.chunk or SAMPLES)
        if len(self._samples.training) < self._size:
            raise UsageError(_too_few(self._samples, task))
        probe = self._samples.take(self._samples.training[: self._samples.chunk or 1])
        self._objective = make_objective(options, task, interface, model, model, probe)
        self._teacher = Teacher(model, self._objective.of_teacher)
        self._module = GraphModule(_without_defaults(model, gates)).requires_grad_(False)
        self._gates, self._seed = gates, seed

    def __call__(self, step: int, draws: Sequence[Tensor]) -> Tensor:
        """The loss over the samples of a step, each draw of gates shown to its part of them."""
        return self._over(self._rows(step), draws)

    def _over(self, rows: np.ndarray[Any, Any], draws: Sequence[Tensor]) -> Tensor:
        feeds = self._samples.take(rows)
        wanted = self._wanted(feeds)
        fed = {name: torch.from_numpy(np.asarray(value, order="C")) for name, value in feeds.items()}
        size = self._size // DRAWS
        parts: list[dict[str, Tensor]] = []
        for number, draw in enumerate(draws):
            part = {name: value[number * size : (number + 1) * size] for name, value in fed.items()}
            parts.append(self._module({**part, **dict(zip(self._gates, draw.split(1), strict=True))}))
        given = {name: torch.cat([part[name] for part in parts]) for name in wanted}
        loss: Tensor = self._objective(given, wanted, None, fed)
        return loss

    def _wanted(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
        """The original's outputs, computed by so many samples at once as its batch is where that is fixed."""
        rows = next(len(value) for value in feeds.values() if value.ndim)
        chunk = self._samples.chunk or rows
        parts = [
            self._teacher({k: value[start : start + chunk] if value.ndim else value for k, value in feeds.items()})
            for start in range(0, rows, chunk)
        ]
        return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    def on_judged(self, gates: Tensor) -> float:
        """The loss over some samples that are always the same, with the same gates for all."""
        rows = self._samples.training[: max(JUDGED // self._size, 1) * self._size]
        losses = []
        for start in range(0, len(rows), self._size):
            with torch.no_grad():
                losses.append(float(self._over(rows[start : start + self._size], [gates] * DRAWS)))
        return float(np.mean(losses))

    def _rows(self, step: int) -> np.ndarray[Any, Any]:
        count = len(self._samples.training) // self._size
        epoch, position = divmod(step, count)
        rows: np.ndarray[Any, Any] = self._samples.batches(self._size, self._seed, epoch)[position]
        return rows


def _too_few(samples: Samples, task: Task) -> str:
    unit = samples.chunk or SAMPLES
    fixed = f" for a model whose batch is {samples.chunk}" if samples.chunk else ""
    return (
        f"{task.path}: criterion gates needs {(DRAWS + 1) * unit} calibration samples{fixed}, and there are "
        f"{len(samples)}; give more, or take criterion greedy"
    )


def _without_defaults(model: ir.Model, gates: Sequence[str]) -> ir.Model:
    """A copy that has to be fed its gates."""
    copy = model.clone()
    for name in gates:
        copy.graph.initializers.pop(name).const_value = None
    return copy
