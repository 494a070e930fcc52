# SPDX-License-Identifier: Apache-2.0
"""Inverted residual blocks become one node where their wide tensors leave the cache, and mean what they meant."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.ops import add_functions
from edgefold.passes.base import Context, Notes
from edgefold.passes.fusion.conv_region import fuse_conv_regions
from edgefold.passes.fusion.cost import Device, Level
from edgefold.passes.fusion.inverted_residual import fuse_inverted_residuals
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (1, 8, 14, 12)).astype(np.float32)
# The expanded tensor has 8064 bytes; ring, rows and weights of the fused form have 6336.
TINY = Device("tiny", (Level("L1", 7000, 200.0), Level("memory", math.inf, 1.0)))
ALL_FITS = Device("all fits", (Level("L1", 1e6, 0.01), Level("memory", math.inf, 0.01)))
ONLY_NODES_COST = Device("only nodes cost", (Level("memory", math.inf, 1e9),))
BLOCK = """g (float[1, 8, 14, 12] x) => ({outputs}) {{
    a = Conv(x, 8, 16) b = Relu(a)
    c = Conv(b, 16, 48) d = Relu(c)
    e = Conv(d, 48, 48, kernel=3, stride={stride}, group=48) f = Relu(e)
    i = Conv(f, 48, 16) {end}
}}"""
PLAIN = "y = Conv(i, 16, 8, low=-127, high=127)"
ADDED = "j = Add(i, b) y = Conv(j, 16, 8, low=-127, high=127)"
OTHER = "r = Conv(b, 16, 16) s = Relu(r) j = Add(i, s) y = Conv(j, 16, 8, low=-127, high=127) z = Conv(s, 16, 4)"
OUTPUT = "float[n, c, h, w] y"


def fused_blocks(
    end: str, stride: int = 1, device: Device = TINY, outputs: str = OUTPUT
) -> tuple[ir.Model, ir.Model, Notes]:
    """The region of a block, the same with the block as one node, and what was noted."""
    context = Context(probe=functools.partial(probe, feeds={"x": X}, seed=0))
    region = conv_graph(BLOCK.format(stride=stride, end=end, outputs=outputs))
    fuse_conv_regions(region, context, device)
    add_functions(region)
    block = region.clone()
    notes = fuse_inverted_residuals(block, context, device)
    add_functions(block)
    onnx.checker.check_model(ir.to_proto(block))
    return region, block, notes


def count(model: ir.Model) -> int:
    return sum(node.op_type == "FusedInvertedResidual" for node in model.graph)


@pytest.mark.parametrize(("end", "stride"), [(PLAIN, 1), (PLAIN, 2), (ADDED, 1)])
def test_block_is_one_node_and_bit_equal_with_and_without_the_library(end: str, stride: int) -> None:
    region, block, notes = fused_blocks(end, stride)
    assert count(block) == 1
    assert len(notes.edits) == 1
    assert len(list(block.graph)) == len(list(region.graph)) - 2
    for library in (True, False):
        wanted, got = (make_session(model, library=library).run(None, {"x": X})[0] for model in (region, block))
        np.testing.assert_array_equal(got, wanted)


def test_block_that_adds_something_else_is_left_alone() -> None:
    region, block, notes = fused_blocks(OTHER, outputs=f"{OUTPUT}, float[n, d, h, w] z")
    assert [node.attributes.get_int("residual_at", 0) for node in region.graph].count(1) == 1
    assert count(block) == 0
    assert not notes.table


def test_row_says_what_decided() -> None:
    [row] = fused_blocks(PLAIN)[2].table
    assert row["kind"] == "inverted-residual"
    assert row["fuse"]
    assert row["fused_us"] < row["unfused_us"]
    assert "unfused expanded 16 KB in L1 (87%) and memory" in row["why"]
    assert "fused expanded 16 KB in L1" in row["why"]


def test_block_whose_tensors_stay_in_the_cache_anyway_is_left_alone_with_the_reason() -> None:
    _, block, notes = fused_blocks(ADDED, device=ALL_FITS)
    assert count(block) == 0
    [skip] = notes.skips
    assert "weights 2 KB in L1" in str(skip)


def test_chain_of_separable_convolutions_becomes_blocks_that_share_nothing() -> None:
    chain = (
        "j = Relu(i) k = Conv(j, 16, 16, kernel=3, group=16) l = Relu(k) o = Conv(l, 16, 48) p = Relu(o) "
        "q = Conv(p, 48, 48, kernel=3, group=48) r = Relu(q) y = Conv(r, 48, 8)"
    )
    region, block, notes = fused_blocks(chain, device=ONLY_NODES_COST)
    assert count(block) == 2
    assert not notes.skips
    wanted, got = (make_session(model).run(None, {"x": X})[0] for model in (region, block))
    np.testing.assert_array_equal(got, wanted)
