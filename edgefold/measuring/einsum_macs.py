# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of an Einsum, whose operands ONNX Runtime contracts one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...]
_BROADCAST = "."  # of an ellipsis, before the number of the axis, counted from the last


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """The work of the products: each pair of operands multiplies over all letters of either.

    Letters that one operand alone has, and nothing later reads, are summed before it is multiplied. One operand alone
    is summed or transposed, not multiplied.

    Args:
        equation: as the node's attribute has it; an ellipsis stands for any number of leading axes.
        shapes: of the operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    written = left.split(",")
    terms = [_letters(term, len(shape)) for term, shape in zip(written, shapes, strict=True)]
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, size in zip(term, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    result = set(right.replace(".", "")) if arrow else {one for one in sizes if left.count(one) == 1}
    if not arrow or "..." in right:
        result |= {letter for letter in sizes if letter.startswith(_BROADCAST)}
    work, joined = 0, set(terms[0])
    for place, term in enumerate(terms[1:], 1):
        later = result.union(*terms[place + 1 :])
        first, second = joined & (set(term) | later), set(term) & (joined | later)
        work += math.prod(sizes[letter] for letter in first | second)
        joined = (first | second) & later
    return work


def _letters(term: str, rank: int) -> list[str]:
    """One name an axis."""
    before, dots, after = term.partition("...")
    middle = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"{_BROADCAST}{place}" for place in range(middle, 0, -1)), *after]
