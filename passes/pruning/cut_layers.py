# SPDX-License-Identifier: Apache-2.0
"""What layers must be told beside their cut parameters: counts of groups, heads and units, and means over fewer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgefold.passes.pruning.surgery import Surgery, integer, operand

_EPSILON = 1e-5


def _convolution(surgery: Surgery, node: ir.Node) -> None:
    """X [N, C, ...], W [O, C / group, ...]; transposed W [C, O / group, ...]."""
    x, weight = operand(node, 0), operand(node, 1)
    group = integer(node, "group", 1)
    if group == 1:
        return
    channels = node.outputs[0] if node.op_type == "ConvTranspose" else x
    _set(surgery, node, "group", surgery.after(channels)[1] // surgery.after(weight)[1])


def _recurrent(surgery: Surgery, node: ir.Node) -> None:
    """R [directions, gates x hidden, hidden]."""
    if "hidden_size" in node.attributes:
        _set(surgery, node, "hidden_size", surgery.after(operand(node, 2))[2])


def _group_normalization(surgery: Surgery, node: ir.Node) -> None:
    groups = node.attributes["num_groups"].as_int()
    _set(surgery, node, "num_groups", _blocks(surgery, operand(node, 0), 1, groups))


def _attention(surgery: Surgery, node: ir.Node) -> None:
    """Q [batch, length, heads x size] with heads as attributes, or [batch, heads, length, size]."""
    q, k = operand(node, 0), operand(node, 1)
    last = len(surgery.before(q)) - 1
    size = surgery.before(q)[last]
    cut = surgery.after(q)[last]
    if last == 2:
        heads = node.attributes["q_num_heads"].as_int()
        _set(surgery, node, "q_num_heads", left := _blocks(surgery, q, 2, heads))
        _set(surgery, node, "kv_num_heads", _blocks(surgery, k, 2, node.attributes["kv_num_heads"].as_int()))
        size, cut = size // heads, cut // max(left, 1)
    if size != cut and "scale" not in node.attributes:
        node.attributes["scale"] = ir.AttrFloat32("scale", 1 / math.sqrt(size))
        surgery.note(node, f"scale of {size} channels a head kept")


def _rotary_embedding(surgery: Surgery, node: ir.Node) -> None:
    heads = integer(node, "num_heads", 0)
    if heads:
        _set(surgery, node, "num_heads", _blocks(surgery, operand(node, 0), 2, heads))


def _mean(surgery: Surgery, node: ir.Node) -> None:
    """The mean over what stays, as the mean over all with zeros for what went."""
    x = operand(node, 0)
    before, after = surgery.before(x), surgery.after(x)
    share = math.prod(after[axis] / before[axis] for axis in _reduced(surgery, node) if _corrected(surgery, x, axis))
    if share != 1:
        factor = np.asarray(share, surgery.dtype(node.outputs[0]).numpy())
        surgery.append_to(node, "Mul", [surgery.constant(f"{node.outputs[0].name}_share", factor)])
        surgery.note(node, f"mean corrected by {share:.4g}")


def _root_mean_square(surgery: Surgery, node: ir.Node) -> None:
    """With zeros for what went: x / sqrt(sum x^2 / D + eps) * g = x / sqrt(sum x^2 / K + eps D / K) * g sqrt(D / K)."""
    x, gain = operand(node, 0), operand(node, 1)
    rank = len(surgery.before(x))
    axes = [axis for axis in range(integer(node, "axis", -1) % rank, rank) if _corrected(surgery, x, axis)]
    inverse = math.prod(surgery.before(x)[axis] / surgery.after(x)[axis] for axis in axes)
    if inverse == 1:
        return
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else _EPSILON
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon * inverse)
    factor = np.asarray(math.sqrt(inverse), surgery.dtype(gain).numpy())
    if gain.is_initializer() and gain.const_value is not None:
        # Under its own name: gains that are equal by chance must not become one.
        gain.const_value = ir.tensor(gain.const_value.numpy() * factor, name=gain.name)
    else:
        product = surgery.insert(node, "Mul", [gain, surgery.constant(f"{gain.name}_factor", factor)])
        node.replace_input_with(1, product)
    surgery.note(node, f"epsilon and gain for the root mean square of fewer, by {inverse:.4g}")


def _reduced(surgery: Surgery, node: ir.Node) -> list[int]:
    rank = len(surgery.before(operand(node, 0)))
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    if "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = surgery.static(node, 1).tolist()
    else:
        axes = []
    if not axes:
        return [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in axes]


def _corrected(surgery: Surgery, x: ir.Value, axis: int) -> bool:
    return surgery.changes(x, axis) and (str(x.name), axis) not in surgery.inexact


def _blocks(surgery: Surgery, value: ir.Value, axis: int, blocks: int) -> int:
    """How many of the blocks of an axis have indices that stay."""
    size = surgery.before(value)[axis] // blocks
    return len(np.unique(surgery.kept(value, axis) // max(size, 1)))


def _set(surgery: Surgery, node: ir.Node, attribute: str, value: int) -> None:
    old = integer(node, attribute, 1)
    if old != value:
        node.attributes[attribute] = ir.AttrInt64(attribute, value)
        surgery.note(node, f"{attribute} {old} -> {value}")


REWRITES: dict[str, Callable[[Surgery, ir.Node], None]] = {
    "Attention": _attention,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "GRU": _recurrent,
    "GlobalAveragePool": _mean,
    "GroupNormalization": _group_normalization,
    "LSTM": _recurrent,
    "RMSNormalization": _root_mean_square,
    "RNN": _recurrent,
    "ReduceMean": _mean,
    "RotaryEmbedding": _rotary_embedding,
    "SimplifiedLayerNormalization": _root_mean_square,
}
