# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of attention in one node: ONNX's own since opset 23, and those of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """Where an operator has its operands.

    Attributes:
        weight: position of the weight of the projections within; None where there is none.
        past: position of the past keys, or of keys and values in one tensor.
    """

    weight: int | None
    past: int


_FORMS = {
    ("", "Attention"): _Form(None, 4),
    ("com.microsoft", "Attention"): _Form(1, 4),
    ("com.microsoft", "QAttention"): _Form(1, 8),
    ("com.microsoft", "MultiHeadAttention"): _Form(None, 6),
    ("com.microsoft", "GroupQueryAttention"): _Form(None, 3),
}


def is_attention(domain: str, operator: str) -> bool:
    """Whether it is one of the operators that this file knows."""
    return ("" if domain == "ai.onnx" else domain, operator) in _FORMS


def attention_macs(
    domain: str, operator: str, attributes: Mapping[str, Any], inputs: Sequence[Shape | None]
) -> int | None:
    """Projections where they are within, every query by every key, and every weight by a value; what a mask hides too.

    Args:
        domain, operator: of the node.
        attributes: of the node.
        inputs: shapes by position; None for what is left out or unknown.

    Returns:
        None where a shape that it takes is unknown.
    """
    form = _FORMS["" if domain == "ai.onnx" else domain, operator]
    given = [*inputs, *(None for _ in range(form.past + 1 - len(inputs)))]
    query, past = given[0], given[form.past]
    if query is None:
        return None
    before = past[-2] if past else 0
    if form.weight is not None:
        return _projected(query, given[form.weight], before, attributes)
    read = _packed(query, attributes) if given[1] is None else _apart(query, given[1], given[2], attributes)
    if read is None:
        return None
    queries, keys, values = read
    return (keys + before) * (queries + values)


def _projected(x: Shape, weight: Shape | None, before: int, attributes: Mapping[str, Any]) -> int | None:
    """One matrix gives queries, keys and values of every row."""
    if weight is None:
        return None
    rows, steps, width = math.prod(x[:-1]), x[-2], weight[-1]
    sizes: Sequence[int] = attributes.get("qkv_hidden_sizes") or [width // 3] * 3
    return rows * x[-1] * width + rows * (steps + before) * (sizes[0] + sizes[2])


def _packed(query: Shape, attributes: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Queries, keys and values in one tensor: elements of the first, keys, elements of the result."""
    if len(query) == 5:  # [batch, steps, heads, 3, head size]
        elements = math.prod(query) // 3
        return elements, query[1], elements
    heads, shared = int(attributes.get("num_heads") or 0), int(attributes.get("kv_num_heads") or 0)
    if len(query) != 3 or not heads or not shared:
        return None
    elements = math.prod(query) * heads // (heads + 2 * shared)
    return elements, query[1], elements


def _apart(
    query: Shape, key: Shape | None, value: Shape | None, attributes: Mapping[str, Any]
) -> tuple[int, int, int] | None:
    """Likewise of three tensors, [batch, steps, heads * size] or [batch, heads, steps, size] each.

    Or of two, where keys and values are [batch, steps, heads, 2, size].
    """
    assert key is not None
    elements, keys = math.prod(query), key[1] if len(key) in (3, 5) else key[2]
    if len(key) == 5:
        return elements, keys, elements
    if value is None:
        return None
    heads = int(attributes.get("q_num_heads") or attributes.get("num_heads") or 0)
    shared = int(attributes.get("kv_num_heads") or heads)
    if len(query) == 4:
        size = query[3]
    elif heads:
        size = query[-1] // heads
    else:
        return None
    size_of_values = value[3] if len(value) == 4 else value[-1] // shared if shared else None
    return None if size_of_values is None else (elements, keys, elements // size * size_of_values)
