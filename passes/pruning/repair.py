# SPDX-License-Identifier: Apache-2.0
"""Refit the layers after a cut so that they give what they gave before: least squares with a closed form, no training.

For a layer whose weights W were cut to W_K the best weights are those that solve

    min |X' W' - Y|^2 + ridge * |W' - W_K|^2

with X' its inputs in the cut model, whose earlier layers are refitted already, and Y its outputs in the original. The
bias is the weight of a constant input that the ridge leaves alone. The ridge is the one by which each half of the
batches is predicted best from the other: a few images are too few for all the weights of a late layer. This is the
exact solution that the sweep of SparseGPT (2301.00774), and with it OBSPA (2403.18955), approximates by updating later
columns only. Layers go in the order of the graph; where a layer is added to a tensor, as residual branches are, the sum
is its target.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes._halves import Halves
from edgefold.passes._layer_inputs import Inputs
from edgefold.passes._least_squares import least_squares
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason
from edgefold.passes.pruning.groups import AxisKey, IntArray, Trace
from edgefold.passes.pruning.refittable import Layer, refittable

Scope = Literal["downstream", "readers"]
Method = Literal["least-squares", "bias"]

MAX_ROWS = 32768
"""Rows of inputs that a layer is fitted on: some fifty for each of the 576 inputs of a 3x3 kernel over 64 channels."""
MAX_MOMENT_BYTES = 1 << 30
"""A layer of so many inputs that X'X would be larger keeps its weights."""

_TINY = 1e-30


def repair(
    model: ir.Model,
    original: ir.Model,
    kept: Mapping[AxisKey, IntArray],
    trace: Trace,
    calibration: Calibrates,
    *,
    method: Method = "least-squares",
    scope: Scope = "downstream",
    damping: float | None = None,
    ties: Sequence[Sequence[str]] = (),
    exclude: Callable[[str], bool] = lambda node: False,
) -> Notes:
    """Refit, in place, the Conv, Gemm and MatMul layers of a cut model.

    Args:
        model: cut; nodes and values that it shares with the original have the same names.
        original: prepared, before the cut.
        kept: indices that stay on the axes that changed.
        trace: of the original.
        calibration: supplies the batches.
        method: `bias` leaves the weights and makes up for the shift of the mean only.
        scope: `readers` refits only layers that lost inputs themselves, `downstream` also those after them, whose
            inputs have drifted.
        damping: ridge towards the cut weights, as a fraction of the mean square of the inputs; None chooses it
            for each layer by cross-validation between the halves of the batches.
        ties: names of weights that are one matrix.
        exclude: names of nodes that must not be touched.

    Returns:
        An edit for each refitted layer, a Skip for each one that keeps its weights although its inputs have changed,
        and as stats the mean relative error of the layers' outputs before and after.
    """
    found, skips = refittable(model, kept, trace, ties, exclude)
    wanted = [layer for layer in found if layer.lost or scope == "downstream"]
    layers = [layer for layer in wanted if _affordable(layer)]
    large = (
        Skip(layer.site.label, SkipReason.RANK, f"{layer.site.k} inputs are too many to refit")
        for layer in wanted
        if not _affordable(layer)
    )
    uncut = calibration.through(original, max_rows=MAX_ROWS)
    changed = calibration.through(model, max_rows=MAX_ROWS)
    fits: list[_Fit] = []
    for level in _levels(layers):
        requests = {inputs: [layer.targets for layer in siblings] for inputs, siblings in level.items()}
        moments = changed.regressions(requests, uncut)
        for inputs, siblings in level.items():
            fits.extend(_refit(siblings, moments[inputs], method, damping))
    edits = tuple(Edit(fit.layer.site.label, f"refitted: error {fit.before:.3g} -> {fit.after:.3g}") for fit in fits)
    return Notes(edits, (*skips, *large), _stats(fits))


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Mean squared error of a layer's outputs over their variance, with the cut and with the new weights."""

    layer: Layer
    before: float
    after: float


def _refit(siblings: Sequence[Layer], halves: Halves, method: Method, damping: float | None) -> Iterator[_Fit]:
    """Refits layers that read the same inputs: one system, their outputs side by side."""
    moments = halves.whole
    with_bias = moments.with_bias()
    prior = np.concatenate([layer.weights() for layer in siblings], axis=2)
    if method == "bias":
        fitted = prior.copy()
        fitted[:, -1] += (moments.target_sums - np.einsum("pk,pkn->pn", with_bias.sums, prior)) / moments.count
    else:
        ridge = halves.best_damping(prior) if damping is None else damping
        fitted = least_squares(with_bias.xtx, with_bias.xty, damping=ridge, prior=prior, bias_row=True)
    variance = np.maximum(moments.target_squares - moments.target_sums**2 / moments.count, 0)
    before, after = with_bias.error(prior), with_bias.error(fitted)
    ends = itertools.accumulate(layer.width for layer in siblings)
    for layer, end in zip(siblings, ends, strict=True):
        part = slice(end - layer.width, end)
        scale = max(float(variance[:, part].sum()), _TINY)
        layer.write(fitted[:, :, part])
        yield _Fit(layer, float(before[:, part].sum()) / scale, float(after[:, part].sum()) / scale)


def _levels(layers: Sequence[Layer]) -> Iterator[dict[Inputs, list[Layer]]]:
    """Layers that can be refitted at once, by what they read: none of them waits for another."""
    level: list[Layer] = []
    for layer in layers:
        if level and layer.after >= level[0].number:
            yield _by_inputs(level)
            level = []
        level.append(layer)
    if level:
        yield _by_inputs(level)


def _by_inputs(level: Sequence[Layer]) -> dict[Inputs, list[Layer]]:
    found: dict[Inputs, list[Layer]] = {}
    for layer in level:
        found.setdefault(layer.inputs, []).append(layer)
    return found


def _affordable(layer: Layer) -> bool:
    return 8 * layer.targets.group * layer.site.k**2 <= MAX_MOMENT_BYTES


def _stats(fits: Sequence[_Fit]) -> dict[str, float | int | str]:
    if not fits:
        return {}
    return {
        "refitted": len(fits),
        "error_before": float(np.mean([fit.before for fit in fits])),
        "error_after": float(np.mean([fit.after for fit in fits])),
    }
