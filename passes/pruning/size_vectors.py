# SPDX-License-Identifier: Apache-2.0
"""Rewrite the vectors of sizes that Reshape and its like read, whether stored, computed, or a mixture of both.

An element is a literal, or computed from sizes of other values at run time. Where the length that it stands for shrinks
from n to k, a computed element (batch x heads, say) becomes element x k / n, which holds for every batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from edgefold.passes._subgraphs import bodies
from edgefold.passes.pruning.evaluation import evaluate
from edgefold.passes.pruning.surgery import Array, Surgery


@dataclasses.dataclass(frozen=True)
class Change:
    """What an element becomes: ``element * factor + plus``."""

    factor: Fraction = Fraction(1)
    plus: int = 0

    @classmethod
    def to(cls, literal: int) -> Change:
        """Whatever it was, it becomes this number."""
        return cls(Fraction(0), literal)

    @classmethod
    def between(cls, now: int, wanted: int) -> Change:
        """An element that is `now` at the traced sizes must be `wanted` there."""
        return cls(Fraction(wanted, now)) if now else cls.to(wanted)


SAME = Change()

# Inputs that hold sizes of axes, for which `cut_sizes` knows what they must be.
SIZES: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Reshape": (1,), "Resize": (3,), "Slice": (1, 2),
    "Tile": (1,),
}  # fmt: skip


def follow(surgery: Surgery, node: ir.Node) -> None:
    """Keep track of integers computed from sizes that the cut changed; what else reads them gets the old ones.

    Floats computed from them stay as they were: a mean written as a sum divided by a count of elements must still
    divide by the old count, because the channels that went would have added nothing to the sum.
    """
    source = node.inputs[0] if node.inputs else None
    if node.op_type in ("Shape", "Size") and node.domain == "" and source is not None:
        if surgery.changes(source):
            _set(surgery, node, [_measured(node, surgery.after(source))])
        return
    changed = [i for i, value in enumerate(node.inputs) if value is not None and value.name in surgery.resized]
    if not changed:
        return
    arrays = _evaluated(surgery, node)
    if arrays is not None:
        _set(surgery, node, arrays)
        return
    for position in changed:
        if position not in SIZES.get(node.op_type, ()):
            _restore(surgery, node, position)


def settle(surgery: Surgery, body: ir.Graph) -> None:
    """What a body gives out is read as the size that it was."""
    for position, value in enumerate(body.outputs):
        if value.name in surgery.resized:
            given = ir.node("Identity", [value])
            surgery.name(given, f"{value.name}_given")
            given.outputs[0].type, given.outputs[0].shape = value.type, value.shape
            body.append(given)
            body.outputs[position] = given.outputs[0]
            _restore(surgery, given, 0)


def rewrite(surgery: Surgery, node: ir.Node, position: int, changes: Sequence[Change]) -> None:
    """Give a node a vector of sizes of its own, with every element changed."""
    value = node.inputs[position]
    assert value is not None
    if any(change != SAME for change in changes):
        node.replace_input_with(position, _changed(surgery, node, value, changes))
        surgery.note(node, f"input {position} of {node.op_type} rewritten")


def _measured(node: ir.Node, shape: Sequence[int]) -> Array:
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    start, end = (node.attributes[key].as_int() if key in node.attributes else None for key in ("start", "end"))
    return np.asarray(shape[start:end], np.int64)


def _evaluated(surgery: Surgery, node: ir.Node) -> list[Array] | None:
    """The outputs of a node with the changed sizes, where all is known and of the shape that it should have."""
    arrays = [None if value is None else surgery.current(value) for value in node.inputs]
    if node.op_type == "CastLike":
        arrays[1] = surgery.known(node.outputs[0])  # of its second input, which may be data, only the type matters
    if any(value is not None and array is None for array, value in zip(arrays, node.inputs, strict=True)):
        return None
    if node.domain != "" or bodies(node) or any(surgery.known(output) is None for output in node.outputs):
        return None
    outputs = evaluate(node, arrays, surgery.opset)
    fits = all(array.shape == surgery.after(value) for array, value in zip(outputs, node.outputs, strict=True))
    return outputs if fits else None


def _set(surgery: Surgery, node: ir.Node, arrays: Sequence[Array]) -> None:
    for output, array in zip(node.outputs, arrays, strict=True):
        old = surgery.known(output)
        if old is None or np.array_equal(old, array):
            continue
        if old.shape == array.shape and np.issubdtype(old.dtype, np.floating):
            ratio = (old / array).astype(old.dtype)
            surgery.append_to(node, "Mul", [surgery.constant(f"{output.name}_as_before", ratio)])
        else:
            surgery.resized[str(output.name)] = array


def _restore(surgery: Surgery, node: ir.Node, position: int) -> None:
    value = node.inputs[position]
    assert value is not None
    old, now = surgery.known(value), surgery.current(value)
    if old is not None and now is not None and old.shape == now.shape:
        pairs = zip(now.reshape(-1).tolist(), old.reshape(-1).tolist(), strict=True)
        rewrite(surgery, node, position, [SAME if new == was else Change.between(new, was) for new, was in pairs])


def _changed(surgery: Surgery, node: ir.Node, value: ir.Value, changes: Sequence[Change]) -> ir.Value:
    if all(change == SAME for change in changes):
        return value
    stored = value.const_value if value.is_initializer() else None
    if stored is not None or all(change.factor == 0 for change in changes):
        numbers = stored.numpy().reshape(-1) if stored is not None else [0] * len(changes)
        array = [
            int(int(number) * change.factor) + change.plus for number, change in zip(numbers, changes, strict=True)
        ]
        return surgery.constant(f"{value.name}_cut", _like(surgery, value, array))
    parts = _parts(surgery, value)
    if parts is not None:
        pieces = []
        start = 0
        for part, length in parts:
            pieces.append(_changed(surgery, node, part, changes[start : start + length]))
            start += length
        return surgery.insert(node, "Concat", pieces, axis=0)
    return _computed(surgery, node, value, changes)


def _parts(surgery: Surgery, value: ir.Value) -> list[tuple[ir.Value, int]] | None:
    """The vectors that a vector is put together from, with their lengths."""
    producer = value.producer()
    if producer is None or producer.op_type != "Concat" or producer.domain != "":
        return None
    return [(part, surgery.before(part)[0]) for part in producer.inputs if part is not None]


def _computed(surgery: Surgery, node: ir.Node, value: ir.Value, changes: Sequence[Change]) -> ir.Value:
    source = value
    for op_type, operands, neutral in (
        ("Mul", [change.factor.numerator for change in changes], 1),
        ("Div", [change.factor.denominator for change in changes], 1),
        ("Add", [change.plus for change in changes], 0),
    ):
        if any(operand != neutral for operand in operands):
            operand = surgery.constant(f"{source.name}_{op_type.lower()}", _like(surgery, source, operands))
            value = surgery.insert(node, op_type, [value, operand])
    return value


def _like(surgery: Surgery, value: ir.Value, numbers: Sequence[int]) -> Array:
    """Numbers of the type and rank of a vector of sizes, or of a single size."""
    known = surgery.known(value)
    return np.asarray(numbers, np.int64) if known is None else np.asarray(numbers, known.dtype).reshape(known.shape)
