# SPDX-License-Identifier: Apache-2.0
"""The algebra of the dependency analysis: labels, what goes together, and products of which either factor decides.

A label stands for one index of one axis. A negative label is frozen: the index never goes, for reason ``~label``.
Facts are only noted down when they are stated and solved once, in vectors, so that neither graphs of many nodes nor
axes of many indices cost a loop in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefold.passes.pruning.classes import Classes, solve
from edgefold.passes.pruning.groups import IntArray

SINGLE = ~0
"""The frozen label of an axis of length 1, and of a factor along which nothing differs. Reason 0 is reserved for it."""


class Labels:
    """Facts about labels, in the order in which operator rules state them."""

    def __init__(self) -> None:
        self._count = 0
        self._unions: list[tuple[IntArray, IntArray]] = []
        self._freezes: list[tuple[IntArray, int]] = []
        self._products: list[tuple[IntArray, IntArray, IntArray]] = []

    def fresh(self, length: int) -> IntArray:
        """Labels that nothing is known about yet, int [length]."""
        self._count += length
        return np.arange(self._count - length, self._count)

    @staticmethod
    def frozen(length: int, reason: int) -> IntArray:
        """Labels of indices that never go, int [length]."""
        return np.full(length, ~reason)

    def union(self, a: IntArray, b: IntArray) -> None:
        """Index i of a goes exactly when index i of b goes.

        Raises:
            ValueError: the arrays are not of one length.
        """
        if len(a) != len(b):
            raise ValueError(f"axes of lengths {len(a)} and {len(b)} cannot go together")
        if a is not b:
            self._unions.append((a, b))

    def freeze(self, labels: IntArray, reason: int) -> None:
        """The indices never go. Of several reasons for one index, the one with the smallest number counts."""
        self._freezes.append((labels, reason))

    def product(self, parts: Sequence[IntArray]) -> IntArray:
        """Labels of the row-major product of axes: an index goes when its index in any of the parts goes."""
        *rest, whole = parts
        for left in reversed(rest):
            whole = self._pair(np.repeat(left, len(whole)), np.tile(whole, len(left)))
        return whole

    def _pair(self, left: IntArray, right: IntArray) -> IntArray:
        """One label for each pair; a frozen partner leaves the decision to the other."""
        whole = np.where(left < 0, right, left)
        both = (left >= 0) & (right >= 0) & (left != right)
        if both.any():
            whole[both] = self.fresh(int(both.sum()))
            self._products.append((whole[both], left[both], right[both]))
        return whole

    def split(self, whole: IntArray, lengths: Sequence[int]) -> list[IntArray]:
        """The labels of the axes of which `whole` is the row-major product."""
        if len(lengths) == 1:
            return [whole]
        left, right = self._factors(whole.reshape(lengths[0], -1))
        return [left, *self.split(right, lengths[1:])]

    def _factors(self, table: IntArray) -> tuple[IntArray, IntArray]:
        """Labels of rows and columns; no new ones where the rows, or the columns, are all the same."""
        rows, columns = table.shape
        lowest = int(table.min())
        frozen = lowest if lowest < 0 else SINGLE
        if (table < 0).all():
            return np.full(rows, frozen), np.full(columns, frozen)
        if columns == 1 or (table == table[:, :1]).all():
            return table[:, 0], np.full(columns, frozen)
        if rows == 1 or (table == table[:1]).all():
            return np.full(rows, frozen), table[0]
        left, right = self.fresh(rows), self.fresh(columns)
        self._products.append((table.ravel(), np.repeat(left, columns), np.tile(right, rows)))
        return left, right

    def solve(self) -> Classes:
        """The classes that the stated facts leave."""
        a, b = _joined(self._unions, 2)
        whole, left, right = _joined(self._products, 3)
        held = [labels for labels, _ in self._freezes]
        why = np.repeat([reason for _, reason in self._freezes], list(map(len, held))).astype(np.intp)
        # What is equal to a frozen label is frozen for its reason; so are the factors of a frozen product.
        frozen = np.concatenate([*held, a[b < 0], b[a < 0], left[whole < 0], right[whole < 0]])
        reasons = np.concatenate([why, ~b[b < 0], ~a[a < 0], ~whole[whole < 0], ~whole[whole < 0]])
        unions = np.stack([a, b])[:, (a >= 0) & (b >= 0)]
        freezes = np.stack([frozen, reasons])[:, frozen >= 0]
        return solve(self._count, unions, freezes, np.stack([whole, left, right])[:, whole >= 0])


def _joined(facts: Sequence[tuple[IntArray, ...]], width: int) -> list[IntArray]:
    """Facts one after the other, as one array for each of their `width` members."""
    nothing = np.empty(0, np.intp)
    return [np.concatenate([nothing, *(fact[member] for fact in facts)]) for member in range(width)]
