# SPDX-License-Identifier: Apache-2.0
"""Sizes and data for the two runs of a probe: dimensions of one name have one size, and the second run changes all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgefold.interface import ModelInterface, Port
from edgefold.random_feeds import random_feeds

Array = np.ndarray[Any, Any]

_BATCHES = (2, 1)
_LENGTHS = (8, 16, 128, 1, 512)  # of dynamic dimensions other than the first
_SIDES = (64, 32, 224, 128, 28, 320)  # the same in images, which networks halve several times
_FACTORS = (1.5, 2, 0.5, 0.75, 3)  # all lengths alike, so that one that is the sum of two others stays it


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A size for every dynamic dimension.

    Attributes:
        of: symbol -> size; a dimension without a name goes by its axis.
        batch: symbols of first axes.
    """

    of: Mapping[str, int]
    batch: frozenset[str]

    def shape(self, port: Port) -> tuple[int, ...]:
        """The shape of an input."""
        return tuple(
            size if isinstance(size, int) else self.of[_symbol(size, axis)] for axis, size in enumerate(port.shape)
        )

    def changed(self, batch: int, factor: float) -> Sizes:
        """Other sizes, but where there is nothing, as in a cache before the first token: no data can be made of it."""
        of = {
            symbol: batch if symbol in self.batch else max(min(size, 1), round(size * factor))
            for symbol, size in self.of.items()
        }
        return Sizes(of, self.batch)

    def __str__(self) -> str:
        return ", ".join(f"{symbol}={size}" for symbol, size in self.of.items())


def first_sizes(
    interface: ModelInterface, feeds: Mapping[str, Array] | None, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[Sizes]:
    """What to try for the first run: the sizes of the feeds or shapes, else guesses, the likeliest first."""
    symbols = _guess(interface, _BATCHES[0], _LENGTHS[0], _SIDES[0])
    given = {**{name: array.shape for name, array in (feeds or {}).items()}, **shapes}
    fixed = {
        _symbol(size, axis): given[port.name][axis]
        for port in interface.inputs
        if port.name in given
        for axis, size in enumerate(port.shape)
        if not isinstance(size, int)
    }
    if feeds is not None:
        # Two samples show what all would.
        few = {symbol: min(size, 2) if symbol in symbols.batch else size for symbol, size in fixed.items()}
        yield Sizes({**symbols.of, **few}, symbols.batch)
    if fixed:
        yield Sizes({**symbols.of, **fixed}, symbols.batch)
        return
    yield from guessed_sizes(interface)


def other_sizes(sizes: Sizes) -> Iterator[Sizes]:
    """What to try for the second run: everything changed; then the lengths or the batch alone."""
    if not sizes.of:
        return
    old = min((sizes.of[symbol] for symbol in sizes.batch), default=1)
    for batch in (3 if old != 3 else 2, 1, old):
        for factor in _FACTORS:
            yield sizes.changed(batch, factor)
    for batch in (3, 1):
        yield sizes.changed(batch, 1)


def make_feeds(
    interface: ModelInterface, sizes: Sizes, feeds: Mapping[str, Array] | None, seed: int, shift: int = 0
) -> dict[str, Array]:
    """Data of the given sizes: the feeds from the index `shift` on, cut or repeated; random where there are none."""
    shapes = {port.name: sizes.shape(port) for port in interface.inputs}
    made = {name: _resized(feeds[name], shape, shift) for name, shape in shapes.items() if feeds and name in feeds}
    missing = ModelInterface(tuple(port for port in interface.inputs if port.name not in made), ())
    return {**made, **random_feeds(missing, {port.name: shapes[port.name] for port in missing.inputs}, seed)}


def guessed_sizes(interface: ModelInterface, batches: Sequence[int] = _BATCHES) -> Iterator[Sizes]:
    """Sizes that models are often made for, the likeliest first."""
    for step in range(max(len(_LENGTHS), len(_SIDES))):
        for batch in batches:
            length, side = (choice[min(step, len(choice) - 1)] for choice in (_LENGTHS, _SIDES))
            yield _guess(interface, batch, length, side)


def _guess(interface: ModelInterface, batch: int, length: int, side: int) -> Sizes:
    of: dict[str, int] = {}
    first: set[str] = set()
    for port in interface.inputs:
        for axis, size in enumerate(port.shape):
            if isinstance(size, int):
                continue
            symbol = _symbol(size, axis)
            if axis == 0:
                first.add(symbol)
            of[symbol] = batch if symbol in first else side if len(port.shape) == 4 else length
    return Sizes(of, frozenset(first))


def _symbol(size: str | None, axis: int) -> str:
    return size or f"axis {axis}"


def _resized(array: Array, shape: tuple[int, ...], shift: int) -> Array:
    """Entries of the array in another shape of the same rank; integers stay valid indices."""
    for axis, size in enumerate(shape):
        array = np.take(array, np.arange(shift, shift + size), axis, mode="wrap")
    return np.asarray(array, order="C")  # a scalar stays one
