# SPDX-License-Identifier: Apache-2.0
"""The operator rules, one family a file: how the indices of a node's inputs and outputs depend on each other."""

from edgefold.passes.pruning.rules.attention import ATTENTION
from edgefold.passes.pruning.rules.contraction import CONTRACTION
from edgefold.passes.pruning.rules.control_flow import CONTROL_FLOW
from edgefold.passes.pruning.rules.creation import CREATION
from edgefold.passes.pruning.rules.einsum import EINSUM
from edgefold.passes.pruning.rules.elementwise import ELEMENTWISE
from edgefold.passes.pruning.rules.indexing import INDEXING
from edgefold.passes.pruning.rules.layout import LAYOUT
from edgefold.passes.pruning.rules.normalization import NORMALIZATION
from edgefold.passes.pruning.rules.quantization import QUANTIZATION
from edgefold.passes.pruning.rules.recurrent import RECURRENT
from edgefold.passes.pruning.rules.reduction import REDUCTION
from edgefold.passes.pruning.rules.selection import SELECTION
from edgefold.passes.pruning.rules.site import Axes, Findings, OpaqueError, Rule, Site
from edgefold.passes.pruning.rules.spatial import SPATIAL

RULES: dict[str, Rule] = {
    **ATTENTION,
    **CONTRACTION,
    **CONTROL_FLOW,
    **CREATION,
    **EINSUM,
    **ELEMENTWISE,
    **INDEXING,
    **LAYOUT,
    **NORMALIZATION,
    **QUANTIZATION,
    **RECURRENT,
    **REDUCTION,
    **SELECTION,
    **SPATIAL,
}
"""Standard operators by name. One that is missing here freezes everything it touches."""

__all__ = ["RULES", "Axes", "Findings", "OpaqueError", "Rule", "Site"]
