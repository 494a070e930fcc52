# SPDX-License-Identifier: Apache-2.0
"""Sizes that are known before a model runs are no nodes of it."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.passes import Context
from edgefold.passes._sizes import target_of
from edgefold.passes.simplify import Simplify

NUMBERS = {"zero": np.array(0), "one": np.array(1), "vm": np.array([-1])} | {
    f"v{number}": np.array([number]) for number in (0, 1, 2, 4, 8)
}
HEADS = (
    "s = Shape(x) b = Gather<axis = 0>(s, zero) t = Gather<axis = 0>(s, one) "
    "ub = Unsqueeze(b, v0) ut = Unsqueeze(t, v0) h = Concat<axis = 0>(ub, ut, v2, v4) r = Reshape(x, h) "
    "p = Transpose<perm = [0, 2, 1, 3]>(r) q = Transpose<perm = [0, 2, 1, 3]>(p) "
    "s2 = Shape(q) b2 = Gather(s2, zero) ub2 = Unsqueeze(b2, v0) k = Concat<axis = 0>(ub2, vm, v8) y = Reshape(q, k)"
)


def simplified(text: str, *shapes: tuple[int, ...]) -> tuple[ir.Model, Counter[str]]:
    """The simplified model, which gives what the model gives for inputs of all shapes, and its operators."""
    before = graph(text, {name: array for name, array in NUMBERS.items() if re.search(rf"\b{name}\b", text)})
    after = before.clone()
    Simplify().rewrite(after, Context())
    for shape in shapes:
        x = weights(*shape)
        [wanted], [got] = (run(model, {"x": x}) for model in (before, after))
        np.testing.assert_array_equal(got, wanted)
    return after, Counter(node.op_type for node in after.graph)


def test_heads_of_a_model_whose_batch_and_length_are_dynamic() -> None:
    text = f"g (float[B, T, 8] x) => (float[B, T, 8] y) {{ {HEADS} }}"
    model, found = simplified(text, (2, 3, 8), (1, 5, 8))
    assert found == {"Reshape": 2, "Transpose": 2}
    first = next(node for node in model.graph if node.op_type == "Reshape")
    assert first.inputs[1] is not None
    assert first.inputs[1].const_value is not None
    assert first.inputs[1].const_value.numpy().tolist() == [0, 0, 2, 4]


def test_halves_of_channels_that_are_known() -> None:
    text = (
        "g (float[B, 8, T] x) => (float[B, c, T] y) { s = Shape(x) n = Slice(s, v1, v2) h = Div(n, v2) "
        "a = Slice(x, v0, h, v1) b = Slice(x, h, n, v1) y = Mul(a, b) }"
    )
    _, found = simplified(text, (2, 8, 3), (1, 8, 4))
    assert found == {"Slice": 2, "Mul": 1}


def test_a_size_that_is_not_known_is_still_read() -> None:
    text = (
        "g (float[B, T, 8] x) => (float[B, R, U] y) { s = Shape(x) t = Gather(s, one) ut = Unsqueeze(t, v0) "
        "b = Gather(s, zero) ub = Unsqueeze(b, v0) d = Mul(ut, v2) h = Concat<axis = 0>(ub, d, v4) y = Reshape(x, h) }"
    )
    _, found = simplified(text, (2, 3, 8), (1, 5, 8))
    assert found == {"Shape": 2, "Mul": 1, "Concat": 1, "Reshape": 1}


def test_a_reshape_that_lets_zeros_stand_is_left_alone() -> None:
    text = (
        "g (float[B, T, 8] x) => (float[B, T, p, q] y) { s = Shape(x) b = Slice(s, v0, v2) "
        "h = Concat<axis = 0>(b, v2, v4) y = Reshape<allowzero = 1>(x, h) }"
    )
    _, found = simplified(text, (2, 3, 8), (0, 3, 8))
    assert found["Concat"] == 1


N, T = ir.SymbolicDim("N"), ir.SymbolicDim("T")
NAMELESS = ir.SymbolicDim(None)


@pytest.mark.parametrize(
    ("shape", "wanted", "target"),
    [
        ([N, 8], [N, 2, 4], [0, 2, 4]),
        ([N, T, 8], [N, T, 2, 4], [0, 0, 2, 4]),
        ([N, 8], [T, 2], [-1, 2]),
        ([NAMELESS, 8], [NAMELESS, 2, 4], [-1, 2, 4]),
        ([N, 8], [N, -1, 2], [0, -1, 2]),
        ([N, T, 8], [T, N, 8], None),  # each stands where the other was
        ([N, T, 8], [N, T, -1, NAMELESS], None),
        ([N, T, 8], [N, NAMELESS, 4], None),  # N may be 0
        ([4, T], [T, 0], None),
    ],
)
def test_targets(shape: list[int | ir.SymbolicDim], wanted: list[int | ir.SymbolicDim], target: list[int]) -> None:
    assert target_of(ir.Shape(shape), ir.Shape(wanted)) == target


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_target_gives_the_sizes_that_were_wanted(data: st.DataObject) -> None:
    """Of any sizes of the symbols for which the Reshape is one at all."""
    sizes = {"N": data.draw(st.integers(1, 4)), "T": data.draw(st.integers(1, 4))}
    numbers = st.one_of(st.integers(1, 4), st.sampled_from([N, T]))
    shape = data.draw(st.lists(numbers, min_size=1, max_size=4))
    wanted = data.draw(st.permutations([*shape, 1]))
    target = target_of(ir.Shape(shape), ir.Shape(wanted))
    if target is not None:
        real, expected = (
            [one if isinstance(one, int) else sizes[str(one.value)] for one in of] for of in (shape, wanted)
        )
        copied = [real[axis] if size == 0 else size for axis, size in enumerate(target)]
        assert list(np.zeros(real).reshape(copied).shape) == expected
