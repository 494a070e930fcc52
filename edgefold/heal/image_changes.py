# SPDX-License-Identifier: Apache-2.0
"""Random changes of single images that leave what they show the same; how far is drawn elsewhere.

Each takes images [N, C, H, W] or [N, H, W, C], normalized in whatever way, and needs no knowledge of it. What comes in
from outside is mirrored, for what is black nobody tells.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CHANNELS = (1, 3, 4)
MAX_SHIFT = 8  # a crop shifts by up to this part of a side
MAX_ZOOM = 1.4
MAX_TURN = np.pi / 12
MAX_BRIGHTNESS, MAX_CONTRAST, MAX_SATURATION = 0.4, 0.4, 0.6


def is_images(value: Array) -> bool:
    return value.ndim == 4 and value.dtype.kind == "f" and (value.shape[1] in CHANNELS or value.shape[3] in CHANNELS)


def spatial_axis(images: Array) -> int:
    """The first of the two."""
    return 2 if images.shape[1] in CHANNELS else 1


def flipped(images: Array) -> Array:
    """The images mirrored, left to right."""
    return np.flip(images, spatial_axis(images) + 1)


def shifted(images: Array, corner: tuple[int, int]) -> Array:
    """All images moved by a quarter of what a crop may, and at least a pixel, down and right where ``corner`` is 1."""
    first = spatial_axis(images)
    most = [max(size // MAX_SHIFT, 1) for size in images.shape[first : first + 2]]
    shares = [towards * max(round(size / 4), 1) / size for towards, size in zip(corner, most, strict=True)]
    return moved(images, np.tile(shares, (len(images), 1)))


def moved(images: Array, shifts: Array) -> Array:
    """Each image moved, by whole pixels, by its share ``shifts`` [rows, 2] of an eighth of the sides."""
    first = spatial_axis(images)
    height, width = images.shape[first : first + 2]
    most = (height // MAX_SHIFT, width // MAX_SHIFT)
    padding = [(0, 0)] * 4
    padding[first : first + 2] = [(size, size) for size in most]
    padded = np.pad(images, padding, mode="reflect")
    result = np.empty_like(images)
    for row, shift in enumerate(shifts):
        top, left = (size + round(float(part) * size) for part, size in zip(shift, most, strict=True))
        window = (slice(top, top + height), slice(left, left + width))
        result[row] = padded[row][(slice(None), *window) if first == 2 else window]
    return result


def warped(images: Array, warps: Array) -> Array:
    """Each image magnified and turned about its centre by its shares ``warps`` [rows, 2] of 1.4 and of 15 degrees."""
    last = np.moveaxis(images, 1, 3) if spatial_axis(images) == 2 else images
    rows, height, width, channels = last.shape
    zoom, turn = MAX_ZOOM ** warps[:, 0, None, None], MAX_TURN * warps[:, 1, None, None]
    down, right = (np.arange(size) - (size - 1) / 2 for size in (height, width))
    down, right = down[None, :, None], right[None, None, :]
    read = (np.cos(turn) * down - np.sin(turn) * right) / zoom, (np.sin(turn) * down + np.cos(turn) * right) / zoom
    (top, below), (left, beyond) = (
        _mirrored(at + (size - 1) / 2, size) for at, size in zip(read, (height, width), strict=True)
    )
    pixels = last.reshape(rows, height * width, channels)

    def at(y: Array, x: Array) -> Array:
        return np.take_along_axis(pixels, (y * width + x).reshape(rows, -1, 1), axis=1).reshape(last.shape)

    (y0, y1), (x0, x1) = top, left
    low = (1 - beyond[..., None]) * at(y0, x0) + beyond[..., None] * at(y0, x1)
    high = (1 - beyond[..., None]) * at(y1, x0) + beyond[..., None] * at(y1, x1)
    result = ((1 - below[..., None]) * low + below[..., None] * high).astype(images.dtype)
    return np.moveaxis(result, 3, 1) if spatial_axis(images) == 2 else result


def coloured(images: Array, colours: Array) -> Array:
    """Each image with other brightness, contrast and saturation, by shares ``colours`` [rows, 3] of the largest."""
    channels = 1 if spatial_axis(images) == 2 else 3
    bright, contrast, saturation = (colours[:, one, None, None, None].astype(images.dtype) for one in range(3))
    grey = images.mean(axis=channels, keepdims=True)
    result = grey + (1 + MAX_SATURATION * saturation) * (images - grey)
    mean, deviation = (of(axis=(1, 2, 3), keepdims=True) for of in (result.mean, result.std))
    result = mean + (1 + MAX_CONTRAST * contrast) * (result - mean)
    return np.asarray(result + MAX_BRIGHTNESS * deviation * bright, dtype=images.dtype)


def _mirrored(at: Array, size: int) -> tuple[tuple[Array, Array], Array]:
    """The two pixels of a side between which positions lie, mirrored at its ends, and the share of the second."""
    period = max(2 * (size - 1), 1)
    inside = np.abs((at + size - 1) % period - (size - 1))
    first = np.minimum(inside.astype(int), max(size - 2, 0))
    return (first, np.minimum(first + 1, size - 1)), inside - first
