# SPDX-License-Identifier: Apache-2.0
"""Pixels of codes are repeated and rearranged channel-last, and only where that is what the node does."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.ops import add_functions
from edgefold.passes.base import Context
from edgefold.passes.fusion.conv_region import fuse_conv_regions
from edgefold.passes.fusion.cost import TYPICAL
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 7, 6)).astype(np.float32)
HEAD = "g (float[b, 8, h, w] x) => (float[b, m, p, q] y) "
AROUND = "{{ a = Conv(x, 8, 16) b = Relu(a) c = {node} y = Conv(c, {channels}, 8, scale=0.03) }}"
SCALES = {
    "twice": [1, 1, 2, 2],
    "many": [1, 1, 5, 7],
    "rows": [1, 1, 3, 1],
    "half": [1, 1, 1.5, 2],
    "deep": [1, 2, 2, 2],
}
CONSTANTS = {name: np.array(scales, np.float32) for name, scales in SCALES.items()}
CONSTANTS["square"] = np.array([3, 2], np.float32)
CONSTANTS["sizes"] = np.array([2, 16, 14, 12], np.int64)


def fused(node: str, channels: int) -> tuple[ir.Model, list[np.ndarray], list[np.ndarray]]:
    """The model with its regions joined, and outputs before and after."""
    text = HEAD + AROUND.format(node=node, channels=channels)
    return fused_as_well(conv_graph(text, {name: array for name, array in CONSTANTS.items() if f", {name}" in node}))


def fused_as_well(model: ir.Model) -> tuple[ir.Model, list[np.ndarray], list[np.ndarray]]:
    """The model with its regions joined, and outputs before and after."""
    after = model.clone()
    fuse_conv_regions(after, Context(probe=functools.partial(probe, feeds={"x": X}, seed=0)), TYPICAL)
    add_functions(after)
    onnx.checker.check_model(ir.to_proto(after))
    runs = [make_session(one).run(None, {"x": X}) for one in (model, after)]
    return after, *([np.asarray(y) for y in run] for run in runs)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


ASYMMETRIC = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
REPEATED = {
    "asymmetric": f"Resize<{ASYMMETRIC}>(b, , twice)",
    "odd factors": f"Resize<{ASYMMETRIC}>(b, , many)",
    "half_pixel, as is the default": "Resize(b, , many)",
    "half_pixel up": 'Resize<nearest_mode = "round_prefer_ceil">(b, , many)',
    "pytorch_half_pixel": 'Resize<coordinate_transformation_mode = "pytorch_half_pixel">(b, , twice)',
    "rows alone": f"Resize<{ASYMMETRIC}>(b, , rows)",
    "named axes": f"Resize<{ASYMMETRIC}, axes = [3, -2]>(b, , square)",
}


@pytest.mark.parametrize("name", REPEATED)
def test_pixels_are_repeated_as_runs_of_channels(name: str) -> None:
    after, wanted, got = fused(REPEATED[name], 16)
    assert operators(after) == {
        "FusedConvBlock": 2, "Unsqueeze": 1, "Expand": 1, "Shape": 1, "Mul": 1, "Reshape": 1,
    }  # fmt: skip
    np.testing.assert_array_equal(got[0], wanted[0])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_become_pixels_without_leaving_the_region(mode: str) -> None:
    after, wanted, got = fused(f'DepthToSpace<blocksize = 2, mode = "{mode}">(b)', 4)
    assert operators(after) == {
        "FusedConvBlock": 2, "Transpose": 1, "Shape": 1, "Mul": 1, "Div": 1, "Reshape": 2,
    }  # fmt: skip
    np.testing.assert_array_equal(got[0], wanted[0])


NEAR_MISSES = {
    "factors that are not whole": (f"Resize<{ASYMMETRIC}>(b, , half)", 16),
    "corners aligned": ('Resize<coordinate_transformation_mode = "align_corners">(b, , twice)', 16),
    "half_pixel rounded down": ('Resize<nearest_mode = "floor">(b, , twice)', 16),
    "sizes, which fit one image": (f"Resize<{ASYMMETRIC}>(b, , , sizes)", 16),
    "channels too": (f"Resize<{ASYMMETRIC}>(b, , deep)", 32),
}


def test_floats_that_channels_are_spread_of_lie_channel_last() -> None:
    text = "{{ a = Conv(x, 8, 16) b = Relu(a) c = Conv(b, 16, {}) d = Sigmoid(c) y = DepthToSpace<blocksize = 2>(d) }}"
    for channels in (4, 12):
        model = conv_graph(HEAD + text.format(channels))
        after, wanted, got = fused_as_well(model)
        assert operators(after) == {
            "FusedConvBlock": 2, "Transpose": 2, "Shape": 1, "Mul": 1, "Div": 1, "Reshape": 2,
        }  # fmt: skip
        # The kernels' own sigmoid is within 2**-21 of ONNX Runtime's.
        np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_stays_a_resize_of_codes(name: str) -> None:
    after, wanted, got = fused(*NEAR_MISSES[name])
    assert operators(after) == {"FusedConvBlock": 2, "Resize": 1, "Transpose": 2}
    np.testing.assert_array_equal(got[0], wanted[0])


def test_linear_resize_needs_floats() -> None:
    after, wanted, got = fused('Resize<mode = "linear">(b, , twice)', 16)
    assert not any(node.attributes.get_int("x_codes", 0) for node in after.graph)
    np.testing.assert_array_equal(got[0], wanted[0])
