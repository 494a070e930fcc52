# SPDX-License-Identifier: Apache-2.0
"""Random changes of inputs that give a teacher more to say: it labels whatever it is shown, and sees the change too.

What single images become is in `image_changes`; here is what is drawn, which inputs it is for, and what is made of two
samples: blends and patches of images, and sequences that go on as another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgefold.errors import UsageError
from edgefold.heal.image_changes import coloured, flipped, is_images, moved, spatial_axis, warped
from edgefold.padding import padding_mask

Array = np.ndarray[Any, Any]
BLENDING = frozenset(("mix", "patch"))
MIXING = BLENDING | {"splice"}
"""Changes that make one sample of two."""
MAX_SWAPPED = 0.5  # of the tokens of a sequence
SPLICED = 0.5  # of the sequences; the others stay whole, as they will be asked later


def check_inputs(feeds: Mapping[str, Array], changes: Sequence[str], vocabulary: tuple[str, int] | None = None) -> None:
    """Refuse an augmentation that no input can take.

    Raises:
        UsageError: no input holds images, or sequences and tokens where these are to change; lists the shapes.
    """
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
    if set(changes) - {"splice", "swap"} and not any(map(is_images, feeds.values())):
        raise UsageError(f"--augment changes images, [N, C, H, W] or [N, H, W, C] in float; the inputs are {shapes}")
    if "swap" in changes and vocabulary is None:
        raise UsageError(f"--augment swap replaces tokens that the model looks up in a table; the inputs are {shapes}")
    if "splice" in changes and not _sequences(feeds):
        raise UsageError(
            f"--augment splice joins sequences of numbers, integer [N, positions], all alike; the inputs are {shapes}"
        )


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
        warps: [rows, 2] of the largest magnification (its logarithm) and turn, from -1 to 1.
        colours: [rows, 3] of the largest change of brightness, contrast and saturation, from -1 to 1.
        cuts: [rows] where in a sequence the partner takes over, from 0 to 1; above it the sequence stays whole.
        swaps: [rows] share of the tokens of a sequence that become others of the vocabulary.
        seeds: [rows] of which, and of what they become.
    """

    flips: Array
    shifts: Array
    partners: Array
    shares: Array
    patched: Array
    centres: Array
    warps: Array
    colours: Array
    cuts: Array
    swaps: Array
    seeds: Array

    @classmethod
    def of(cls, random: np.random.Generator, rows: int) -> Draw:
        """Draw for a whole batch, of which each process then takes its part."""
        flips, shifts = random.random(rows) < 0.5, random.uniform(-1, 1, (rows, 2))
        partners, shares = random.permutation(rows), random.random(rows).astype(np.float32)
        patched, centres = random.random(rows) < 0.5, random.random((rows, 2))
        warps, colours = random.uniform(-1, 1, (rows, 2)), random.uniform(-1, 1, (rows, 3))
        cuts = random.uniform(0, 1 / SPLICED, rows)
        swaps, seeds = random.uniform(0, MAX_SWAPPED, rows), random.integers(2**32, size=rows)
        return cls(flips, shifts, partners, shares, patched, centres, warps, colours, cuts, swaps, seeds)

    def take(self, positions: Array) -> Draw:
        """What was drawn for some of the batch."""
        return Draw(*(getattr(self, field.name)[positions] for field in dataclasses.fields(self)))


def augmented(feeds: Mapping[str, Array], changes: Sequence[str], draw: Draw) -> dict[str, Array]:
    """A changed copy of the images among the inputs.

    Args:
        feeds: input name -> array [rows, ...]; those that are no images pass through.
        changes: of "flip", "crop", "warp" and "colour"; others are for `mixed`.
        draw: for the same rows.
    """
    changed = dict(feeds)
    for name, value in feeds.items():
        if not is_images(value):
            continue
        result = value
        if "flip" in changes:
            result = np.where(draw.flips[:, None, None, None], flipped(result), result)
        if "crop" in changes:
            result = moved(result, draw.shifts)
        if "warp" in changes:
            result = warped(result, draw.warps)
        if "colour" in changes:
            result = coloured(result, draw.colours)
        changed[name] = np.ascontiguousarray(result)
    return changed


def mixed(
    feeds: Mapping[str, Array], partners: Mapping[str, Array], changes: Sequence[str], draw: Draw
) -> dict[str, Array]:
    """Samples mixed with others of the batch; the teacher says what the mixture shows.

    With it a few thousand images teach for much longer before the student knows them by heart (Beyer et al. 2022,
    arXiv 2106.05237, section 3).

    Args:
        feeds: input name -> array [rows, ...]; those that are neither images nor sequences pass through.
        partners: the same inputs of the samples to mix in, of the same shapes.
        changes: of "mix", all pixels are blended (mixup, arXiv 1710.09412), and "patch", a rectangle is replaced
            (CutMix, arXiv 1905.04899); of both, each image takes one; and of "splice", a sequence goes on as its
            partner does from some position that both have, in all inputs alike, so that what begins and ends a
            sequence still does.
        draw: for the same rows.
    """
    result = dict(feeds)
    if "splice" in changes:
        own = _own_positions(feeds, partners, draw)
        result |= {name: np.where(own, value, partners[name]) for name, value in _sequences(feeds).items()}
    if not BLENDING & set(changes):
        return result
    for name, value in feeds.items():
        if is_images(value):
            first = spatial_axis(value)
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


def swapped(feeds: Mapping[str, Array], vocabulary: tuple[str, int], draw: Draw) -> dict[str, Array]:
    """Sequences some of whose tokens are replaced by others of the vocabulary, whatever they then say.

    A few thousand samples hold a small part of the words that a model knows; asked about all of them the teacher
    teaches its student all (Krishna et al. 2020, arXiv 1910.12366, steal models with random words).

    Args:
        feeds: input name -> array [rows, ...].
        vocabulary: the input that holds tokens, and how many there are.
        draw: for the same rows. The first and the last token of a sequence, which may be marks, stay.
    """
    name, words = vocabulary
    tokens, lengths = feeds[name].copy(), _lengths(feeds, feeds[name].shape)
    for row, (length, share, seed) in enumerate(zip(lengths, draw.swaps, draw.seeds, strict=True)):
        random = np.random.default_rng(seed)
        inside = 1 + np.flatnonzero(random.random(max(length - 2, 0)) < share)
        tokens[row, inside] = random.integers(words, size=len(inside))
    return {**feeds, name: tokens}


def _sequences(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs that hold a number for each position, where they agree on how many there are."""
    found = {name: value for name, value in feeds.items() if value.ndim == 2 and value.dtype.kind in "iu"}
    return found if len({value.shape[1] for value in found.values()}) == 1 else {}


def _own_positions(feeds: Mapping[str, Array], partners: Mapping[str, Array], draw: Draw) -> Array:
    """Where each sequence stays its own, bool [rows, positions]; a mask among the inputs says how long they are.

    Of one that is cut, the first position stays; where the shorter of the two ends, the partner has taken over.
    """
    shape = next(iter(_sequences(feeds).values())).shape
    lengths = np.minimum(_lengths(feeds, shape), _lengths(partners, shape))
    first = 1 + np.floor(draw.cuts * np.maximum(lengths - 1, 0)).astype(int)
    first = np.where(draw.cuts < 1, first, shape[1])
    own: Array = np.arange(shape[1]) < first[:, None]
    return own


def _lengths(feeds: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    """Of each sequence without padding; all positions where no mask tells."""
    mask = padding_mask(feeds)
    return np.full(shape[0], shape[1]) if mask is None else np.not_equal(feeds[mask], 0).sum(axis=1)
