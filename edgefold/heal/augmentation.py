# SPDX-License-Identifier: Apache-2.0
"""Random changes of images that leave what they show the same; the teacher sees the changed image too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefold.errors import UsageError

Array = np.ndarray[Any, Any]
MAX_SHIFT = 8  # a crop shifts by up to this part of a side
CHANNELS = (1, 3, 4)
MIXING = frozenset(("mix", "patch"))


def check_images(feeds: Mapping[str, Array]) -> None:
    """Refuse an augmentation that no input can take.

    Raises:
        UsageError: no input holds images; lists the shapes.
    """
    if not any(_is_images(value) for value in feeds.values()):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise UsageError(f"--augment changes images, [N, C, H, W] or [N, H, W, C] in float; the inputs are {shapes}")


@dataclasses.dataclass(frozen=True)
class Draw:
    """What was drawn at random for each sample of a batch.

    Attributes:
        flips: bool [rows].
        shifts: [rows, 2] of the largest shift, from -1 to 1, vertical and horizontal.
        partners: [rows] position in the batch of the sample that is mixed in.
        shares: [rows] of the sample itself in the mixture, from 0 to 1.
        patched: bool [rows], whether a patch is mixed in where both ways of mixing are wanted.
        centres: [rows, 2] of the patch, from 0 to 1, vertical and horizontal.
    """

    flips: Array
    shifts: Array
    partners: Array
    shares: Array
    patched: Array
    centres: Array

    @classmethod
    def of(cls, random: np.random.Generator, rows: int) -> Draw:
        """Draw for a whole batch, of which each process then takes its part."""
        flips, shifts = random.random(rows) < 0.5, random.uniform(-1, 1, (rows, 2))
        partners, shares = random.permutation(rows), random.random(rows).astype(np.float32)
        return cls(flips, shifts, partners, shares, random.random(rows) < 0.5, random.random((rows, 2)))

    def take(self, positions: Array) -> Draw:
        """What was drawn for some of the batch."""
        return Draw(*(getattr(self, field.name)[positions] for field in dataclasses.fields(self)))


def augmented(feeds: Mapping[str, Array], changes: Sequence[str], draw: Draw) -> dict[str, Array]:
    """A changed copy of the images among the inputs.

    Args:
        feeds: input name -> array [rows, ...]; those that are no images pass through.
        changes: of "flip" and "crop"; others are for `mixed`. A crop shifts by a whole number of pixels, up to an
            eighth of the side, and what comes in from outside is mirrored, which needs no knowledge of how black is
            normalized.
        draw: for the same rows.
    """
    changed = dict(feeds)
    for name, value in feeds.items():
        if not _is_images(value):
            continue
        first = _first_spatial_axis(value)
        result = value
        if "flip" in changes:
            result = np.where(draw.flips[:, None, None, None], np.flip(result, first + 1), result)
        if "crop" in changes:
            result = _shifted(result, draw.shifts, first)
        changed[name] = np.ascontiguousarray(result)
    return changed


def mixed(
    feeds: Mapping[str, Array], partners: Mapping[str, Array], changes: Sequence[str], draw: Draw
) -> dict[str, Array]:
    """Images mixed with others of the batch; the teacher says what the mixture shows.

    With it a few thousand images teach for much longer before the student knows them by heart (Beyer et al. 2022,
    arXiv 2106.05237, section 3).

    Args:
        feeds: input name -> array [rows, ...]; those that are no images pass through.
        partners: the same inputs of the samples to mix in.
        changes: of "mix", all pixels are blended (mixup, arXiv 1710.09412), and "patch", a rectangle is replaced
            (CutMix, arXiv 1905.04899); of both, each image takes one.
        draw: for the same rows.
    """
    result = dict(feeds)
    for name, value in feeds.items():
        if _is_images(value):
            first = _first_spatial_axis(value)
            own = np.expand_dims(_own_shares(changes, draw, value.shape[first : first + 2]), 1 if first == 2 else 3)
            result[name] = (own * value + (1 - own) * partners[name]).astype(value.dtype)
    return result


def _own_shares(changes: Sequence[str], draw: Draw, size: tuple[int, ...]) -> Array:
    """The share of the image itself in each pixel of the mixture: float32 [rows, H, W]."""
    blended = np.broadcast_to(draw.shares[:, None, None], (len(draw.shares), *size))
    if "patch" not in changes:
        return blended
    half = np.sqrt(1 - draw.shares)[:, None] / 2
    rows, columns = (
        np.abs((np.arange(length) + 0.5) / length - draw.centres[:, axis, None]) < half
        for axis, length in enumerate(size)
    )
    pasted: Array = 1 - (rows[:, :, None] & columns[:, None, :]).astype(np.float32)
    if "mix" not in changes:
        return pasted
    own: Array = np.where(draw.patched[:, None, None], pasted, blended)
    return own


def _is_images(value: Array) -> bool:
    return value.ndim == 4 and value.dtype.kind == "f" and (value.shape[1] in CHANNELS or value.shape[3] in CHANNELS)


def _first_spatial_axis(value: Array) -> int:
    return 2 if value.shape[1] in CHANNELS else 1


def _shifted(images: Array, shifts: Array, first: int) -> Array:
    """Each image moved by its share ``shifts`` [rows, 2] of the largest shift."""
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
