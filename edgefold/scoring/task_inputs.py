# SPDX-License-Identifier: Apache-2.0
"""Makes one model input from stored data, in the task format's fixed order of operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edgefold.scoring.task_data import TaskData

Numbers = float | tuple[float, ...]


class InputRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one input is made; the operations apply in the order of the fields, each optional.

    Attributes:
        array: the array (column) to read.
        images: instead of ``array``: a column of image paths, relative to the data file, read as RGB, uint8.
        size: height and width in pixels to which images are resized (Pillow's BILINEAR) where they differ.
        channels: "bgr" reverses the last axis.
        scale: multiplied.
        mean: subtracted; a number, or one per entry of the last axis.
        std: divided by; likewise.
        layout: "nhwc->nchw" moves the last axis to the second place; "nhwc" keeps the data as stored.
    """

    array: str | None = None
    images: str | None = None
    size: tuple[int, int] | None = None
    channels: Literal["rgb", "bgr"] | None = None
    scale: float | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    layout: Literal["nhwc", "nhwc->nchw"] | None = None

    @property
    def source(self) -> str:
        """The array or column that the input is made from."""
        return self.array or self.images or ""

    def problem(self) -> str | None:
        """What is contradictory in this rule, or None."""
        if (self.array is None) == (self.images is None):
            return "needs exactly one of 'array' and 'images'"
        if self.size is not None and self.images is None:
            return "'size' resizes images; an array is used as stored"
        if self.size is not None and not all(0 < side <= 1 << 14 for side in self.size):
            return f"'size' must be two sides from 1 to 16384 pixels, not {list(self.size)}"
        if self.std is not None and np.any(np.asarray(self.std) == 0):
            return "'std' holds a zero"
        return None


def make_input(
    rule: InputRule, rows: np.ndarray[Any, Any], data: TaskData, dtype: np.dtype[Any], where: str
) -> np.ndarray[Any, Any]:
    """Makes the feed of one input for some samples.

    Args:
        rule: how.
        rows: the samples' part of the array, or their image paths.
        data: where image paths are relative to.
        dtype: the model input's element type, to which the result is cast.
        where: the task file and input, for messages.

    Raises:
        UsageError: an unreadable image, images of different sizes without ``size``, a layout that does not fit.
    """
    value = rows if rule.images is None else _read_images(rows, rule, data.path, where)
    if value.dtype.kind in "US" and dtype != np.dtype(np.object_):
        raise UsageError(f"{where}: '{rule.source}' holds text, the model wants {dtype}; use 'images' for image paths")
    if rule.channels == "bgr":
        value = value[..., ::-1]
    if rule.scale is not None or rule.mean is not None or rule.std is not None:
        value = value.astype(np.float64 if dtype == np.float64 else np.float32)
        value = _arithmetic(value, rule, where)
    if rule.layout == "nhwc->nchw":
        if value.ndim < 3:
            shape = list(value.shape)
            raise UsageError(f"{where}: layout nhwc->nchw needs channels last, but the data have shape {shape}")
        value = np.moveaxis(value, -1, 1)
    return np.ascontiguousarray(value.astype(dtype, copy=False))


def _arithmetic(value: np.ndarray[Any, Any], rule: InputRule, where: str) -> np.ndarray[Any, Any]:
    if rule.scale is not None:
        value = value * value.dtype.type(rule.scale)
    for name, numbers in (("mean", rule.mean), ("std", rule.std)):
        if numbers is None:
            continue
        vector = np.asarray(numbers, dtype=value.dtype)
        if vector.ndim == 1 and vector.size not in (1, value.shape[-1]):
            channels = value.shape[-1]
            raise UsageError(f"{where}: '{name}' has {vector.size} numbers, the data {channels} in the last axis")
        value = value - vector if name == "mean" else value / vector
    return value


def _read_images(paths: np.ndarray[Any, Any], rule: InputRule, data: Path, where: str) -> np.ndarray[Any, Any]:
    images = [_read_image(data.parent / str(path), rule.size, where) for path in paths]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise UsageError(f"{where}: images of different sizes in one batch; give 'size: [H, W]'")
    return np.stack(images)


def _read_image(path: Path, size: tuple[int, int] | None, where: str) -> np.ndarray[Any, Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f"{where}: reading images needs Pillow; run: pip install pillow") from error
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{where}: cannot read the image {path}: {error}") from error
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)
