# SPDX-License-Identifier: Apache-2.0
"""Hidden tensors that the original and the compressed model have in common, by which one can teach the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.heal.teacher import Teacher

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_PACKED = ir.DataType.UINT8  # the codes of `ai.edgefold` nodes


def common_hidden(student: ir.Model, teacher: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]]) -> tuple[str, ...]:
    """Tensors that enter layers with weights, and have the same name and shape in both models, in the graph's order.

    What pruning made narrower is left out by its shape. A tensor that only one of the models has is left out by its
    name, which passes keep.

    Args:
        student: the compressed model.
        teacher: the original.
        feeds: a few samples, on which the shapes are found out.
    """
    in_teacher = set(_entering_layers(teacher))
    names = [name for name in _entering_layers(student) if name in in_teacher]
    if not names:
        return ()
    ours, theirs = Teacher(student, names)(feeds), Teacher(teacher, names)(feeds)
    return tuple(
        name for name in names if ours[name].shape == theirs[name].shape and ours[name].dtype == theirs[name].dtype
    )


def _entering_layers(model: ir.Model) -> list[str]:
    """Names of the float activations that a node of the main graph reads beside a weight of two dimensions or more."""
    outputs = {value.name for value in model.graph.outputs}
    names: dict[str, None] = {}
    for node in model.graph:
        if not any(_is_weight(value) for value in node.inputs):
            continue
        for value in node.inputs:
            if value is None or value.producer() is None or value.name in outputs or _constant(value):
                continue
            if value.name and value.dtype in (None, *FLOATS):
                names[value.name] = None
    return list(names)


def _is_weight(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.dtype in (*FLOATS, _PACKED) and len(tensor.shape) >= 2


def _constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.const_value is not None or (producer is not None and producer.op_type == "Constant")
