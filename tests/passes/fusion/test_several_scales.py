# SPDX-License-Identifier: Apache-2.0
"""Where readers want other codes than a value is written in, a table makes them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from packed_convs import conv_graph

from edgefold.passes._ranges import Range
from edgefold.passes.base import Context
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.code_lookups import recoding
from edgefold.passes.fusion.conv_chains import CodeFormat
from edgefold.probing import probe
from edgefold.session import make_session

X = np.random.default_rng(5).uniform(-6, 6, (2, 8, 8, 10)).astype(np.float32)
HEAD = "g (float[2, 8, 8, 10] x) => (float[n, c, h, w] y) "
# A skip connection is read by the next level, and beside larger numbers by a concatenation.
LEVELS = (
    "a = Conv(x, 8, 16, kernel=3) s = Relu(a) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s) "
    "b = Conv(p, 16, 16, kernel=3, scale={fine}) r = Relu(b) "
    'u = Resize <mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"> '
    "(r, , scales) g = Concat <axis = 1> (s, u) y = Conv(g, 32, 8, scale={coarse})"
)
SCALES = {"scales": np.array([1, 1, 2, 2], np.float32)}


class Ranges:
    """Calibration by what the model gave for x, as the fused codes are to hold it."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def ranges(self, tensors: list[str]) -> dict[str, Range]:
        shown = self._model.clone()
        for name in tensors:
            shown.graph.outputs.append(next(one for one in _values(shown) if one.name == name))
        found = make_session(shown).run(tensors, {"x": X})
        ranges = {name: Range() for name in tensors}
        for name, array in zip(tensors, found, strict=True):
            ranges[name].add(np.asarray(array))
        return ranges


def _values(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def fuse(model: ir.Model, **options: object) -> ir.Model:
    fused = model.clone()
    context = Context(probe=lambda one: probe(one, feeds={"x": X}, seed=0), calibration=Ranges(model))  # type: ignore[arg-type]
    FuseBlocks(kinds=("conv-region",), **options).rewrite(fused, context)  # type: ignore[arg-type]
    onnx.checker.check_model(ir.to_proto(fused))
    return fused


def floats(model: ir.Model) -> set[str | None]:
    """What is float between nodes."""
    return {one.name for one in _values(model) if one.dtype == ir.DataType.FLOAT and not one.is_graph_output()}


def run(model: ir.Model) -> np.ndarray:
    return np.asarray(make_session(model).run(None, {"x": X})[0])


@pytest.mark.parametrize(("fine", "coarse"), [(0.045, 0.06), (0.02, 0.06), (0.06, 0.02)])
def test_a_skip_connection_is_codes_for_both_of_its_readers(fine: float, coarse: float) -> None:
    model = conv_graph(HEAD + f"{{ {LEVELS.format(fine=fine, coarse=coarse)} }}", SCALES)
    fused = fuse(model)
    found = Counter(node.op_type for node in fused.graph)
    assert found["FusedConvBlock"] == 3
    assert 1 <= found["CodeLookup"] <= 2
    assert floats(fused) == set()
    wanted, got = run(model), run(fused)
    assert not np.array_equal(wanted, got)
    assert np.abs(wanted - got).max() < 0.04 * np.abs(wanted).max()


def test_one_scale_needs_no_table() -> None:
    model = conv_graph(HEAD + f"{{ {LEVELS.format(fine=0.05, coarse=0.05)} }}", SCALES)
    fused = fuse(model)
    assert "CodeLookup" not in Counter(node.op_type for node in fused.graph)
    np.testing.assert_array_equal(run(model), run(fused))


def test_where_nothing_may_be_rounded_twice_the_value_stays_float() -> None:
    model = conv_graph(HEAD + f"{{ {LEVELS.format(fine=0.045, coarse=0.06)} }}", SCALES)
    fused = fuse(model, residuals="float")
    assert "CodeLookup" not in Counter(node.op_type for node in fused.graph)
    np.testing.assert_array_equal(run(model), run(fused))


def test_codes_of_both_signs() -> None:
    text = (
        "{ s = Conv(x, 8, 16) p = MaxPool <kernel_shape = [1, 1]> (s) b = Conv(p, 16, 16, scale=0.05, low=-127, "
        "high=127) g = Concat <axis = 1> (s, b) y = Conv(g, 32, 8, scale=0.07, low=-127, high=127) }"
    )
    model = conv_graph(HEAD + text)
    fused = fuse(model)
    assert floats(fused) == set()
    wanted, got = run(model), run(fused)
    assert np.abs(wanted - got).max() < 0.04 * np.abs(wanted).max()


def test_the_table_of_two_formats() -> None:
    table = recoding(CodeFormat(0.5, -127, 127), CodeFormat(0.25, 0, 255))
    assert table.dtype == np.uint8
    assert [table[byte] for byte in (0, 3, 127, 255, 128)] == [0, 6, 254, 0, 0]
    table = recoding(CodeFormat(0.25, 0, 255), CodeFormat(0.5, -8, 7))
    assert table.dtype == np.int8
    assert [table[byte] for byte in (0, 1, 2, 3, 13, 200)] == [0, 0, 1, 2, 6, 7]
