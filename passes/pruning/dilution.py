# SPDX-License-Identifier: Apache-2.0
"""How much of a layer's relative error later layers see: a residual branch that is small beside its stream says little.

To first order, scaling, normalization and activation functions leave a relative error as it is. A sum does not: the
error stays, but it then stands beside the variance of the sum, which later layers read. Each sum on the way thus
multiplies the relative squared error by var(term) / var(sum).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._layer_inputs import Inputs, Rows
from edgefold.passes._moments import Moments
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.pruning.rules.elementwise import ELEMENTWISE

Sum = tuple[Rows, Rows]
"""A term, and the sum that it is a term of."""

_SUMS = frozenset(("Add", "Sub", "Sum"))
_NORMALIZATIONS = frozenset(
    ("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization")
)
_PASSED = _NORMALIZATIONS.union(ELEMENTWISE)

_TINY = 1e-30


def sums_after(site: WeightedNode) -> tuple[Sum, ...]:
    """The sums with other activations that a layer's output enters before anything but elementwise operators reads it.

    The way ends where a tensor has several readers: from there on every one of them sees it. Constants, as biases are,
    change no variance.
    """
    axis = 1 if site.geometry else -2 if site.on_left else -1
    found = []
    value = site.output
    while (node := _only_reader(value)) is not None and node.op_type in _PASSED:
        after = node.outputs[0]
        if node.op_type in _SUMS and sum(one is not None and not one.is_initializer() for one in node.inputs) > 1:
            found.append((Rows(str(value.name), axis), Rows(str(after.name), axis)))
        value = after
    return tuple(found)


def dilution(sums: Sequence[Sum], moments: Mapping[Inputs, Moments]) -> float:
    """The factor on the relative squared error of a layer that enters these sums; 1 without any."""
    return math.prod(_variance(moments[term]) / max(_variance(moments[whole]), _TINY) for term, whole in sums)


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, in the same graph; questions for its shape do not count."""
    readers = [use.node for use in value.uses() if use.node.op_type not in ("Shape", "Size")]
    if len(readers) != 1 or value.is_graph_output() or readers[0].domain not in ("", "ai.onnx"):
        return None
    return readers[0] if readers[0].graph is value.graph else None


def _variance(moments: Moments) -> float:
    """Variance about the mean of each channel, averaged over channels."""
    count = max(moments.count, 1)
    return float((np.einsum("pkk->pk", moments.xtx) / count - np.square(moments.sums / count)).mean())
