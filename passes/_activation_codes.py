# SPDX-License-Identifier: Apache-2.0
"""Chooses, node by node, how activations become 8-bit codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._ranges import Range
from edgefold.passes._shift_nodes import FLOAT_ACTIVATION, Activation
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Context, Skip, SkipReason

DYNAMIC_ACTIVATION = Activation(-127, 127, 0.0)


def choose_activations(
    sites: Sequence[WeightedNode], asked: Mapping[ir.Node, int | str], context: Context
) -> tuple[dict[ir.Node, Activation], list[Skip]]:
    """The activation codes of every node, and a Skip for each that gets less than was asked for.

    Args:
        sites: the nodes.
        asked: for each, `float`, `dynamic8`, `static8`, or 8: static for convolutions, dynamic for the others.
        context: its calibration gives the ranges of static codes.
    """
    static = [site for site in sites if _is_static(site, asked[site.node])]
    ranges = _observe([str(site.data.name) for site in static], context)
    chosen: dict[ir.Node, Activation] = {}
    skips: list[Skip] = []
    for site in sites:
        wanted = asked[site.node]
        if site.kind == "gather" or wanted == "float":
            chosen[site.node] = FLOAT_ACTIVATION
        elif _is_static(site, wanted):
            observed = ranges.get(str(site.data.name))
            chosen[site.node] = _static(observed) if isinstance(observed, Range) else _substitute(site)
            if not isinstance(observed, Range):
                what = "activations stay float" if site.kind == "conv" else "activations are quantized per row instead"
                reason = SkipReason.NO_CALIBRATION if observed is None else SkipReason.FALLBACK
                skips.append(Skip(site.label, reason, f"{observed}: {what}" if observed else what))
        elif site.kind == "conv":
            chosen[site.node] = FLOAT_ACTIVATION
            skips.append(
                Skip(site.label, SkipReason.FALLBACK, "a convolution has no dynamic activations: they stay float")
            )
        else:
            chosen[site.node] = DYNAMIC_ACTIVATION
    return chosen, skips


def _is_static(site: WeightedNode, wanted: int | str) -> bool:
    return wanted == "static8" or (wanted == 8 and site.kind == "conv")


def _substitute(site: WeightedNode) -> Activation:
    return FLOAT_ACTIVATION if site.kind == "conv" else DYNAMIC_ACTIVATION


def _static(observed: Range) -> Activation:
    """Unsigned codes for what is never negative (after a ReLU), else symmetric ones."""
    low, high = (0, 255) if observed.low >= 0 else (-127, 127)
    return Activation(low, high, float(np.float32(observed.scale(low, high))))


def _observe(tensors: Sequence[str], context: Context) -> dict[str, Range | str]:
    """Ranges of tensors; the reason where one could not be observed; nothing without calibration."""
    if context.calibration is None or not tensors:
        return {}
    names = list(dict.fromkeys(tensors))
    try:
        found: dict[str, Range | str] = dict(context.calibration.ranges(names))
    except ModelError as error:
        if len(names) == 1:
            return {names[0]: str(error)}
        half = len(names) // 2
        return {**_observe(names[:half], context), **_observe(names[half:], context)}
    return {name: seen for name, seen in found.items() if isinstance(seen, Range) and np.isfinite(seen.low)}
