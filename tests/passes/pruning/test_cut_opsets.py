# SPDX-License-Identifier: Apache-2.0
"""Operators whose sizes moved from attributes to inputs over the opsets, cut in every form that is still run."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from cut_oracle import assert_oracle, examine, some_units
from graphs import weights

OPSETS = (11, 13, 18, 24)
INTEGERS = {"halves": [4, 4], "one": [1], "three": [3], "last": [2**63 - 1], "two": [2], "space": [2, 3]}
PADDING = [0, 2, 0, 0, 0, 1, 0, 0]


def model(opset: int, text: str, dtype: type = np.float32, **shapes: tuple[int, ...]) -> ir.Model:
    """A graph from x [N, 3, 8, 8] to y, with weights of the given shapes and the constants that it names."""
    arrays = {name: weights(*shape, seed=place).astype(dtype) for place, (name, shape) in enumerate(shapes.items())}
    arrays |= {name: np.array(value, np.int64) for name, value in INTEGERS.items() if f" {name}" in text}
    arrays |= {"pads": np.array(PADDING, np.int64)} if "pads)" in text else {}
    kind = "float16" if dtype == np.float16 else "float"
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
    graph = f"{header}g ({kind}[N,3,8,8] x) => ({kind}[N,K,H,W] y) {{ h = Conv(x, w1, b1) {text} }}"
    return ir.from_onnx_text(graph, initializers=[ir.tensor(array, name=name) for name, array in arrays.items()])


def split(opset: int) -> str:
    return "Split<axis=1, split=[4,4]>(h)" if opset < 13 else "Split<axis=1>(h, halves)"


def equal_split(opset: int) -> str:
    return "Split<axis=1>(h)" if opset < 18 else "Split<axis=1, num_outputs=2>(h)"


def mean(opset: int) -> str:
    return "ReduceMean<axes=[1]>(m)" if opset < 18 else "ReduceMean(m, one)"


def unsqueeze_squeeze(opset: int) -> str:
    if opset < 13:
        return "u = Unsqueeze<axes=[2]>(h) q = Squeeze<axes=[2]>(u)"
    return "u = Unsqueeze(h, two) q = Squeeze(u, two)"


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", [split, equal_split])
def test_split_of_unequal_parts(opset: int, form) -> None:
    text = f"a, b = {form(opset)} c = Conv(a, w2) d = Conv(b, w3) y = Add(c, d)"
    examined = examine(model(opset, text, w1=(8, 3, 1, 1), b1=(8,), w2=(5, 4, 1, 1), w3=(5, 4, 1, 1)))
    assert sorted(group.size for group in examined.dependencies.groups) == [4, 4]
    first, second = (group.name for group in examined.dependencies.groups)
    cut = assert_oracle(examined, {first: np.array([0, 2, 3]), second: np.array([1])})
    node = next(node for node in cut.graph if node.op_type == "Split")
    sizes = node.attributes["split"].as_ints() if opset < 13 else node.inputs[1].const_value.numpy().tolist()
    assert list(sizes) == [1, 3]
    assert "num_outputs" not in node.attributes
    assert_oracle(examined, {first: np.array([0, 2]), second: np.array([1, 2, 3])})  # [2, 1] has no form before 18


@pytest.mark.parametrize("opset", OPSETS)
def test_split_that_stays_equal_keeps_its_form(opset: int) -> None:
    text = f"a, b = {equal_split(opset)} s = Sigmoid(b) m = Mul(a, s) y = Conv(m, w2)"
    examined = examine(model(opset, text, w1=(8, 3, 1, 1), b1=(8,), w2=(5, 4, 1, 1)))
    cut = assert_oracle(examined, some_units(examined.dependencies, 0.5))
    node = next(node for node in cut.graph if node.op_type == "Split")
    assert len(node.inputs) == 1
    assert "split" not in node.attributes


@pytest.mark.parametrize("opset", OPSETS)
def test_mean_over_channels_divides_by_the_old_count(opset: int) -> None:
    text = f"m = Relu(h) y = {mean(opset)}"
    examined = examine(model(opset, text, w1=(8, 3, 1, 1), b1=(8,)))
    cut = assert_oracle(examined, some_units(examined.dependencies, 0.5))
    assert [node.op_type for node in cut.graph] == ["Conv", "Relu", "ReduceMean", "Mul"]


@pytest.mark.parametrize("opset", OPSETS)
def test_padding_of_channels(opset: int) -> None:
    examined = examine(model(opset, "p = Pad(h, pads) y = Conv(p, w2)", w1=(8, 3, 1, 1), b1=(8,), w2=(5, 11, 1, 1)))
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


@pytest.mark.parametrize("opset", OPSETS)
def test_slice_of_channels(opset: int) -> None:
    text = "a = Slice(h, three, last, one) y = Conv(a, w2)"
    examined = examine(model(opset, text, w1=(8, 3, 1, 1), b1=(8,), w2=(5, 5, 1, 1)))
    cut = assert_oracle(examined, some_units(examined.dependencies, 0.5))
    assert [node.op_type for node in cut.graph] == ["Conv", "Slice", "Conv"]


@pytest.mark.parametrize("opset", OPSETS)
def test_axes_of_squeeze_are_no_channels(opset: int) -> None:
    text = f"{unsqueeze_squeeze(opset)} y = Conv(q, w2)"
    examined = examine(model(opset, text, w1=(8, 3, 1, 1), b1=(8,), w2=(5, 8, 1, 1)))
    assert_oracle(examined, some_units(examined.dependencies, 0.5))


@pytest.mark.parametrize("opset", [13, 21])
def test_half_precision_stays_half_precision(opset: int) -> None:
    text = f"m = Relu(h) n = {mean(opset)} o = Add(m, n) y = Conv(o, w2)"
    examined = examine(model(opset, text, np.float16, w1=(8, 3, 1, 1), b1=(8,), w2=(5, 8, 1, 1)))
    cut = assert_oracle(examined, some_units(examined.dependencies, 0.5), tolerance=5e-3)
    stored = {value.dtype for value in cut.graph.initializers.values() if value.dtype.is_floating_point()}
    assert stored == {ir.DataType.FLOAT16}


@pytest.mark.parametrize("opset", [8, 9])
def test_slices_and_paddings_whose_numbers_are_attributes(opset: int) -> None:
    text = (
        "s = Slice<axes=[1], starts=[2], ends=[9223372036854775807]>(h) p = Pad<pads=[0,1,0,0,0,2,0,0]>(s)"
        " t = Slice<starts=[0,0], ends=[9,-3]>(h) a = Conv(p, w2) b = Conv(t, w3) y = Add(a, b)"
    )
    shapes = {"w1": (8, 3, 1, 1), "b1": (8,), "w2": (5, 9, 1, 1), "w3": (5, 5, 1, 1)}
    examined = examine(model(opset, text, **shapes))
    cut = assert_oracle(examined, some_units(examined.dependencies, 0.5))
    assert [node.op_type for node in cut.graph] == [node.op_type for node in examined.model.graph]
