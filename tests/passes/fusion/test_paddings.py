# SPDX-License-Identifier: Apache-2.0
"""Padding of convolutions that exporters write as nodes beside them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.passes.base import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.paddings import take_in_paddings
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(3).uniform(-6, 6, (2, 8, 40)).astype(np.float32)
ONE = "(float[n, c, l] y)"
FRONT = "<int64[6] front = {0, 0, 4, 0, 0, 1}>"
CUT = "<int64[1] zero = {0}, int64[1] end = {-4}, int64[1] axis = {2}>"
IMAGE = "g (float[2, 8, 5, 8] x) => (float[n, c, h, w] y) "


def signal(text: str, inputs: str = "float[2, 8, 40] x", outputs: str = ONE) -> ir.Model:
    return conv_graph(f"g ({inputs}) => {outputs} {text}")


def taken(model: ir.Model) -> ir.Model:
    """The model with paddings taken in, after the checker."""
    after = model.clone()
    after.graph.sort()
    take_in_paddings(after.graph, ())
    onnx.checker.check_model(ir.to_proto(after))
    return after


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


def assert_equal(before: ir.Model, after: ir.Model, x: np.ndarray = X) -> None:
    for wanted, got in zip(*(make_session(model).run(None, {"x": x}) for model in (before, after)), strict=True):
        np.testing.assert_array_equal(got, wanted)


TAKEN = {
    "zeros in front": (f"{FRONT} {{ p = Pad(x, front) y = Conv(p, 8, 16, dims=1, kernel=3) }}", (5, 2)),
    "zeros in front, by the axis": (
        "<int64[2] front = {4, 0}, int64[1] axis = {-1}, float zero = {0.0}> "
        "{ p = Pad(x, front, zero, axis) y = Conv(p, 8, 16, dims=1, kernel=3) }",
        (5, 1),
    ),
    "the end cut off": (
        f"{CUT} {{ a = Conv(x, 8, 16, dims=1, kernel=3, dilation=4, pad=8) y = Slice(a, zero, end, axis) }}",
        (8, 4),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_becomes_padding(name: str) -> None:
    text, pads = TAKEN[name]
    before = signal(text)
    after = taken(before)
    [conv] = after.graph
    assert conv.attributes.get_ints("pads") == pads
    assert conv.outputs[0].name == "y"
    assert_equal(before, after)


def test_all_readers_of_a_pad_take_it_in() -> None:
    two = "(float[n, c, l] y, float[n, c, l] z)"
    text = f"{FRONT} {{ p = Pad(x, front) y = Conv(p, 8, 16, dims=1, kernel=3) z = Conv(p, 8, 4, dims=1) }}"
    before = signal(text, outputs=two)
    after = taken(before)
    assert operators(after) == {"ShiftConv": 2}
    assert_equal(before, after)


def test_of_an_image_rows_and_columns() -> None:
    x = X.reshape(2, 8, 5, 8)
    before = conv_graph(IMAGE + "<int64[8] p = {0, 0, 1, 0, 0, 0, 2, 3}> { a = Pad(x, p) y = Conv(a, 8, 8, kernel=3) }")
    after = taken(before)
    [conv] = after.graph
    assert conv.attributes.get_ints("pads") == (2, 1, 3, 4)
    assert_equal(before, after, x)


LEFT = {
    "ones": "<int64[6] front = {0, 0, 4, 0, 0, 0}, float one = {1.0}> "
    "{ p = Pad(x, front, one) y = Conv(p, 8, 8, dims=1) }",
    "the edge": '<int64[6] front = {0, 0, 4, 0, 0, 0}> { p = Pad <mode = "edge"> (x, front) '
    "y = Conv(p, 8, 8, dims=1) }",
    "channels": "<int64[6] front = {0, 2, 4, 0, 0, 0}> { p = Pad(x, front) y = Conv(p, 10, 8, dims=1) }",
    "less of the image": "<int64[6] front = {0, 0, -4, 0, 0, 0}> { p = Pad(x, front) y = Conv(p, 8, 8, dims=1) }",
    "another reader": f"{FRONT} {{ p = Pad(x, front) a = Conv(p, 8, 8, dims=1) y = Add(a, p) }}",
    "more cut off than was padded": f"{CUT} {{ a = Conv(x, 8, 8, dims=1, kernel=3) y = Slice(a, zero, end, axis) }}",
    "outputs that might not be there": f"{CUT} {{ a = Conv(x, 8, 8, dims=1, kernel=3, dilation=8, pad=4) "
    "y = Slice(a, zero, end, axis) }",
    "outputs of every other window": f"{CUT} {{ a = Conv(x, 8, 8, dims=1, kernel=3, dilation=4, pad=8, stride=2) "
    "y = Slice(a, zero, end, axis) }",
    "the beginning cut off": "<int64[1] one = {1}, int64[1] end = {-4}, int64[1] axis = {2}> "
    "{ a = Conv(x, 8, 8, dims=1, kernel=3, dilation=4, pad=8) y = Slice(a, one, end, axis) }",
    "channels cut off": "<int64[1] zero = {0}, int64[1] end = {-4}, int64[1] axis = {1}> "
    "{ a = Conv(x, 8, 8, dims=1, kernel=3, dilation=4, pad=8) y = Slice(a, zero, end, axis) }",
}


@pytest.mark.parametrize("name", LEFT)
def test_near_miss_stays_as_it_is(name: str) -> None:
    before = signal(LEFT[name])
    assert operators(taken(before)) == operators(before)


def test_excluded_convolution_keeps_its_pad() -> None:
    model = signal(TAKEN["zeros in front"][0])
    FuseBlocks().rewrite(model, Context(exclude=("y",)))
    assert operators(model) == {"Pad": 1, "ShiftConv": 1}


def test_causal_region_has_nothing_but_blocks_in_it() -> None:
    """As torch exports temporal convolutional networks: the end cut off, or zeros in front."""
    before = signal(
        f"{CUT} {{ a = Conv(x, 8, 16, dims=1, kernel=3, dilation=2, pad=4) b = Slice(a, zero, end, axis) c = Relu(b) "
        "d = Conv(c, 16, 16, dims=1, kernel=3, dilation=2, pad=4) e = Slice(d, zero, end, axis) y = Relu(e) }"
    )
    after = before.clone()
    FuseBlocks().rewrite(after, Context(probe=lambda one: probe(one, feeds={"x": X}, seed=0)))
    assert operators(after) == {"Unsqueeze": 1, "FusedConvBlock": 2, "Squeeze": 1}
    assert_equal(before, after)
