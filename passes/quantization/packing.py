# SPDX-License-Identifier: Apache-2.0
"""The packed layout (version 1) of weight codes and table selectors.

A *unit* is 16 columns by 4 consecutive k: 64 codes, number ``p = column * 4 + k``. Its bits are split into fields
of 8, 4, 2 or 1 bits (the binary digits of the width, widest first, lowest bits first); field ``w`` takes ``8 * w``
bytes, and its byte ``j`` holds at bit ``w * t`` the field of code ``j + 8 * w * t``. So a kernel gets 64 codes from
whole registers with one shift and one mask a field, and needs no shuffle across lanes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LAYOUT_VERSION = 1
PANEL_COLUMNS = 16
UNIT_DEPTH = 4
GROUP_DEPTH = 32
_UNIT_CODES = PANEL_COLUMNS * UNIT_DEPTH

Bytes = npt.NDArray[np.uint8]


def fields(bits: int) -> list[tuple[int, int]]:
    """The fields of a code as (width, position of its lowest bit), in the order in which a unit stores them."""
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, not {bits}")
    return [(width, bits // (2 * width) * (2 * width)) for width in (8, 4, 2, 1) if bits & width]


def packed_shape(k: int, n: int, bits: int) -> tuple[int, int, int]:
    """Shape [panels, units along k, bytes a unit] of the packed codes of a [k, n] matrix."""
    return -(-n // PANEL_COLUMNS), -(-k // UNIT_DEPTH), 8 * bits


def packed_bytes(k: int, n: int, bits: int, tables: int) -> int:
    """Bytes of codes, selectors, table and scales of a [k, n] matrix, padding included."""
    panels, depth, unit = packed_shape(k, n, bits)
    selectors = panels * -(-k // GROUP_DEPTH) * 8 if tables > 1 else 8
    return panels * depth * unit + selectors + (tables << bits) + 4 * n


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Packs codes [K, N], each below 2**bits, to [ceil(N/16), ceil(K/4), 8*bits]; padding holds code 0."""
    k, n = codes.shape
    panels, depth, unit = packed_shape(k, n, bits)
    padded = np.zeros((depth * UNIT_DEPTH, panels * PANEL_COLUMNS), np.uint8)
    padded[:k, :n] = codes
    units = padded.reshape(depth, UNIT_DEPTH, panels, PANEL_COLUMNS).transpose(2, 0, 3, 1)
    flat = np.ascontiguousarray(units).reshape(panels, depth, _UNIT_CODES)
    packed = np.empty((panels, depth, unit), np.uint8)
    start = 0
    for width, position in fields(bits):
        size = 8 * width
        part = ((flat >> position) & (2**width - 1)).reshape(panels, depth, 8 // width, size)
        field = packed[:, :, start : start + size]
        field[...] = part[:, :, 0]
        for turn in range(1, 8 // width):
            field |= part[:, :, turn] << (width * turn)
        start += size
    return packed


def unpack_codes(packed: Bytes, k: int, n: int, bits: int) -> Bytes:
    """The inverse of `pack_codes`: codes [k, n] without the padding."""
    panels, depth, _ = packed.shape
    codes = np.zeros((panels, depth, _UNIT_CODES), np.uint8)
    start = 0
    for width, position in fields(bits):
        size = 8 * width
        field = packed[:, :, start : start + size]
        for turn in range(8 // width):
            part = (field >> (width * turn)) & (2**width - 1)
            codes[:, :, turn * size : (turn + 1) * size] |= part << position
        start += size
    units = codes.reshape(panels, depth, PANEL_COLUMNS, UNIT_DEPTH).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(units.reshape(depth * UNIT_DEPTH, panels * PANEL_COLUMNS)[:k, :n])


def pack_selectors(selectors: Bytes, *, tables: int) -> Bytes:
    """Packs table numbers [ceil(K/32), N] to [ceil(N/16), ceil(K/32), 8]; with one table, to a single zero block.

    Byte j of a block holds the table of column j in its low nibble and of column j + 8 in its high nibble.
    """
    if tables == 1:
        return np.zeros((1, 1, 8), np.uint8)
    groups, n = selectors.shape
    panels = -(-n // PANEL_COLUMNS)
    padded = np.zeros((groups, panels * PANEL_COLUMNS), np.uint8)
    padded[:, :n] = selectors
    blocks = padded.reshape(groups, panels, 2, 8).transpose(1, 0, 2, 3)
    packed: Bytes = blocks[:, :, 0] | (blocks[:, :, 1] << 4)
    return packed


def unpack_selectors(packed: Bytes, groups: int, n: int) -> Bytes:
    """The inverse of `pack_selectors`: table numbers [groups, n]."""
    if packed.shape == (1, 1, 8) and not packed.any():
        return np.zeros((groups, n), np.uint8)
    blocks = np.stack([packed & 15, packed >> 4], axis=2).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(blocks.reshape(groups, -1)[:, :n])
