# SPDX-License-Identifier: Apache-2.0
"""Graphs at which pruners are known to fail: what can go is stated by hand, and what is cut must pass the oracle.

A case states its exact groups: the parameter axes that lose indices together, and how many units there are.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import assert_oracle, examine, some_units
from graphs import graph, weights

PICTURE = "g (float[N,3,8,8] x) => (float[N,K,H,W] y) {"
ENTER = "h = Conv<pads=[1,1,1,1]>(x, w1, b1)"
W1 = {"w1": (8, 3, 3, 3), "b1": (8,)}


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph between ``x`` and ``y``, the shapes of its weights, integer constants, and the groups expected."""

    name: str
    text: str
    shapes: dict[str, tuple[int, ...]]
    groups: dict[str, int | tuple[int, ...]]
    integers: dict[str, list[int] | int] = dataclasses.field(default_factory=dict)
    head: str = PICTURE

    def model(self) -> ir.Model:
        arrays = {name: weights(*shape, seed=place) for place, (name, shape) in enumerate(self.shapes.items())}
        arrays |= {name: np.abs(arrays[name]) for name in ("variance",) if name in arrays}
        arrays |= {name: np.array(value, np.int64) for name, value in self.integers.items()}
        return graph(self.head + self.text + "}", arrays)

    def expected(self) -> list[tuple[str, int]]:
        """As `Examined.places` lists them."""
        sizes = {place: size if isinstance(size, tuple) else (size,) for place, size in self.groups.items()}
        return sorted((place, one) for place, all_of in sizes.items() for one in all_of)


