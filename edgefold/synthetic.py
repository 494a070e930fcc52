# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs for repairs without data: noise with the mean and deviation of real inputs, or with none of theirs.

Images are noise whose amplitude falls with the frequency, as that of natural images does. The first layers of a network
average white noise away, and the later ones would see next to nothing to be fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

SAMPLES = 512
"""Samples made, at least; whole batches."""
_IMAGE = 4  # dimensions


def synthetic_feeds(batches: Iterable[Feeds], *, moments: bool, seed: int = 0) -> Callable[[], Iterator[Feeds]]:
    """A maker of batches of noise, the same at every call.

    Floats are Gaussian; integers and booleans are drawn from the values seen, by their frequency, and where only 0
    and 1 were seen, as in masks, are the more frequent of them.

    Args:
        batches: real or random ones: their shapes and types are taken over, their number is not.
        moments: give each channel of a float input its mean and deviation in the batches; else 0 and 1.
        seed: of the noise.
    """
    seen = list(batches)
    draws = {name: _draw([feeds[name] for feeds in seen], moments) for name in seen[0]}

    def make() -> Iterator[Feeds]:
        made = 0
        for number in range(SAMPLES):
            shapes = {name: value.shape for name, value in seen[number % len(seen)].items()}
            generator = np.random.default_rng([seed, number])
            feeds = {name: draw(generator, shapes[name]) for name, draw in draws.items()}
            yield feeds
            made += max((shape[0] for shape in shapes.values() if shape), default=1)
            if made >= SAMPLES:
                return

    return make


def _draw(batches: Sequence[Array], moments: bool) -> Draw:
    dtype = batches[0].dtype
    if dtype.kind != "f":
        return _of_values(np.concatenate([batch.ravel() for batch in batches]))
    channel = _channel_axis(batches[0].shape)
    if not moments or channel is None:
        return lambda generator, shape: _noise(generator, shape, channel).astype(dtype)
    rows = np.concatenate([np.moveaxis(batch, channel, -1).reshape(-1, batch.shape[channel]) for batch in batches])
    mean, deviation = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
        noise = np.moveaxis(_noise(generator, shape, channel), channel, -1) * deviation + mean
        return np.ascontiguousarray(np.moveaxis(noise, -1, channel).astype(dtype))

    return draw


def _of_values(elements: Array) -> Draw:
    values, counts = np.unique(elements, return_counts=True)
    if set(values.tolist()) <= {0, 1}:
        values, counts = values[[counts.argmax()]], counts[[counts.argmax()]]
    shares = counts / counts.sum()
    return lambda generator, shape: generator.choice(values, shape, p=shares).astype(elements.dtype)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Axis 1 of a matrix; the shorter of the second and the last of an image; the last of a sequence."""
    if len(shape) < 2:
        return None
    return 1 if len(shape) == _IMAGE and shape[1] <= shape[-1] else len(shape) - 1


def _noise(generator: np.random.Generator, shape: tuple[int, ...], channel: int | None) -> Array:
    """Standard normal; of an image, with an amplitude that falls with the frequency, 1 / f."""
    white = generator.standard_normal(shape)
    if len(shape) != _IMAGE:
        return white
    sides = (2, 3) if channel == 1 else (1, 2)
    spectrum = np.fft.rfftn(white, axes=sides)
    vertical = np.fft.fftfreq(shape[sides[0]]).reshape([-1 if axis == sides[0] else 1 for axis in range(_IMAGE)])
    across = np.fft.rfftfreq(shape[sides[1]]).reshape([-1 if axis == sides[1] else 1 for axis in range(_IMAGE)])
    lowest = 1 / (2 * max(shape[side] for side in sides))  # stands in for the frequency 0, which is not infinite
    pink = np.fft.irfftn(
        spectrum / np.maximum(np.hypot(vertical, across), lowest), s=[shape[side] for side in sides], axes=sides
    )
    return np.asarray(pink / pink.std())
