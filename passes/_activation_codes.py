# SPDX-License-Identifier: Apache-2.0
"""Chooses, node by node, how activations become 8-bit codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgefold.passes._shift_nodes import FLOAT_ACTIVATION, Activation
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Context, Skip, SkipReason

DYNAMIC_ACTIVATION = Activation(-127, 127, 0.0)


def choose_activations(
    sites: Sequence[WeightedNode], asked: Mapping[ir.Node, int | str], context: Context
) -> tuple[dict[ir.Node, Activation], list[Skip]]:
    """The activation codes of every node, and a Skip for each that gets less than was asked for."""
    chosen: dict[ir.Node, Activation] = {}
    skips: list[Skip] = []
    for site in sites:
        wanted = asked[site.node]
        if site.kind == "gather" or wanted == "float":
            chosen[site.node] = FLOAT_ACTIVATION
        elif site.kind == "conv":
            chosen[site.node] = FLOAT_ACTIVATION
            skips.append(Skip(site.label, SkipReason.NO_CALIBRATION, "activations stay float"))
        else:
            chosen[site.node] = DYNAMIC_ACTIVATION
    return chosen, skips
