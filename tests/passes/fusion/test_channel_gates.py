# SPDX-License-Identifier: Apache-2.0
"""Squeeze and excitation stays between codes where both its image and its product can be codes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.measuring.measure import model_macs
from edgefold.nodewise import prove_portable
from edgefold.ops import add_functions
from edgefold.passes._ranges import Range
from edgefold.passes.base import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 9, 10)).astype(np.float32)
HEAD = "g (float[2, 8, 9, 10] x) => "
ONE = "(float[n, c, h, w] y)"
IMAGE = "a = Conv(x, 8, 16) b = HardSwish(a)"
POOL = "p = GlobalAveragePool(b)"
EXCITE = "s = Conv(p, 16, 4, low=-127, high=127) t = Relu(s) u = Conv(t, 4, 16) v = HardSigmoid(u)"
SCALE = "m = Mul(b, v)"
NARROW = "y = Conv(m, 16, 8, low=-127, high=127)"
GATED = {"FusedConvBlock": 4, "CodeMean": 1, "CodeGate": 1}


class Ranges:
    """Calibration that has seen values from -8 to 17 everywhere, and counts its passes over the data."""

    def __init__(self) -> None:
        self.passes = 0

    def ranges(self, tensors: list[str]) -> dict[str, Range]:
        self.passes += 1
        seen = Range()
        seen.add(np.linspace(-8, 17, 1000, dtype=np.float32))
        return dict.fromkeys(tensors, seen)


def fuse(model: ir.Model, *, calibration: Ranges | None = None, **options: object) -> ir.Model:
    """The model with its regions joined, after the checker."""
    fused = model.clone()
    context = Context(probe=lambda one: probe(one, feeds={"x": X}, seed=0), calibration=calibration)  # type: ignore[arg-type]
    FuseBlocks(kinds=("conv-region",), **options).rewrite(fused, context)  # type: ignore[arg-type]
    add_functions(fused)
    onnx.checker.check_model(ir.to_proto(fused))
    return fused


def outputs(model: ir.Model) -> list[np.ndarray]:
    return [np.asarray(y) for y in make_session(model).run(None, {"x": X})]


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph))


AXES = {"axes": np.array([3, 2])}
SPELLINGS = {
    "as torchvision writes it": (f"{HEAD}{ONE} {{ {IMAGE} {POOL} {EXCITE} {SCALE} {NARROW} }}", {}),
    "the mean by axes, the factors first": (
        f"{HEAD}{ONE} {{ {IMAGE} p = ReduceMean <keepdims = 1> (b, axes) {EXCITE} m = Mul(v, b) {NARROW} }}",
        AXES,
    ),
}


def test_squeeze_and_excitation_stays_in_the_region() -> None:
    model = conv_graph(*SPELLINGS["as torchvision writes it"])
    calibration = Ranges()
    fused = fuse(model, calibration=calibration)
    assert operators(fused) == GATED
    assert calibration.passes == 1
    before, after = outputs(model)[0], outputs(fused)[0]
    # Steps of 17 / 127 in place of floats under the product.
    assert 0 < np.abs(before - after).max() < 0.05 * np.abs(before).max()
    agreement = prove_portable(fused, {"x": X})
    assert agreement.nodes == 6
    assert agreement.worst < 1e-6
    assert model_macs(fused, {}) == model_macs(model, {})


def test_however_it_is_spelled() -> None:
    model = conv_graph(*SPELLINGS["the mean by axes, the factors first"])
    assert operators(fuse(model, calibration=Ranges())) == GATED


def test_a_residual_behind_it() -> None:
    text = f"{HEAD}{ONE} {{ {IMAGE} {POOL} {EXCITE} {SCALE} n = Conv(m, 16, 16) o = Add(n, b) y = Conv(o, 16, 8) }}"
    fused = fuse(conv_graph(text), calibration=Ranges())
    assert operators(fused) == {"FusedConvBlock": 5, "CodeMean": 1, "CodeGate": 1}


NEAR_MISSES = {
    "the image is an output": (
        f"{HEAD}(float[n, c, h, w] y, float[n, d, h, w] b) {{ {IMAGE} {POOL} {EXCITE} {SCALE} {NARROW} }}"
    ),
    "something float reads the product": f"{HEAD}{ONE} {{ {IMAGE} {POOL} {EXCITE} {SCALE} y = Exp(m) }}",
    "a factor for every pixel": (f"{HEAD}{ONE} {{ {IMAGE} s = Conv(b, 16, 1) v = Sigmoid(s) {SCALE} {NARROW} }}"),
    "a factor for all channels": (
        f"{HEAD}{ONE} {{ {IMAGE} {POOL} s = Conv(p, 16, 1) v = Sigmoid(s) {SCALE} {NARROW} }}"
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_other_products_stay_float(name: str) -> None:
    model = conv_graph(NEAR_MISSES[name])
    fused = fuse(model, calibration=Ranges())
    assert operators(fused)["Mul"] == 1
    assert not {"CodeGate", "CodeMean"} & operators(fused).keys()


@pytest.mark.parametrize("options", [{"calibration": None}, {"calibration": Ranges(), "residuals": "float"}])
def test_without_a_format_or_where_nothing_may_change_it_stays_float(options: dict[str, object]) -> None:
    model = conv_graph(SPELLINGS["as torchvision writes it"][0])
    fused = fuse(model, **options)  # type: ignore[arg-type]
    assert operators(fused) == {"FusedConvBlock": 3, "ShiftConv": 1, "GlobalAveragePool": 1, "Mul": 1}
    np.testing.assert_array_equal(outputs(fused)[0], outputs(model)[0])


def test_a_mean_alone_keeps_its_floats() -> None:
    """Codes would round what nothing else asks to be rounded."""
    text = f"{HEAD}(float[n, c, one, also] p) {{ {IMAGE} d = Conv(b, 16, 8) e = Relu(d) p = GlobalAveragePool(e) }}"
    assert operators(fuse(conv_graph(text), calibration=Ranges())) == {"FusedConvBlock": 2, "GlobalAveragePool": 1}
