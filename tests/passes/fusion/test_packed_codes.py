# SPDX-License-Identifier: Apache-2.0
"""Codes of four bits lie two a byte where fused convolutions alone handle them, and the outputs stay what they were."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.nodewise import prove_portable
from edgefold.passes.base import Context, Notes
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 9, 10)).astype(np.float32)
Y = "g (float[2, 8, 9, 10] x) => (float[n, c, h, w] y) "
FOUR = "scale=0.4, high=15"
CONTEXT = Context(probe=functools.partial(probe, feeds={"x": X}, seed=0))


def fused(text: str, four_bits: str) -> tuple[ir.Model, Notes]:
    model = conv_graph(Y + text)
    notes = FuseBlocks(four_bits=four_bits).rewrite(model, CONTEXT)  # type: ignore[arg-type]
    onnx.checker.check_model(ir.to_proto(model))
    return model, notes


def packed(model: ir.Model) -> list[int]:
    """Whether the fused convolutions give two codes a byte."""
    return [node.attributes.get_int("y_packed", 0) for node in model.graph if node.op_type.startswith("Fused")]


def branches(model: ir.Model) -> int:
    images = [function for key, function in model.functions.items() if "Image" in key[1]]
    return sum(node.op_type == "If" for function in images for node in function)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{{ a = Conv(x, 8, 16, kernel=3) b = Relu(a) y = Conv(b, 16, 8, {FOUR}) }}", [1, 0]),
        ("{ a = Conv(x, 8, 16) y = Conv(a, 16, 8, scale=0.5, low=-8, high=7) }", [1, 0]),
        (
            f"{{ a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, 16, kernel=3, {FOUR}) d = Add(c, b) e = Relu(d) "
            f"y = Conv(e, 16, 8, {FOUR}) }}",
            [1, 1, 0],
        ),
        (
            f"{{ a = Conv(x, 8, 8) b = Relu(a) c = Conv(b, 8, 48, {FOUR}) d = Relu(c) e = Conv(d, 48, 48, kernel=3, "
            f"group=48, {FOUR}) f = Relu(e) h = Conv(f, 48, 8, {FOUR}) i = Relu(h) y = Conv(i, 8, 8, {FOUR}) }}",
            [1, 1, 0],  # the block of three is one node
        ),
    ],
    ids=["unsigned", "signed", "residual", "inverted residual"],
)
def test_codes_of_four_bits_are_packed(text: str, expected: list[int]) -> None:
    as_bytes, _ = fused(text, "bytes")
    model, notes = fused(text, "packed")
    assert packed(model) == expected
    assert not any(packed(as_bytes))
    assert (branches(as_bytes), branches(model) > 0) == (0, True)  # a body has them only where something is packed
    assert notes.stats["packed_tensors"] == sum(expected)
    np.testing.assert_array_equal(make_session(model).run(None, {"x": X}), make_session(as_bytes).run(None, {"x": X}))
    assert prove_portable(model, {"x": X}).worst <= 1e-6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{ a = Conv(x, 8, 16) b = Relu(a) y = Conv(b, 16, 8, scale=0.4, high=16) }", ""),
        ("{ a = Conv(x, 8, 16) y = Conv(a, 16, 8, scale=0.5, low=-9, high=7) }", ""),
        (f"{{ a = Conv(x, 8, 15) b = Relu(a) y = Conv(b, 15, 8, {FOUR}) }}", "an odd number of channels"),
        (
            f"{{ a = Conv(x, 8, 16) b = Relu(a) c = MaxPool <kernel_shape = [2, 2]> (b) y = Conv(c, 16, 8, {FOUR}) }}",
            "read by",
        ),
    ],
    ids=["16 is no code of four bits", "nor is -9", "odd channels", "pooling reads bytes"],
)
def test_other_codes_keep_a_byte_each(text: str, why: str) -> None:
    model, notes = fused(text, "packed")
    assert notes.stats["packed_tensors"] == 0
    assert not any(packed(model))
    assert [why in skip.detail for skip in notes.skips] == ([True] if why else [])
