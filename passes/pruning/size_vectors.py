# SPDX-License-Identifier: Apache-2.0
"""Rewrite the vectors of sizes that Reshape and its like read, whether stored, computed, or a mixture of both.

An element is a literal, or computed from sizes of other values at run time. Where the length that it stands for shrinks
from n to k, a computed element (batch x heads, say) becomes element x k / n, which holds for every batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir

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


def follow(surgery: Surgery, node: ir.Node) -> None:
    """Keep track of integers computed from sizes that the cut changed; floats computed from them stay as they were.

    A mean written as a sum divided by a count of elements must still divide by the old count: the channels that went
    would have added nothing to the sum.
    """
    if node.op_type == "Shape" and (source := node.inputs[0]) is not None and surgery.changes(source):
        start, end = (node.attributes[key].as_int() if key in node.attributes else None for key in ("start", "end"))
        _set(surgery, node, [np.asarray(surgery.after(source)[start:end], np.int64)])
    elif node.op_type == "Size" and (source := node.inputs[0]) is not None and surgery.changes(source):
        _set(surgery, node, [np.asarray(np.prod(surgery.after(source)), np.int64)])
    elif node.domain == "" and any(value is not None and value.name in surgery.resized for value in node.inputs):
        arrays = [None if value is None else surgery.current(value) for value in node.inputs]
        if node.op_type == "CastLike" and (result := surgery.known(node.outputs[0])) is not None:
            arrays[1] = result  # of its second input, which may be data, only the type matters
        known = all(array is not None or value is None for array, value in zip(arrays, node.inputs, strict=True))
        if known and all(surgery.known(output) is not None for output in node.outputs):
            _set(surgery, node, evaluate(node, arrays, surgery.opset))


def rewrite(surgery: Surgery, node: ir.Node, position: int, changes: Sequence[Change]) -> None:
    """Give a node a vector of sizes of its own, with every element changed."""
    value = node.inputs[position]
    assert value is not None
    if any(change != SAME for change in changes):
        node.replace_input_with(position, _changed(surgery, node, value, changes))
        surgery.note(node, f"input {position} of {node.op_type} rewritten")


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


def _changed(surgery: Surgery, node: ir.Node, value: ir.Value, changes: Sequence[Change]) -> ir.Value:
    if all(change == SAME for change in changes):
        return value
    stored = value.const_value if value.is_initializer() else None
    if stored is not None or all(change.factor == 0 for change in changes):
        numbers = stored.numpy().reshape(-1) if stored is not None else [0] * len(changes)
        array = [
            int(int(number) * change.factor) + change.plus for number, change in zip(numbers, changes, strict=True)
        ]
        return surgery.constant(f"{value.name}_cut", np.asarray(array, _integers(surgery, value)))
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
    dtype = _integers(surgery, value)
    for op_type, operands, neutral in (
        ("Mul", [change.factor.numerator for change in changes], 1),
        ("Div", [change.factor.denominator for change in changes], 1),
        ("Add", [change.plus for change in changes], 0),
    ):
        if any(operand != neutral for operand in operands):
            operand = surgery.constant(f"{value.name}_{op_type.lower()}", np.asarray(operands, dtype))
            value = surgery.insert(node, op_type, [value, operand])
    return value


def _integers(surgery: Surgery, value: ir.Value) -> np.dtype[np.int64] | np.dtype[np.int32]:
    known = surgery.known(value)
    return np.dtype(np.int32) if known is not None and known.dtype == np.int32 else np.dtype(np.int64)
