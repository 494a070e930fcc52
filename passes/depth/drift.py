# SPDX-License-Identifier: Apache-2.0
"""Which values of a changed model are computed otherwise than in the original."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._subgraphs import reads


def drifted(model: ir.Model, original: ir.Model) -> set[ir.Value]:
    """The values of the main graph of which the original has no equal under the same name, by structure and weights."""
    known = ir.convenience.create_value_mapping(original.graph, include_subgraphs=False)
    found: set[ir.Value] = set()
    for node in model.graph:
        before = known.get(str(node.outputs[0].name))
        producer = None if before is None else before.producer()
        if producer is None or _differs(node, producer, found):
            found.update(node.outputs)
    return found


def same_constant(value: ir.Value, other: ir.Value) -> bool | None:
    """Whether two constants hold the same; None where one of the values is not constant."""
    mine, theirs = trace_constant(value), trace_constant(other)
    if mine is None or theirs is None:
        return None
    if mine.tensor is theirs.tensor and len(mine.views) == len(theirs.views):
        return True
    return mine.shape == theirs.shape and mine.dtype == theirs.dtype and np.array_equal(mine.array(), theirs.array())


def _differs(node: ir.Node, producer: ir.Node, found: set[ir.Value]) -> bool:
    if (node.domain, node.op_type) != (producer.domain, producer.op_type):
        return True
    mine, theirs = list(reads(node)), list(reads(producer))
    return len(mine) != len(theirs) or any(
        value in found or _other(value, before) for value, before in zip(mine, theirs, strict=True)
    )


def _other(value: ir.Value, before: ir.Value) -> bool:
    same = same_constant(value, before)
    return value.name != before.name if same is None else not same
