# SPDX-License-Identifier: Apache-2.0
"""Refit the layers after a change so that they give what they gave before: least squares, no training.

For a layer with weights W the best new weights are those that solve

    min |X' W' - Y|^2 + ridge * |W' - W|^2

with X' its inputs in the changed model, whose earlier layers are refitted already, and Y its outputs in the original.
The bias is the weight of a constant input that the ridge leaves alone. The ridge is the one by which each half of the
batches is predicted best from the other: a few images are too few for all the weights of a late layer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgefold.errors import ModelError
from edgefold.passes._halves import Halves
from edgefold.passes._layer_inputs import Inputs
from edgefold.passes._least_squares import least_squares
from edgefold.passes._refittable import Layer, Matrix
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason

MAX_ROWS = 32768
"""Rows of inputs that a layer is fitted on: some fifty for each of the 576 inputs of a 3x3 kernel over 64 channels."""
MAX_MOMENT_BYTES = 1 << 30
"""A layer of so many inputs that X'X would be larger keeps its weights."""

_TINY = 1e-30
_Level = Mapping[Inputs, Sequence[Layer]]
"""Layers that can be refitted at once, by what they read."""


def refit(layers: Sequence[Layer], changed: Calibrates, uncut: Calibrates, damping: float | None = None) -> Notes:
    """Refits layers in place, in the order of the graph.

    Args:
        layers: of the changed model, in the order of the graph, numbered.
        changed: on the changed model; reads the layers that are refitted already with their new weights.
        uncut: on the original, the same batches.
        damping: ridge towards the weights that are there, as a fraction of the mean square of the inputs; None
            chooses it for each layer by cross-validation between the halves of the batches.

    Returns:
        An edit for each refitted layer, a Skip for each one that is too large or whose statistics cannot be had, and as
        stats the mean relative error of the layers' outputs before and after.
    """
    fits: list[_Fit] = []
    skips = [
        Skip(layer.site.label, SkipReason.RANK, f"{layer.site.k} inputs are too many to refit")
        for layer in layers
        if not _affordable(layer)
    ]
    for level in _levels([layer for layer in layers if _affordable(layer)]):
        moments, failures = _observed(level, changed, uncut)
        skips.extend(failures)
        for inputs, halves in moments.items():
            fits.extend(_fit(level[inputs], halves, damping))
    edits = tuple(Edit(fit.layer.site.label, f"refitted: error {fit.before:.3g} -> {fit.after:.3g}") for fit in fits)
    return Notes(edits, tuple(skips), _stats(fits))


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Mean squared error of a layer's outputs over their variance, with the old and with the new weights."""

    layer: Layer
    before: float
    after: float


def _observed(level: _Level, changed: Calibrates, uncut: Calibrates) -> tuple[Mapping[Inputs, Halves], Sequence[Skip]]:
    """The moments of a level, in one run over the data where possible, and the layers that calibration cannot see."""
    requests = {inputs: [layer.targets for layer in siblings] for inputs, siblings in level.items()}
    try:
        moments = changed.regressions(requests, uncut)
    except ModelError as error:
        if len(level) == 1:
            [siblings] = level.values()
            return {}, [Skip(layer.site.label, SkipReason.FALLBACK, f"{error}: no refit") for layer in siblings]
        alone = [_observed({inputs: siblings}, changed, uncut) for inputs, siblings in level.items()]
        found = {inputs: halves for moments, _ in alone for inputs, halves in moments.items()}
        return found, [skip for _, skips in alone for skip in skips]
    narrow = [inputs for inputs, siblings in level.items() if _width(siblings) != moments[inputs].even.xty.shape[2]]
    why = "is broadcast into the sum that it is a term of: no refit"
    skips = [Skip(layer.site.label, SkipReason.RANK, why) for inputs in narrow for layer in level[inputs]]
    return {inputs: halves for inputs, halves in moments.items() if inputs not in narrow}, skips


def _width(siblings: Sequence[Layer]) -> int:
    """Outputs of one run of layers that read the same inputs."""
    return sum(layer.width for layer in siblings)


def _fit(siblings: Sequence[Layer], halves: Halves, damping: float | None) -> Iterator[_Fit]:
    """Refits layers that read the same inputs: one system, their outputs side by side."""
    moments = halves.whole
    with_bias = moments.with_bias()
    prior = np.concatenate([layer.weights() for layer in siblings], axis=2)
    fitted = _solve(siblings, halves, prior, damping)
    variance = np.maximum(moments.target_squares - moments.target_sums**2 / moments.count, 0)
    before, after = with_bias.error(prior), with_bias.error(fitted)
    ends = itertools.accumulate(layer.width for layer in siblings)
    for layer, end in zip(siblings, ends, strict=True):
        part = slice(end - layer.width, end)
        scale = max(float(variance[:, part].sum()), _TINY)
        layer.write(fitted[:, :, part])
        yield _Fit(layer, float(before[:, part].sum()) / scale, float(after[:, part].sum()) / scale)


def _solve(siblings: Sequence[Layer], halves: Halves, prior: Matrix, damping: float | None) -> Matrix:
    """The new weights, float64 [P, K + 1, N / P]."""
    moments = halves.whole.with_bias()
    shifted = prior.copy()  # the weights with the bias that makes up for the shift of the mean
    shifted[:, -1] += (moments.target_sums - np.einsum("pk,pkn->pn", moments.sums, prior)) / moments.count
    if all(layer.method == "bias" for layer in siblings):
        return shifted
    ridge = halves.best_damping(prior) if damping is None else damping
    fitted = least_squares(moments.xtx, moments.xty, damping=ridge, prior=prior, bias_row=True)
    kept = np.concatenate([np.full(layer.width, layer.method == "bias") for layer in siblings])
    return np.where(kept, shifted, fitted)


def _levels(layers: Sequence[Layer]) -> Iterator[_Level]:
    """Levels in which no layer waits for another."""
    level: list[Layer] = []
    for layer in layers:
        if level and layer.after >= level[0].number:
            yield _by_inputs(level)
            level = []
        level.append(layer)
    if level:
        yield _by_inputs(level)


def _by_inputs(level: Sequence[Layer]) -> _Level:
    found: dict[Inputs, list[Layer]] = {}
    for layer in level:
        found.setdefault(layer.inputs, []).append(layer)
    return found


def _affordable(layer: Layer) -> bool:
    return 8 * layer.targets.group * layer.site.k**2 <= MAX_MOMENT_BYTES


def _stats(fits: Sequence[_Fit]) -> Mapping[str, float | int | str]:
    if not fits:
        return {}
    return {
        "refitted": len(fits),
        "error_before": float(np.mean([fit.before for fit in fits])),
        "error_after": float(np.mean([fit.after for fit in fits])),
    }
