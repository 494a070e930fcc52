# SPDX-License-Identifier: Apache-2.0
"""Refit the layers after a cut so that they give what they gave before: least squares with a closed form, no training.

The result is the exact solution that the sweep of SparseGPT (2301.00774), and with it OBSPA (2403.18955), approximates
by updating later columns only. The weights that the ridge pulls towards are those that the cut left. Layers go in the
order of the graph; where a layer is added to a tensor, as residual branches are, the sum is its target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import onnx_ir as ir

from edgefold.passes._refit import MAX_ROWS, refit
from edgefold.passes._refittable import Method
from edgefold.passes.base import Calibrates, Notes
from edgefold.passes.pruning.groups import AxisKey, IntArray, Trace
from edgefold.passes.pruning.refittable import lost_inputs, refittable

Scope = Literal["downstream", "readers"]


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
    wanted = [
        dataclasses.replace(layer, method=method)
        for layer in found
        if scope == "downstream" or lost_inputs(layer.site, kept)
    ]
    uncut = calibration.through(original, max_rows=MAX_ROWS)
    changed = calibration.through(model, max_rows=MAX_ROWS)
    notes = refit(wanted, changed, uncut, damping)
    return dataclasses.replace(notes, skips=(*skips, *notes.skips))
