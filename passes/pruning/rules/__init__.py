# SPDX-License-Identifier: Apache-2.0
"""The operator rules, one family a file: how the indices of a node's inputs and outputs depend on each other."""

from edgefold.passes.pruning.rules.contraction import CONTRACTION
from edgefold.passes.pruning.rules.elementwise import ELEMENTWISE
from edgefold.passes.pruning.rules.layout import LAYOUT
from edgefold.passes.pruning.rules.normalization import NORMALIZATION
from edgefold.passes.pruning.rules.reduction import REDUCTION
from edgefold.passes.pruning.rules.selection import SELECTION
from edgefold.passes.pruning.rules.site import Axes, Findings, OpaqueError, Rule, Site
from edgefold.passes.pruning.rules.spatial import SPATIAL

RULES: dict[str, Rule] = {
    **CONTRACTION, **ELEMENTWISE, **LAYOUT, **NORMALIZATION, **REDUCTION, **SELECTION, **SPATIAL,
}  # fmt: skip

__all__ = ["RULES", "Axes", "Findings", "OpaqueError", "Rule", "Site"]
