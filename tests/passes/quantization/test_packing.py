# SPDX-License-Identifier: Apache-2.0
"""The packed layout: its inverse, its size, and one unit spelled out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefold.passes.quantization.packing import (
    fields,
    pack_codes,
    pack_selectors,
    packed_bytes,
    packed_shape,
    unpack_codes,
    unpack_selectors,
)

sizes = st.integers(1, 70)


@given(k=sizes, n=sizes, bits=st.integers(1, 8), seed=st.integers(0, 9))
def test_codes_come_back(k: int, n: int, bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, (k, n)).astype(np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == packed_shape(k, n, bits)
    assert np.array_equal(unpack_codes(packed, k, n, bits), codes)


@given(groups=sizes, n=sizes, tables=st.integers(2, 16), seed=st.integers(0, 9))
def test_selectors_come_back(groups: int, n: int, tables: int, seed: int) -> None:
    selectors = np.random.default_rng(seed).integers(0, tables, (groups, n)).astype(np.uint8)
    packed = pack_selectors(selectors, tables=tables)
    assert packed.shape == (-(-n // 16), groups, 8)
    assert np.array_equal(unpack_selectors(packed, groups, n), selectors)


def test_one_table_needs_no_selectors() -> None:
    packed = pack_selectors(np.zeros((5, 40), np.uint8), tables=1)
    assert packed.shape == (1, 1, 8)
    assert not packed.any()
    assert unpack_selectors(packed, 5, 40).shape == (5, 40)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [(2, [(2, 0)]), (3, [(2, 0), (1, 2)]), (5, [(4, 0), (1, 4)]), (7, [(4, 0), (2, 4), (1, 6)]), (8, [(8, 0)])],
)
def test_fields_are_the_binary_digits_of_the_width(bits: int, expected: list[tuple[int, int]]) -> None:
    assert fields(bits) == expected


@pytest.mark.parametrize("bits", [3, 4, 6, 7])
def test_a_unit_stands_as_the_layout_says(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (4, 16)).astype(np.uint8)
    unit = pack_codes(codes, bits)[0, 0]
    start = 0
    for width, position in fields(bits):
        for j in range(8 * width):
            for turn in range(8 // width):
                number = j + 8 * width * turn
                code = int(codes[number % 4, number // 4])
                assert (int(unit[start + j]) >> (width * turn)) % 2**width == (code >> position) % 2**width
        start += 8 * width


def test_packed_bytes_counts_every_tensor() -> None:
    codes, selectors = np.zeros((70, 40), np.uint8), np.zeros((3, 40), np.uint8)
    total = pack_codes(codes, 4).nbytes + pack_selectors(selectors, tables=8).nbytes + 8 * 16 + 40 * 4
    assert packed_bytes(70, 40, 4, 8) == total
