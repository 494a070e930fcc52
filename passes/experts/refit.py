# SPDX-License-Identifier: Apache-2.0
"""The last matrices of merged or surviving experts, solved anew so that the layer gives what it gave before.

A layer's output is linear in those matrices: y = sum_c G_c(x) h_c(x) W_c, with G_c the gate of expert c and h_c its
hidden units. With the rows G_c h_c as inputs it is ordinary least squares, weighted by the square of the gate:

- `joint` solves for all experts together, against the output of the original layer, so that they make up for each other
  and for what earlier layers have lost;
- `gated` solves for each expert alone, against what its members gave together on the same rows, sum_e g_e E_e(x): a
  system of f inputs instead of M f;
- `plain` is MergeMoE (arXiv 2510.14436, section 4): all rows alike, routed there or not, against the mean of the
  members weighted by their frequency.

An expert's bias behind the last matrix is the weight of one more input, the gate itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes._halves import Halves
from edgefold.passes._least_squares import least_squares
from edgefold.passes._moments import Moments
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.feed_forward import FeedForward, layer_output

Matrix = NDArray[np.float64]

MAX_INPUTS = 4096
"""Inputs of one system; above it the experts are solved for one after another."""
_SWEEPS = 3  # over experts that are solved for one after another
_CHUNK = 4096  # rows whose hidden units are held at once
_TINY = 1e-30


def joint(
    experts: Sequence[FeedForward], gates: Array, x: Array, wanted: Array, *, most: int = MAX_INPUTS
) -> list[FeedForward]:
    """All last matrices together: the least squared error of the layer's output.

    Args:
        experts: M of them, merged or surviving.
        gates: [rows, M].
        x: [rows, d], inputs in the changed model.
        wanted: [rows, n], what the layer gave in the original.
        most: hidden units that are solved for at once; if all experts have more, each takes what the others leave, in
            turn, until little changes (block coordinate descent on the same objective).
    """
    priors = [expert.last() for expert in experts]
    if sum(map(len, priors)) > most:
        return _in_turn(experts, gates, x, wanted)
    fitted = _solve(_halves(_features(experts, gates, x), x, wanted), np.concatenate(priors))
    ends = np.cumsum([len(prior) for prior in priors])[:-1]
    return [expert.with_last(part) for expert, part in zip(experts, np.split(fitted, ends), strict=True)]


def _in_turn(experts: Sequence[FeedForward], gates: Array, x: Array, wanted: Array) -> list[FeedForward]:
    found = list(experts)
    missing = wanted - layer_output(found, gates, x)
    for _ in range(_SWEEPS):
        for number, expert in enumerate(found):
            rows = np.flatnonzero(gates[:, number])
            if not len(rows):
                continue
            gate, inputs = gates[rows, number : number + 1], x[rows]
            target = missing[rows] + gate * expert(inputs)
            found[number] = _fitted(expert, gate, inputs, target)
            missing[rows] = target - gate * found[number](inputs)
    return found


def gated(expert: FeedForward, members: Sequence[FeedForward], gates: Array, x: Array) -> FeedForward:
    """One last matrix, against the members' sum by their gates on the rows that reach the group.

    Args:
        expert: merged of the members.
        members: as they were.
        gates: [rows, len(members)].
        x: [rows, d].
    """
    rows = np.flatnonzero(gates.any(axis=1))
    if not len(rows):
        return expert
    x, gates = x[rows], gates[rows]
    return _fitted(expert, gates.sum(axis=1, keepdims=True), x, layer_output(members, gates, x))


def plain(expert: FeedForward, members: Sequence[FeedForward], shares: NDArray[np.float64], x: Array) -> FeedForward:
    """One last matrix, against the mean of the members weighted by `shares` [len(members)], on all rows x [rows, d]."""
    alike = np.broadcast_to(shares / max(shares.sum(), _TINY), (len(x), len(members))).astype(x.dtype)
    return gated(expert, members, alike, x)


def last_inputs(expert: FeedForward, gate: Array, x: Array) -> Moments:
    """Moments of what `expert.last()` is multiplied with on the rows x [rows, d], times their gates [rows]."""
    found = Moments.zeros(1, len(expert.last()))
    for part in _features([expert], gate[:, None], x):
        found.add(part[None])
    return found


def _fitted(expert: FeedForward, gate: Array, x: Array, wanted: Array) -> FeedForward:
    """The expert whose output times its gate [rows, 1] comes nearest to what is wanted."""
    return expert.with_last(_solve(_halves(_features([expert], gate, x), x, wanted), expert.last()))


def _features(experts: Sequence[FeedForward], gates: Array, x: Array) -> Iterator[Array]:
    """Chunk by chunk the rows G_c h_c of all experts side by side, [rows, sum of widths]."""
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield np.concatenate([_inputs(one, gates[part, c], x[part]) for c, one in enumerate(experts)], axis=1)


def _inputs(expert: FeedForward, gate: Array, x: Array) -> Array:
    """The rows that the last matrix of one expert is multiplied with, times their gate; 0 where that is 0."""
    inputs = np.zeros((len(x), len(expert.last())), dtype=x.dtype)
    rows = np.flatnonzero(gate)
    inputs[rows, : expert.width] = gate[rows, None] * expert.hidden(x[rows])
    inputs[:, expert.width :] = gate[:, None]
    return inputs


def _halves(features: Iterator[Array], x: Array, wanted: Array) -> Halves:
    """Moments of the first and of the second half of the rows, which come from different batches."""
    found: Halves | None = None
    start = 0
    for part in features:
        if found is None:
            found = Halves(*(Moments.zeros(1, part.shape[1], wanted.shape[1]) for _ in range(2)))
        split = int(np.clip(len(x) // 2 - start, 0, len(part)))
        targets = wanted[start : start + len(part)]
        found.even.add(part[None, :split], targets[None, :split])
        found.odd.add(part[None, split:], targets[None, split:])
        start += len(part)
    assert found is not None
    return found


def _solve(halves: Halves, prior: Matrix) -> Matrix:
    damping = halves.best_damping(prior[None], bias=False)
    whole = halves.whole
    return least_squares(whole.xtx[0], whole.xty[0], damping=damping, prior=prior)
