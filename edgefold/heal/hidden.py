# SPDX-License-Identifier: Apache-2.0
"""Hidden tensors of the compressed model, each with the one of the original that it should equal.

Layers keep the names of their nodes, and most tensors keep theirs. Where whole blocks were removed, what enters the
next block has another name than what entered it before: it is the layer that says what should have come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.heal.teacher import Teacher

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_PACKED = ir.DataType.UINT8  # the codes of `ai.edgefold` nodes

Pair = tuple[str, str]
"""Names of a tensor of the student, and of the teacher's tensor that it should equal."""


def paired_hidden(
    student: ir.Model,
    teacher: ir.Model,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    given: Sequence[Pair] = (),
) -> tuple[Pair, ...]:
    """Tensors that enter layers with weights, paired, in the student's order; those of other shape are left out.

    A tensor is paired with the one that enters the layers of the same names in the teacher; where these are several,
    or there is none, with the one of its own name.

    Args:
        student: the compressed model.
        teacher: the original.
        feeds: a few samples, on which the shapes are found out.
        given: pairs that hold instead of those found, or beside them.

    Raises:
        UsageError: a given pair names no float tensor, or two of different shapes.
    """
    chosen = dict(given)
    for pair in given:
        for which, model, name in (("student", student, pair[0]), ("teacher", teacher, pair[1])):
            if name not in _computed(model):
                raise UsageError(f"--pair {pair[0]}={pair[1]}: the {which} computes no tensor '{name}'")
    order = {name: place for place, name in enumerate(_computed(student))}
    found = {**_found(student, teacher), **chosen}
    pairs = sorted(found.items(), key=lambda pair: order[pair[0]])
    if not pairs:
        return ()
    ours = Teacher(student, [name for name, _ in pairs])(feeds)
    theirs = Teacher(teacher, list(dict.fromkeys(name for _, name in pairs)))(feeds)
    kept = [pair for pair in pairs if _alike(ours[pair[0]], theirs[pair[1]])]
    for pair in given:
        if pair not in kept:
            shapes = f"{list(ours[pair[0]].shape)} and {list(theirs[pair[1]].shape)}"
            raise UsageError(f"--pair {pair[0]}={pair[1]}: expected floats of one shape; they are {shapes}")
    return tuple(kept)


def _found(student: ir.Model, teacher: ir.Model) -> dict[str, str]:
    of_layer: dict[tuple[str, int], set[str]] = {}
    for node, position, name in _entering_layers(teacher):
        of_layer.setdefault((node, position), set()).add(name)
    names = {name for _, _, name in _entering_layers(teacher)}
    wanted: dict[str, set[str]] = {}
    for node, position, name in _entering_layers(student):
        wanted.setdefault(name, set()).update(of_layer.get((node, position), ()) if node else ())
    return {
        name: next(iter(candidates)) if len(candidates) == 1 else name
        for name, candidates in wanted.items()
        if len(candidates) == 1 or name in names
    }


def _alike(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> bool:
    return ours.shape == theirs.shape and bool(ours.dtype == theirs.dtype) and ours.dtype.kind == "f"


def _entering_layers(model: ir.Model) -> Iterator[tuple[str, int, str]]:
    """Layer, position and name of each float activation that a node of the main graph reads beside a weight.

    A weight has two dimensions or more.
    """
    outputs = {value.name for value in model.graph.outputs}
    for node in model.graph:
        if not any(_is_weight(value) for value in node.inputs):
            continue
        for position, value in enumerate(node.inputs):
            if value is None or value.producer() is None or value.name in outputs or _constant(value):
                continue
            if value.name and value.dtype in (None, *FLOATS):
                yield node.name or "", position, value.name


def _computed(model: ir.Model) -> list[str]:
    return [str(value.name) for node in model.graph for value in node.outputs if value.name]


def _is_weight(value: ir.Value | None) -> bool:
    tensor = value.const_value if value is not None else None
    return tensor is not None and tensor.dtype in (*FLOATS, _PACKED) and len(tensor.shape) >= 2


def _constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.const_value is not None or (producer is not None and producer.op_type == "Constant")
