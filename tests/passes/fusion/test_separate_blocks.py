# SPDX-License-Identifier: Apache-2.0
"""Bottleneck and ConvFirst blocks stay what they are, and the report says why."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from packed_convs import conv_graph

from edgefold.passes.base import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe

X = np.random.default_rng(5).uniform(-6, 6, (1, 8, 14, 12)).astype(np.float32)
SIGNED = "low=-127, high=127"
HEAD = "g (float[1, 8, 14, 12] x) => (float[n, c, h, w] y)"
FRONT, BACK = f"a = Conv(x, 8, 16, {SIGNED}) b = Relu(a)", f"t = Relu(s) y = Conv(t, 16, 8, {SIGNED})"
BLOCKS = {
    "bottleneck": "c = Conv(b, 16, 4) d = Relu(c) e = Conv(d, 4, 4, kernel=3) f = Relu(e) i = Conv(f, 4, 16) "
    "s = Add(i, b)",
    "conv-first": "c = Conv(b, 16, 16, kernel=3, group=2) d = Conv(c, 16, 64) f = Relu(d) i = Conv(f, 64, 16) "
    "s = Add(i, b)",
}
OTHERS = {
    "nothing added": "c = Conv(b, 16, 4) d = Relu(c) e = Conv(d, 4, 4, kernel=3) f = Relu(e) s = Conv(f, 4, 16)",
    "something else added": "c = Conv(b, 16, 4) d = Relu(c) e = Conv(d, 4, 4, kernel=3) f = Relu(e) i = Conv(f, 4, 16) "
    "r = Conv(b, 16, 16) s = Add(i, r)",
    "one convolution of few channels": "c = Conv(b, 16, 4) d = Relu(c) i = Conv(d, 4, 16) s = Add(i, b)",
    "no more channels between": "c = Conv(b, 16, 16, kernel=3, group=2) d = Conv(c, 16, 16) f = Relu(d) "
    "i = Conv(f, 16, 16) s = Add(i, b)",
}


def notes_of(body: str) -> Notes:
    model = conv_graph(f"{HEAD} {{ {FRONT} {body} {BACK} }}")
    return FuseBlocks().rewrite(model, Context(probe=functools.partial(probe, feeds={"x": X}, seed=0)))


@pytest.mark.parametrize("kind", BLOCKS)
def test_block_is_left_with_the_reason(kind: str) -> None:
    notes = notes_of(BLOCKS[kind])
    [row] = notes.table
    assert (row["kind"], row["block"], row["fuse"]) == (kind, "c", False)
    assert "first" in row["why"]
    assert [skip.detail for skip in notes.skips if skip.node == "c"] == [row["why"]]


@pytest.mark.parametrize("name", OTHERS)
def test_other_chains_are_not_named(name: str) -> None:
    assert not notes_of(OTHERS[name]).table
