# SPDX-License-Identifier: Apache-2.0
"""The algebra of the dependency analysis: labels, classes of equal fate, and classes that are the OR of two others.

A label stands for one index of one axis. A negative label is frozen: the index never goes, for reason ``~label``.
Everything is recorded first and solved once, in vectors, so that neither graphs of many nodes nor axes of many
indices cost a loop in Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.classes import Classes, solve
from edgefold.passes.pruning.groups import IntArray


class Labels:
    """Facts about labels, in the order in which operator rules state them."""

    def __init__(self) -> None:
        self._count = 0
        self._unions: list[tuple[IntArray, IntArray]] = []
        self._freezes: list[tuple[IntArray, IntArray]] = []
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
        """Index i of a goes exactly when index i of b goes."""
        if a is b:
            return
        self.freeze(a, ~b, where=b < 0)
        self.freeze(b, ~a, where=a < 0)
        live = (a >= 0) & (b >= 0) & (a != b)
        if live.any():
            self._unions.append((a[live], b[live]))

    def freeze(self, labels: IntArray, reason: int | IntArray, where: bool | NDArray[np.bool_] = True) -> None:
        """The indices never go. Of several reasons for one index, the one with the smallest number counts."""
        live = (labels >= 0) & where
        if live.any():
            self._freezes.append((labels[live], np.broadcast_to(reason, labels.shape)[live]))

    def product(self, parts: Sequence[IntArray]) -> IntArray:
        """Labels of the row-major product of axes: an index goes when its index in any of the parts goes."""
        *rest, whole = parts
        for left in reversed(rest):
            whole = self._pair(np.repeat(left, len(whole)), np.tile(whole, len(left)))
        return whole

    def split(self, whole: IntArray, lengths: Sequence[int]) -> list[IntArray]:
        """The labels of the axes of which `whole` is the row-major product."""
        if len(lengths) == 1:
            return [whole]
        table = whole.reshape(lengths[0], -1)
        left, right = self._factors(table)
        return [left, *self.split(right, lengths[1:])]

    def _factors(self, table: IntArray) -> tuple[IntArray, IntArray]:
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
        self._define(table.ravel(), np.repeat(left, columns), np.tile(right, rows))
        return left, right

    def _pair(self, left: IntArray, right: IntArray) -> IntArray:
        """One label for each pair; a frozen partner leaves the decision to the other."""
        whole = np.where(left < 0, right, left)
        both = (left >= 0) & (right >= 0) & (left != right)
        if both.any():
            whole[both] = self.fresh(int(both.sum()))
            self._products.append((whole[both], left[both], right[both]))
        return whole

    def _define(self, whole: IntArray, left: IntArray, right: IntArray) -> None:
        self.freeze(left, ~whole, where=whole < 0)
        self.freeze(right, ~whole, where=whole < 0)
        live = whole >= 0
        self._products.append((whole[live], left[live], right[live]))

    def solve(self) -> Classes:
        """The classes that the stated facts leave."""
        unions = _columns(self._unions, 2)
        freezes = _columns(self._freezes, 2)
        products = _columns(self._products, 3)
        return solve(self._count, unions, freezes, products)


SINGLE = ~0
"""The frozen label of an axis of length 1, and of a factor along which nothing differs. Reason 0 is reserved for it."""


def _columns(facts: Sequence[tuple[IntArray, ...]], width: int) -> tuple[IntArray, ...]:
    """Facts one after the other, as one array for each of their `width` members."""
    if not facts:
        return tuple(np.empty(0, np.intp) for _ in range(width))
    return tuple(np.concatenate(member) for member in itertools.islice(zip(*facts, strict=True), width))
