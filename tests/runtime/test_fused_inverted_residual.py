# SPDX-License-Identifier: Apache-2.0
"""FusedInvertedResidual: the kernel gives what the three blocks of its function give, bit for bit where they clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fused_conv import BACK, FIRST, LAST, NOTHING, TYPES, image, model, packed, run, weights_and_scale

RELU6 = {"function": 0, "alpha": 0.0, "beta": 6.0}
HARD_SWISH = {"function": 5, "alpha": 1 / 6, "beta": 0.5}


def inverted_residual(
    x: str,
    y: str,
    *,
    kernel: int = 3,
    stride: int = 1,
    residual: bool = False,
    inner: dict[str, Any] = RELU6,
    **more: Any,
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A serialized model of one block, 24 channels to 72 to 24 (40 where nothing is added), and inputs for it."""
    rng = np.random.default_rng(kernel)
    out = 24 if residual else 40
    sizes = {"expand": (24, 72), "depthwise": (kernel**2, 72), "project": (72, out)}
    names, constants, attributes = ["x"], {}, {"layout": 1}
    for part, (k, n) in sizes.items():
        weights, bias = weights_and_scale(rng, k, n, 4 if part == "project" else 8)
        constants |= packed(weights, f"{part}_") | {f"{part}_bias": bias}
        names += [f"{part}_{one}" for one in ("codes", "selectors", "table", "scales", "bias")]
        function = NOTHING if part == "project" else inner
        attributes |= {f"{part}_{name}": value for name, value in {**function, "k": k, "bits": weights.bits}.items()}
    signed = inner is not RELU6
    for part in ("expand", "depthwise"):
        low, high, dtype = TYPES["s8" if signed else "u8"]
        attributes |= {f"{part}_low": low, f"{part}_high": high, f"{part}_dtype": dtype}
    scale = np.array([1 / 64], np.float32)
    constants |= {"x_scale": scale, "expand_scale": scale * 2, "depthwise_scale": scale * 3, "y_scale": scale * 5}
    names += ["x_scale", "expand_scale", "depthwise_scale", "y_scale"]
    low, high, dtype = TYPES["s8" if x.startswith("float") else x]
    attributes |= {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [kernel // 2] * 4,
        "dilations": [1, 1],
        "group": 72,
        "activation_low": low,
        "activation_high": high,
        "x_codes": int(not x.startswith("float")),
        "x_dtype": dtype,
        "x_perm": FIRST if x == "float" else LAST,
        "residual": int(residual),
        "y_low": TYPES[y][0],
        "y_high": TYPES[y][1],
        "y_dtype": TYPES[y][2],
        "y_perm": FIRST if y == "float" else BACK,
        "x_packed": int(x.endswith("4")),
        "y_packed": int(y.endswith("4")),
    }
    feeds = {"x": image(rng, x, 24, (11, 9))}
    return model("FusedInvertedResidual", names, feeds, constants, TYPES[y][2], {**attributes, **more}), feeds


@pytest.mark.parametrize(
    ("x", "y", "kernel", "stride", "residual"),
    [
        ("s8", "s8", 3, 1, True),
        ("s8", "s8", 5, 2, False),
        ("u8", "float", 3, 1, True),
        ("float", "s8", 3, 1, True),
        ("float last", "float last", 3, 1, True),
        ("u4", "s4", 3, 1, True),
        ("s4", "u4", 5, 2, False),
        ("s4", "float", 3, 1, True),
        ("u8", "u4", 3, 1, True),
    ],
)
def test_kernel_equals_function(x: str, y: str, kernel: int, stride: int, residual: bool) -> None:
    proto, feeds = inverted_residual(x, y, kernel=kernel, stride=stride, residual=residual)
    expected = run(proto, feeds, library=False)
    got = run(proto, feeds, library=True, threads=2)
    assert got.dtype == expected.dtype
    assert len(np.unique(expected)) > (4 if y.endswith("4") else 20)
    np.testing.assert_array_equal(got, expected)


def test_hard_swish_differs_by_a_code_at_a_tie_only() -> None:
    proto, feeds = inverted_residual("s8", "s8", residual=True, inner=HARD_SWISH)
    difference = run(proto, feeds, library=True).astype(int) - run(proto, feeds, library=False).astype(int)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 1e-2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": 1}, "do not fit"),
        ({"group": 8}, "do not fit"),
        ({"expand_high": 0, "expand_dtype": 1}, "positive high"),
        ({"x_dtype": 2}, "x_dtype"),
        ({"depthwise_function": 9}, "depthwise_function"),
    ],
)
def test_malformed_attribute_is_refused(wrong: dict[str, object], message: str) -> None:
    proto, feeds = inverted_residual("s8", "s8", **wrong)
    with pytest.raises(Exception, match=message):
        run(proto, feeds, library=True)


def test_window_whose_sums_overflow_is_refused() -> None:
    proto, feeds = inverted_residual("s8", "s8", kernel=257)
    with pytest.raises(Exception, match="66049 products a sum overflow int32; at most 65536"):
        run(proto, feeds, library=True)


def test_sum_with_another_size_is_refused() -> None:
    proto, feeds = inverted_residual("s8", "s8", residual=True, strides=[2, 2])
    with pytest.raises(Exception, match="another size"):
        run(proto, feeds, library=True)
