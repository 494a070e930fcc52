# SPDX-License-Identifier: Apache-2.0
"""The batches that calibration streams through a model again and again, and which of their rows count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgefold.padding import real_positions

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]

MAX_KEPT = 64 << 20
"""Batches of feeds that together are smaller than this are made once and kept."""


def every_second(feeds: Callable[[], Iterable[Feeds]], first: int) -> Iterator[Feeds]:
    """The even batches (0) or the odd ones (1)."""
    return itertools.islice(feeds(), first, None, 2)


class Batches:
    """Feeds in batches, always the same.

    Args:
        feeds: makes a fresh iterator over the batches.
        seed: of the choice of rows.
    """

    def __init__(self, feeds: Callable[[], Iterable[Feeds]], seed: int) -> None:
        self.seed = seed
        self._feeds = feeds
        self._kept: list[Feeds] | None = None
        self._real: list[Array | None] = []

    def read(self) -> Iterator[Feeds]:
        """The batches; small ones are kept after the first full reading, because making them may mean decoding."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Feeds] | None = []
        held = 0
        for feeds in self._feeds():
            held += sum(value.nbytes for value in feeds.values())
            if kept is not None and held <= MAX_KEPT:
                kept.append(feeds)
            else:
                kept = None
            yield feeds
        self._kept = kept

    def share(self, rows: int) -> int:
        """What each batch gives to so many rows in all."""
        if not self._real:
            self._real = [real_positions(feeds) for feeds in self.read()]
        return -(-rows // max(1, len(self._real)))

    def pick(self, rows: int, share: int, batch: int) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Row numbers of one batch, in order: all that are no padding, or a seeded sample of `share` of them.

        Layers of one size share it. A mask is for those that have a row for each of its positions.

        Args:
            rows: of the layer in this batch.
            share: what `share` gave; it has looked at the masks.
            batch: its number.
        """
        real = self._real[batch]
        there = np.arange(rows) if real is None or real.size != rows else np.flatnonzero(real)
        if len(there) <= share:
            return there
        chosen = np.random.default_rng([self.seed, batch]).choice(len(there), share, replace=False, shuffle=False)
        return there[np.sort(chosen)].astype(np.intp)
