# SPDX-License-Identifier: Apache-2.0
"""Blocks of temporal networks: how far the taps of a convolution reach does not tell them apart, all else does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from block_networks import Network

from edgefold.passes.depth.blocks import find_stacks

TEMPORAL = 8


def counts(model: ir.Model) -> list[int]:
    return [len(stack.blocks) for stack in find_stacks(model)]


@pytest.mark.parametrize("causal", ["padding", "Pad", "Slice"])
@pytest.mark.parametrize(("side", "blocks"), [((3, 3, 3), [3]), ((3, 5, 7), [])])
def test_dilations_that_double_from_block_to_block(causal: str, side: tuple[int, ...], blocks: list[int]) -> None:
    net = Network(f"float[b, {TEMPORAL}, t] x")
    x = "x"
    for at, taps in enumerate(side):
        reach, y = (taps - 1) * 2**at, x
        net.arrays |= {f"before{at}": np.array([0, 0, reach, 0, 0, 0]), f"end{at}": np.array([-reach])}
        net.arrays |= {"start": np.array([0]), "time": np.array([2])}
        pads = {"padding": [reach // 2] * 2, "Pad": [0, 0], "Slice": [reach] * 2}[causal]
        y = net.add("Pad", y, f"before{at}") if causal == "Pad" else y
        attributes = f"<dilations = [{2**at}], pads = {pads}>"
        y = net.add("Conv", y, net.weight(TEMPORAL, TEMPORAL, taps), attributes=attributes)
        y = net.add("Slice", y, "start", f"end{at}", "time") if causal == "Slice" else y
        x = net.add("Add", net.add("Relu", y), x)
    assert counts(net.model(net.add("Relu", x))) == blocks


def test_halves_of_channels_and_shifts_in_time_still_tell_blocks_apart() -> None:
    """What is cut off a convolution is left out along time only, what is padded only before a convolution."""
    gated, shifted = Network(f"float[b, {TEMPORAL}, t] x"), Network(f"float[b, {TEMPORAL}, t] x")
    for net in (gated, shifted):
        net.arrays |= {"start": np.array([0]), "half": np.array([TEMPORAL]), "last": np.array([2 * TEMPORAL])}
        net.arrays |= {"channels": np.array([-2]), "time": np.array([2])}
    x = y = "x"
    for at in range(4):
        both = gated.add("Conv", x, gated.weight(2 * TEMPORAL, TEMPORAL, 3), attributes="<pads = [1, 1]>")
        cuts = [("start", "half"), ("half", "last")][:: -1 if at % 2 else 1]
        value, gate = (gated.add("Slice", both, *cut, "channels") for cut in cuts)
        x = gated.add("Add", gated.add("Mul", value, gated.add("Sigmoid", gate)), x)
        shifted.arrays |= {f"before{at}": np.array([0, 0, at, 0, 0, 0]), f"end{at}": np.array([-at])}
        moved = shifted.add("Slice", shifted.add("Pad", y, f"before{at}"), "start", f"end{at}", "time")
        taps = shifted.weight(TEMPORAL, TEMPORAL, 3)
        y = shifted.add("Add", shifted.add("Conv", moved, taps, attributes="<pads = [1, 1]>"), y)
    assert counts(gated.model(gated.add("Relu", x))) == [2], "pairs, for the halves change places"
    assert counts(shifted.model(shifted.add("Relu", y))) == []