CASES = [
    Case(
        "concat of a tensor with itself",
        f"{ENTER} c = Concat<axis=1>(h, h) y = Conv(c, w2)",
        {**W1, "w2": (5, 16, 1, 1)},
        {"b1.0 w1.0 w2.1": 8},
    ),
    Case(
        "concat with the graph input",
        f"{ENTER} c = Concat<axis=1>(x, h) y = Conv(c, w2)",
        {**W1, "w2": (5, 11, 1, 1)},
        {"b1.0 w1.0 w2.1": 8},
    ),
    Case(
        "dense concat",
        f"{ENTER} a = Conv(h, w2) c = Concat<axis=1>(h, a) b = Conv(c, w3) d = Concat<axis=1>(c, b) y = Conv(d, w4)",
        {**W1, "w2": (4, 8, 1, 1), "w3": (6, 12, 1, 1), "w4": (5, 18, 1, 1)},
        {"b1.0 w1.0 w2.1 w3.1 w4.1": 8, "w2.0 w3.1 w4.1": 4, "w3.0 w4.1": 6},
    ),
    Case(
        "concat along the height",
        f"{ENTER} a = Conv(x, w2) b = Conv<pads=[1,1,1,1]>(a, w4) c = Concat<axis=2>(h, b) y = Conv(c, w3)",
        {**W1, "w2": (4, 3, 1, 1), "w4": (8, 4, 3, 3), "w3": (5, 8, 1, 1)},
        {"b1.0 w1.0 w3.1 w4.0": 8, "w2.0 w4.1": 4},
    ),
    Case(
        "residual around two convolutions",
        f"{ENTER} a = Conv(h, w2) r = Relu(a) b = Conv(r, w3) s = Add(h, b) y = Conv(s, w4)",
        {**W1, "w2": (6, 8, 1, 1), "w3": (8, 6, 1, 1), "w4": (5, 8, 1, 1)},
        {"b1.0 w1.0 w2.1 w3.0 w4.1": 8, "w2.0 w3.1": 6},
    ),
    Case(
        "residual with the input: its channels stay",
        "h = Conv(x, w1) b = Conv(h, w2) s = Add(x, b) y = Conv(s, w3)",
        {"w1": (8, 3, 1, 1), "w2": (3, 8, 1, 1), "w3": (5, 3, 1, 1)},
        {"w1.0 w2.1": 8},
    ),
    Case(
        "sum of a concat and a convolution",
        "a = Conv(x, w1) b = Conv(x, w2) c = Concat<axis=1>(a, b) d = Conv(x, w3) s = Add(c, d) y = Conv(s, w4)",
        {"w1": (4, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (10, 3, 1, 1), "w4": (5, 10, 1, 1)},
        {"w1.0 w3.0 w4.1": 4, "w2.0 w3.0 w4.1": 6},
    ),
    Case(
        "squeeze and excite",
        f"{ENTER} p = GlobalAveragePool(h) q = Conv(p, w2) r = Relu(q) s = Conv(r, w3) t = Sigmoid(s) m = Mul(h, t)"
        " y = Conv(m, w4)",
        {**W1, "w2": (4, 8, 1, 1), "w3": (8, 4, 1, 1), "w4": (5, 8, 1, 1)},
        {"b1.0 w1.0 w2.1 w3.0 w4.1": 8, "w2.0 w3.1": 4},
    ),
    Case(
        "shortcut without parameters: strided slice and padded channels",
        f"{ENTER} a = Slice(h, from, to, axes, steps) p = Pad(a, pads) b = Conv<strides=[2,2]>(h, w2) s = Add(p, b)"
        " y = Conv(s, w3)",
        {**W1, "w2": (16, 8, 1, 1), "w3": (5, 16, 1, 1)},
        {"b1.0 w1.0 w2.0 w2.1 w3.1": 8, "w2.0 w3.1": 8},
        {"from": [0, 0], "to": [8, 8], "axes": [2, 3], "steps": [2, 2], "pads": [0, 4, 0, 0, 0, 4, 0, 0]},
    ),
    Case(
        "depth to space, rows and columns first",
        f'{ENTER} a = Conv(h, w2) d = DepthToSpace<blocksize=2, mode="CRD">(a) y = Conv(d, w3)',
        {**W1, "w2": (24, 8, 1, 1), "w3": (5, 6, 1, 1)},
        {"b1.0 w1.0 w2.1": 8, "w2.0 w3.1": 6},
    ),
    Case(
        "depth to space, depth first",
        f'{ENTER} a = Conv(h, w2) d = DepthToSpace<blocksize=2, mode="DCR">(a) y = Conv(d, w3)',
        {**W1, "w2": (24, 8, 1, 1), "w3": (5, 6, 1, 1)},
        {"b1.0 w1.0 w2.1": 8, "w2.0 w3.1": 6},
    ),
    Case(
        "pixel shuffle by reshapes",
        f"{ENTER} a = Reshape(h, s1) t = Transpose<perm=[0,1,4,2,5,3]>(a) p = Reshape(t, s2) y = Conv(p, w2)",
        {**W1, "w2": (5, 2, 1, 1)},
        {"b1.0 w1.0 w2.1": 2},
        {"s1": [-1, 2, 2, 2, 8, 8], "s2": [-1, 2, 16, 16]},
    ),
    Case(
        "space to depth",
        f"{ENTER} d = SpaceToDepth<blocksize=2>(h) y = Conv(d, w2)",
        {**W1, "w2": (5, 32, 1, 1)},
        {"b1.0 w1.0 w2.1": 8},
    ),
    Case(
        "stem of four strided slices",
        "a = Slice(x, zz, top, hw, two) b = Slice(x, oz, top, hw, two) c = Concat<axis=1>(a, b) h = Conv(c, w1)"
        " y = Conv(h, w2)",
        {"w1": (8, 6, 1, 1), "w2": (5, 8, 1, 1)},
        {"w1.0 w2.1": 8},
        {"zz": [0, 0], "oz": [1, 0], "top": [8, 8], "hw": [2, 3], "two": [2, 2]},
    ),
    Case(
        "split, add, concat",
        f"{ENTER} a, b = Split<axis=1>(h, halves) c = Conv(a, w2) d = Add(c, b) e = Conv(d, w3)"
        " f = Concat<axis=1>(c, e) y = Conv(f, w4)",
        {**W1, "w2": (4, 4, 1, 1), "w3": (6, 4, 1, 1), "w4": (5, 10, 1, 1)},
        {"b1.0 w1.0 w2.1": 4, "b1.0 w1.0 w2.0 w3.1 w4.1": 4, "w3.0 w4.1": 6},
        {"halves": [4, 4]},
    ),
    Case(
        "gated linear unit",
        f"{ENTER} a, b = Split<axis=1>(h, halves) s = Sigmoid(b) m = Mul(a, s) y = Conv(m, w2)",
        {**W1, "w2": (5, 4, 1, 1)},
        {"b1.0 w1.0 w2.1": 4},
        {"halves": [4, 4]},
    ),
    Case(
        "grouped convolution: whole groups, and the same offset in every group",
        f"{ENTER} a = Conv<group=2>(h, w2) y = Conv(a, w3)",
        {**W1, "w2": (6, 4, 1, 1), "w3": (5, 6, 1, 1)},
        {"b1.0 w1.0 w2.0 w3.1": 2, "b1.0 w1.0 w2.1": 4, "w2.0 w3.1": 3},
    ),
    Case(
        "channel shuffle between depthwise convolutions",
        f"{ENTER} r = Reshape(h, s1) t = Transpose<perm=[0,2,1,3,4]>(r) u = Reshape(t, s2)"
        " d = Conv<group=8, pads=[1,1,1,1]>(u, w2) y = Conv(d, w3)",
        {**W1, "w2": (8, 1, 3, 3), "w3": (5, 8, 1, 1)},
        {"b1.0 w1.0 w2.0 w3.1": (2, 4)},
        {"s1": [-1, 2, 4, 8, 8], "s2": [-1, 8, 8, 8]},
    ),
    Case(
        "depthwise convolution with two outputs a channel",
        f"{ENTER} d = Conv<group=8>(h, w2) y = Conv(d, w3)",
        {**W1, "w2": (16, 1, 1, 1), "w3": (5, 16, 1, 1)},
        {"b1.0 w1.0 w2.0 w3.1": 8, "w2.0 w3.1": 2},
    ),
    Case(
        "transposed convolution after a reshaped linear layer",
        "h = Gemm(x, w1) r = Reshape(h, s1) t = ConvTranspose<strides=[2,2]>(r, w2, b2) y = Conv(t, w3)",
        {"w1": (7, 32), "w2": (8, 6, 2, 2), "b2": (6,), "w3": (5, 6, 1, 1)},
        {"w1.1 w2.0": 8, "b2.0 w2.1 w3.1": 6},
        {"s1": [-1, 8, 2, 2]},
        "g (float[N,7] x) => (float[N,K,H,W] y) {",
    ),
    Case(
        "flatten with a picture behind every channel",
        f"{ENTER} p = AveragePool<kernel_shape=[4,4], strides=[4,4]>(h) f = Flatten(p) y = Gemm(f, w2)",
        {**W1, "w2": (32, 5)},
        {"b1.0 w1.0 w2.0": 8},
        {},
        "g (float[N,3,8,8] x) => (float[N,5] y) {",
    ),
    Case(
        "scale of shape [C, 1, 1], and a slope",
        f"{ENTER} m = Mul(h, gamma) p = PRelu(m, slope) y = Conv(p, w2)",
        {**W1, "gamma": (8, 1, 1), "slope": (8, 1, 1), "w2": (5, 8, 1, 1)},
        {"b1.0 gamma.0 slope.0 w1.0 w2.1": 8},
    ),
    Case(
        "batch normalization right after a concat",
        "a = Conv(x, w1) b = Conv(x, w2) c = Concat<axis=1>(a, b)"
        " n = BatchNormalization(c, s, t, m, variance) r = Relu(n) y = Conv(r, w3)",
        {
            "w1": (4, 3, 1, 1),
            "w2": (6, 3, 1, 1),
            "w3": (5, 10, 1, 1),
            "s": (10,),
            "t": (10,),
            "m": (10,),
            "variance": (10,),
        },
        {"m.0 s.0 t.0 variance.0 w1.0 w3.1": 4, "m.0 s.0 t.0 variance.0 w2.0 w3.1": 6},
    ),
    Case(
        "where between two branches",
        f"{ENTER} a = Conv<pads=[1,1,1,1]>(x, w2) z = Greater(h, a) s = Where(z, h, a) y = Conv(s, w3)",
        {**W1, "w2": (8, 3, 3, 3), "w3": (5, 8, 1, 1)},
        {"b1.0 w1.0 w2.0 w3.1": 8},
    ),
    Case(
        "every second channel",
        f"{ENTER} a = Slice(h, zero, eight, one, two) y = Conv(a, w2)",
        {**W1, "w2": (5, 4, 1, 1)},
        {"b1.0 w1.0 w2.1": 4, "b1.0 w1.0": 4},
        {"zero": [0], "eight": [8], "one": [1], "two": [2]},
    ),
    Case(
        "the best channels are chosen by the data",
        f"{ENTER} p = GlobalAveragePool(h) v, i = TopK<axis=1>(p, two) a = Conv(h, w2) b = Conv(a, w3) y = Mul(b, v)",
        {**W1, "w2": (6, 8, 1, 1), "w3": (2, 6, 1, 1)},
        {"w2.0 w3.1": 6},
        {"two": [2]},
    ),
    Case(
        "an intermediate result is an output",
        f"{ENTER} a = Conv(h, w2) y = Conv(a, w3)",
        {**W1, "w2": (6, 8, 1, 1), "w3": (5, 6, 1, 1)},
        {"w2.0 w3.1": 6},
        {},
        "g (float[N,3,8,8] x) => (float[N,K,H,W] y, float[N,8,8,8] h) {",
    ),
    Case(
        "one channel between two layers",
        "h = Conv(x, w1) y = Conv(h, w2)",
        {"w1": (1, 3, 1, 1), "w2": (5, 1, 1, 1)},
        {},
    ),
    Case(
        "local response normalization mixes neighbours",
        f"{ENTER} n = LRN<size=3>(h) a = Conv(n, w2) y = Conv(a, w3)",
        {**W1, "w2": (6, 8, 1, 1), "w3": (5, 6, 1, 1)},
        {"w2.0 w3.1": 6},
    ),
    Case(
        "three-dimensional convolution",
        "h = Conv<pads=[1,1,1,1,1,1]>(x, w1) y = Conv(h, w2)",
        {"w1": (8, 2, 3, 3, 3), "w2": (5, 8, 1, 1, 1)},
        {"w1.0 w2.1": 8},
        {},
        "g (float[N,2,4,6,6] x) => (float[N,K,D,H,W] y) {",
    ),
    Case(
        "sum over the channels",
        "h = Gemm(x, w1) y = ReduceSum<keepdims=0>(h, last)",
        {"w1": (7, 8)},
        {"w1.1": 8},
        {"last": [1]},
        "g (float[N,7] x) => (float[N] y) {",
    ),
    Case(
        "mean over everything",
        f"{ENTER} y = ReduceMean<keepdims=0>(h, all)",
        {**W1},
        {"b1.0 w1.0": 8},
        {"all": [0, 1, 2, 3]},
        "g (float[N,3,8,8] x) => (float y) {",
    ),
    Case(
        "an operator that nobody knows",
        "h = Conv(x, w1) u = com.microsoft.QuickGelu(h) a = Conv(u, w2) y = Conv(a, w3)",
        {"w1": (8, 3, 1, 1), "w2": (6, 8, 1, 1), "w3": (5, 6, 1, 1)},
        {"w2.0 w3.1": 6},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups_are_those_that_a_person_would_state(case: Case) -> None:
    assert examine(case.model()).places() == case.expected()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_cut_computes_what_the_masked_model_computes(case: Case) -> None:
    examined = examine(case.model())
    assert_oracle(examined, some_units(examined.dependencies, 0.5))
