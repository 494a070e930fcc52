# SPDX-License-Identifier: Apache-2.0
"""Positions that only fill samples up to one length: which they are, and what is left without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def padding_mask(feeds: Mapping[str, Array]) -> str | None:
    """The input that says which positions are padding, as exporters of transformers name it; None without one."""
    for name, value in feeds.items():
        if name.endswith("mask") and value.ndim == 2 and np.isin(value, (0, 1)).all():
            return name
    return None


def real_positions(feeds: Mapping[str, Array]) -> Array | None:
    """Whether a position of a sample is real: bool [samples, positions]; None where none is padding."""
    name = padding_mask(feeds)
    if name is None or feeds[name].all():
        return None
    real: Array = feeds[name] != 0
    return real


def without_padding(value: Array, real: Array | None) -> Array:
    """The real positions of a tensor [samples, positions, ...], as [rows, ...]; other tensors as they are."""
    return value[real] if real is not None and value.ndim > 2 and value.shape[:2] == real.shape else value
