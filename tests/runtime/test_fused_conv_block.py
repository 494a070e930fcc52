# SPDX-License-Identifier: Apache-2.0
"""FusedConvBlock: the kernel gives what the function in standard operators gives, bit for bit where both clip."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fused_conv import NOTHING, Block, conv_block, run

BLOCKS = {
    "pointwise": Block((24, 40)),
    "3x3": Block((5, 19), (3, 3), pads=(1, 1, 1, 1)),
    "depthwise": Block((40, 40), (3, 3), (2, 2), (0, 0, 1, 1), group=40),
    "groups": Block((12, 20), (3, 2), pads=(1, 0, 0, 1), dilations=(2, 1), group=4),
    "4-bit": Block((37, 33), (3, 3), pads=(1, 1, 1, 1), bits=4),
}
LEAKY_RELU = 8
RELU6 = {"function": 0, "alpha": 0.0, "beta": 6.0}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    ("x", "y", "residual", "place"),
    [
        ("float", "u8", None, 0),
        ("u8", "s8", "u8", 1),
        ("s8", "float", "s8", 2),
        ("u8", "u8", "s8", 2),
        ("float last", "float last", "u8", 1),
    ],
)
def test_kernel_equals_function(name: str, x: str, y: str, residual: str | None, place: int) -> None:
    function = RELU6 if y == "u8" else NOTHING
    proto, feeds = conv_block(BLOCKS[name], x, y, residual, place, **function)
    expected = run(proto, feeds, library=False)
    got = run(proto, feeds, library=True, threads=2)
    assert got.dtype == expected.dtype
    assert len(np.unique(expected)) > 20  # the case says something
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["pointwise", "depthwise", "groups"])
@pytest.mark.parametrize(
    ("x", "y", "residual", "place"),
    [
        ("u4", "u4", "u4", 1),
        ("s4", "s4", "u4", 2),
        ("u4", "float", "s4", 1),
        ("float", "s4", None, 0),
        ("u4", "u8", "u8", 2),
    ],
)
def test_codes_of_four_bits_lie_two_a_byte(name: str, x: str, y: str, residual: str | None, place: int) -> None:
    coarse = {} if y == "float" else {"y_scale": 0.25}
    proto, feeds = conv_block(BLOCKS[name], x, y, residual, place, **coarse)
    expected = run(proto, feeds, library=False)
    got = run(proto, feeds, library=True, threads=2)
    assert len(np.unique(expected)) > (10 if y.endswith("4") else 20)  # the case says something
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("block", "x", "y", "residual", "role"),
    [
        (Block((5, 20)), "u4", "u8", None, "x"),
        (Block((20, 5)), "u8", "u4", None, "y"),
        (Block((20, 5)), "u8", "u8", "s4", "residual"),
    ],
)
def test_four_bits_of_an_odd_number_of_channels_are_refused(
    block: Block, x: str, y: str, residual: str | None, role: str
) -> None:
    proto, feeds = conv_block(block, x, y, residual, int(residual is not None))
    with pytest.raises(Exception, match=f"'{role}_packed' is 1 for codes of .* and 5 channels"):
        run(proto, feeds, library=True)


@pytest.mark.parametrize(("y", "low", "high"), [("u4", 0, 16), ("s4", -8, 8), ("s4", -9, 7), ("float", 0, 0)])
def test_other_codes_than_of_four_bits_are_not_packed(y: str, low: int, high: int) -> None:
    proto, feeds = conv_block(BLOCKS["pointwise"], "u8", y, y_low=low, y_high=high, y_packed=1)
    with pytest.raises(Exception, match=f"'y_packed' is 1 for codes of {low} to {high} and 40 channels"):
        run(proto, feeds, library=True)


@pytest.mark.parametrize("alpha", [0.1, 0.0, -0.5, 1.0])
@pytest.mark.parametrize("y", ["float", "u8", "s8"])
def test_leaky_relu_is_equal_in_every_bit(y: str, alpha: float) -> None:
    for residual in (None, "s8"):
        more = {"function": LEAKY_RELU, "alpha": alpha, "beta": 0.0}
        proto, feeds = conv_block(BLOCKS["3x3"], "u8", y, residual, int(residual is not None), **more)
        np.testing.assert_array_equal(run(proto, feeds, library=True), run(proto, feeds, library=False))


@pytest.mark.parametrize("kind", range(1, 8))
def test_other_functions_differ_by_a_code_at_a_tie_only(kind: int) -> None:
    more = {"function": kind, "alpha": 1 / 6 if kind in (2, 5) else 1.0, "beta": 0.5}
    proto, feeds = conv_block(BLOCKS["3x3"], "u8", "s8", "s8", 1, **more)
    expected = run(proto, feeds, library=False).astype(int)
    got = run(proto, feeds, library=True).astype(int)
    assert np.abs(got - expected).max() <= 1
    assert (got != expected).mean() < 1e-3


@pytest.mark.parametrize("name", BLOCKS)
def test_channel_last_floats_are_the_channel_first_ones_turned(name: str) -> None:
    proto, feeds = conv_block(BLOCKS[name], "float", "float")
    first = run(proto, feeds, library=True)
    turned, _ = conv_block(BLOCKS[name], "float last", "float last")
    last = run(turned, {"x": feeds["x"].transpose(0, 2, 3, 1).copy()}, library=True, threads=2)
    np.testing.assert_array_equal(last, first.transpose(0, 2, 3, 1))


def test_floats_that_lie_channel_last_take_no_shifts() -> None:
    shifts = np.arange(24, dtype=np.uint8) % 2
    halved = {"activation_low": -63, "activation_high": 63}
    proto, feeds = conv_block(BLOCKS["pointwise"], "float last", "u8", shifts=shifts, **halved)
    with pytest.raises(Exception, match="x_shifts must be 0"):
        run(proto, feeds, library=True)


def test_residual_before_and_after_the_activation_differ() -> None:
    block = BLOCKS["pointwise"]
    outputs = [run(*conv_block(block, "u8", "float", "u8", place, **RELU6), library=True) for place in (0, 1, 2)]
    assert outputs[0].max() <= 6
    assert outputs[1].max() <= 6
    assert outputs[2].max() > 6
    assert not np.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x_perm": [0, 1, 2, 3]}, "x_perm"),
        ({"y_perm": [0, 1, 2, 3]}, "y_perm"),
        ({"y_perm": [0, 3, 1, 2]}, "y_perm"),
        ({"y_high": 256}, "high"),
        ({"y_high": 0}, "dtype"),
        ({"function": 9}, "function"),
        ({"function": LEAKY_RELU, "alpha": 1.5}, "'alpha' is 1.5; expected -1 to 1"),
        ({"residual_at": 3}, "residual_at"),
        ({"activation_high": 0}, "activation_high"),
        ({"kernel_shape": [1], "strides": [1], "dilations": [1], "pads": [0, 0]}, "two spatial"),
        ({"group": 7}, "groups"),
        ({"alpha": math.nan}, "alpha"),
    ],
)
def test_malformed_attribute_is_refused(wrong: dict[str, object], message: str) -> None:
    proto, feeds = conv_block(BLOCKS["pointwise"], "u8", "u8", "u8", 1, **wrong)
    with pytest.raises(Exception, match=message):
        run(proto, feeds, library=True)


def test_inputs_of_another_shape_or_type_are_refused() -> None:
    proto, feeds = conv_block(BLOCKS["pointwise"], "u8", "u8", "u8", 1)
    narrow = {**feeds, "residual": feeds["residual"][:, :, :-1]}
    with pytest.raises(Exception, match="residual has"):
        run(proto, narrow, library=True)
    with pytest.raises(Exception, match="expected an image of 24 channels"):
        run(proto, {**feeds, "x": feeds["x"][..., :-1]}, library=True)
    proto, feeds = conv_block(dataclasses.replace(BLOCKS["pointwise"]), "s8", "u8", activation_low=0)
    with pytest.raises(Exception, match="element type"):
        run(proto, feeds, library=True)
