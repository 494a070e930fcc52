# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs for repairs without data: noise with the mean and deviation of real inputs, or with none of theirs.

Images are not white noise, which the first layers of a network average away, so that the later ones would see next to
nothing to be fitted on. They are dead leaves: shapes of all sizes that hide one another, as objects before a camera do.
Of what can be made from nothing they come closest to the statistics of photographs (Lee, Mumford and Huang 2001).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

SAMPLES = 512
"""Samples made, at least; whole batches."""
BATCH = 32
"""Samples made at a time where the model leaves it open: a run costs as much as several samples of a small network."""
_IMAGE = 4  # dimensions
_COLOURS = 4  # more channels than these are no picture
_LEAVES = 48
_TINT = 0.4  # of the grey's deviation: the channels of pictures go together
_GRAIN = 0.05


def synthetic_feeds(batches: Iterable[Feeds], *, moments: bool, seed: int = 0) -> Callable[[], Iterator[Feeds]]:
    """A maker of batches of noise, the same at every call.

    Images are dead leaves, other floats Gaussian; integers and booleans are drawn from the values seen, by their
    frequency, and where only 0 and 1 were seen, as in masks, are the more frequent of them.

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


def wide_batch(feeds: Feeds, model: ir.Model) -> Feeds:
    """Feeds of one sample, repeated to a batch where the first dimension of all inputs is one and the same open one."""
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    first = {value.shape[0] if value.shape else None for value in inputs}
    size = first.pop() if len(first) == 1 else None
    if not isinstance(size, ir.SymbolicDim) or size.value is None or {len(one) for one in feeds.values()} != {1}:
        return feeds
    return {name: np.repeat(value, BATCH, axis=0) for name, value in feeds.items()}


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
    """Mean 0 and deviation 1 in each channel: dead leaves for images, else Gaussian."""
    if channel is None or len(shape) != _IMAGE or shape[channel] > _COLOURS:
        return generator.standard_normal(shape)
    sides = (shape[2], shape[3]) if channel == 1 else (shape[1], shape[2])
    image = _dead_leaves(generator, shape[0], shape[channel], *sides)
    image -= image.mean(axis=(0, 2, 3), keepdims=True)
    image /= image.std(axis=(0, 2, 3), keepdims=True)
    return image if channel == 1 else np.moveaxis(image, 1, -1)


def _dead_leaves(generator: np.random.Generator, count: int, channels: int, height: int, width: int) -> Array:
    """Images [count, channels, height, width]: rectangles and ellipses, large ones first, with a little grain."""
    rows, columns = np.arange(height)[:, None], np.arange(width)
    side = max(height, width)
    image = np.zeros((count, channels, height, width))
    for size in np.geomspace(1.0, 0.06, _LEAVES) * side / 2:
        middle_row, middle_column, angle, flatness, round_ = generator.random((5, count, 1, 1))
        down, right = rows - middle_row * height, columns - middle_column * width
        cosine, sine = np.cos(np.pi * angle), np.sin(np.pi * angle)
        along = np.abs(right * cosine + down * sine) / size
        across = np.abs(down * cosine - right * sine) / (size * (0.2 + 0.8 * flatness))
        inside = np.where(round_ < 0.5, np.hypot(along, across), np.maximum(along, across)) < 1
        grey, tint = generator.standard_normal((count, 1, 1, 1)), generator.standard_normal((count, channels, 1, 1))
        image = np.where(inside[:, None], grey + _TINT * tint, image)
    return image + _GRAIN * generator.standard_normal(image.shape)
