# SPDX-License-Identifier: Apache-2.0
"""Solving what is known of labels: union-find by hooking and pointer jumping, with frozen classes and OR-definitions.

A class defined as the OR of two others goes exactly when either goes. The rules below only ever merge or freeze more
than needed, which is sound: what remains free can go without any other consequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.pruning.groups import IntArray

NEVER = np.iinfo(np.intp).max
"""The reason of a class that is not frozen."""


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """The solution.

    Attributes:
        of: int [labels], the class of each label, named by its smallest label.
        reason: int [labels], why a class is frozen; NEVER where it is not.
        left, right: int [labels], the two classes whose OR a class is; -1 where it is none.
    """

    of: IntArray
    reason: IntArray
    left: IntArray
    right: IntArray

    def reasons(self, labels: IntArray) -> IntArray:
        """Why each label is frozen, NEVER where it is not."""
        reasons = ~labels
        live = labels >= 0
        reasons[live] = self.reason[labels[live]]
        return reasons

    def roots(self, labels: IntArray) -> IntArray:
        """The class of each label; -1 where it is frozen."""
        roots = np.full(labels.shape, -1)
        live = np.flatnonzero(labels >= 0)
        roots[live] = np.where(self.reason[labels[live]] == NEVER, self.of[labels[live]], -1)
        return roots

    def units(self, labels: IntArray) -> Iterator[tuple[str, IntArray]]:
        """The units that decide about each label: pairs of a place in the product, and int [n], -1 for none.

        The place tells the factors of a product apart: "" is no product, "L" its first factor, "RL" the second of
        three. A label that is a product appears at several places, once at each.
        """
        yield from self._factors("", self.roots(labels))

    def _factors(self, place: str, roots: IntArray) -> Iterator[tuple[str, IntArray]]:
        if not (roots >= 0).any():
            return
        defined = (roots >= 0) & (self.left[roots] >= 0)
        plain = np.where(defined, -1, roots)
        if (plain >= 0).any():
            yield place, plain
        yield from self._factors(place + "L", np.where(defined, self.left[roots], -1))
        yield from self._factors(place + "R", np.where(defined, self.right[roots], -1))

    def gone(self, units: IntArray) -> NDArray[np.bool_]:
        """Bool [labels + 1]: the classes that go when these units go, products included; the last, for -1, never."""
        gone = np.zeros(len(self.of) + 1, bool)
        gone[units] = True
        products = np.flatnonzero(self.left >= 0)
        while True:
            more = products[(gone[self.left[products]] | gone[self.right[products]]) & ~gone[products]]
            if not len(more):
                return gone
            gone[more] = True


def solve(count: int, unions: IntArray, freezes: IntArray, products: IntArray) -> Classes:
    """Solves for the classes of `count` labels.

    Args:
        count: of labels.
        unions: int [2, n], labels that are equal pairwise.
        freezes: int [2, n], labels, and the reason for each.
        products: int [3, n], labels, and the two labels whose OR each is.
    """
    state = _State(count)
    state.merge(*unions)
    state.freeze(*freezes)
    changed = True
    while changed:
        products, changed = state.simplify(products)
        changed = changed or state.break_cycles(products)
    left, right = np.full((2, count), -1)
    left[products[0]], right[products[0]] = products[1], products[2]
    return Classes(state.parent, state.reason[state.parent], left, right)


class _State:
    """Union-find in vectors. `parent` is always compressed: it names the root of every label."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)
        self.reason = np.full(count, NEVER)

    def merge(self, a: IntArray, b: IntArray) -> bool:
        """Makes the pairs equal; whether that was news."""
        a, b = self._open(a, b)
        news = len(a) > 0
        while len(a):
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self.parent, high, low)
            self._compress()
            a, b = self._open(a, b)
        if news:
            np.minimum.at(self.reason, self.parent, self.reason.copy())
        return news

    def freeze(self, labels: IntArray, reasons: IntArray) -> bool:
        """Freezes the classes of labels; whether that was news."""
        roots = self.parent[labels]
        news = bool((self.reason[roots] == NEVER).any())
        np.minimum.at(self.reason, roots, reasons)
        return news

    def _open(self, a: IntArray, b: IntArray) -> tuple[IntArray, IntArray]:
        a, b = self.parent[a], self.parent[b]
        unequal = a != b
        return a[unequal], b[unequal]

    def _compress(self) -> None:
        while True:
            grand = self.parent[self.parent]
            if np.array_equal(grand, self.parent):
                return
            self.parent = grand

    def simplify(self, facts: IntArray) -> tuple[IntArray, bool]:
        """One round over the definitions int [3, n] (whole, left, right): those that remain, and whether any acted."""
        whole, left, right = facts = _distinct(self.parent[facts])
        frozen = self.reason != NEVER
        fixed = frozen[whole]
        changed = self.freeze(left[fixed], self.reason[whole[fixed]])
        changed |= self.freeze(right[fixed], self.reason[whole[fixed]])
        # x = x OR y would make y decide about x although x does not decide about y: y must not go.
        for part, other in ((left, right), (right, left)):
            own = (whole == part) & ~fixed
            changed |= self.freeze(other[own], np.zeros(int(own.sum()), np.intp))
            fixed |= own
        for part, other in ((left, right), (right, left)):
            alone = (frozen[other] | (left == right)) & ~fixed
            changed |= self.merge(whole[alone], part[alone])
            fixed |= alone
        facts = facts[:, ~fixed]
        whole, left, right = facts
        twice = whole[1:] == whole[:-1]  # they are sorted by whole
        changed |= self.merge(left[1:][twice], left[:-1][twice])
        changed |= self.merge(right[1:][twice], right[:-1][twice])
        return facts, changed

    def break_cycles(self, facts: IntArray) -> bool:
        """Freezes what is left when definitions without parts of their own are peeled off; whether anything was."""
        while facts.shape[1]:
            whole, left, right = facts
            defined = np.zeros(len(self.parent), bool)
            defined[whole] = True
            open_ended = defined[left] | defined[right]
            if open_ended.all():
                return self.freeze(facts.ravel(), np.zeros(facts.size, np.intp))
            facts = facts[:, open_ended]
        return False


def _distinct(facts: IntArray) -> IntArray:
    """Definitions int [3, n], sorted, each once."""
    facts = facts[:, np.lexsort(facts[::-1])]
    first = np.ones(facts.shape[1], bool)
    first[1:] = (facts[:, 1:] != facts[:, :-1]).any(axis=0)
    return facts[:, first]
