# SPDX-License-Identifier: Apache-2.0
"""Subpixel-conv: transposed convolutions without overlap become products, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Array, graph, nodes, run, weights

from edgefold.passes import Context, Notes
from edgefold.passes.subpixel_conv import SubpixelConv

X = weights(2, 3, 4, 5, seed=9)
HEAD = "g (float[2, 3, 4, 5] x) => "
TWO = "kernel_shape = [2, 2], strides = [2, 2]"


def rewritten(
    text: str, tensors: dict[str, Array], exclude: tuple[str, ...] = ()
) -> tuple[list[str], Notes, list[Array], list[Array]]:
    before = graph(HEAD + text, tensors)
    after = before.clone()
    notes = SubpixelConv().rewrite(after, Context(exclude=exclude))
    assert [value.name for value in after.graph.outputs] == [value.name for value in before.graph.outputs]
    return nodes(after), notes, run(before, {"x": X}), run(after, {"x": X})


def assert_reassociated(wanted: list[Array], got: list[Array]) -> None:
    # Three products and a bias of magnitudes below 4 and 3: 2 * 3 * 2**-24 * (3 * 12 + 3).
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1.4e-5)


def test_activation_is_computed_before_pixels_are_rearranged() -> None:
    text = f"(float[2, 4, 8, 10] y) {{ [up] a = ConvTranspose<{TWO}>(x, w, b)\n y = Relu(a) }}"
    found, notes, wanted, got = rewritten(text, {"w": weights(3, 4, 2, 2), "b": weights(4)})
    assert found == [
        "a.deep = Conv(x, w.deep, up.deep_bias)",
        "y.deep = Relu(a.deep)",
        "y = DepthToSpace(y.deep)",
    ]
    assert [(edit.node, edit.what) for edit in notes.edits] == [("up", "1x1 Conv and DepthToSpace")]
    assert_reassociated(wanted, got)


def test_what_else_reads_it_reads_the_rearranged_one() -> None:
    text = f"(float[2, 4, 12, 15] y, float[2, 4, 12, 15] z) {{ y = ConvTranspose<{TWO.replace('2', '3')}>(x, w)\n"
    text += " z = Add(y, y) }"
    found, _, wanted, got = rewritten(text, {"w": weights(3, 4, 3, 3)})
    assert found == ["y.deep = Conv(x, w.deep)", "y = DepthToSpace(y.deep)", "z = Add(y, y)"]
    assert_reassociated(wanted, got)


def test_shared_weights_stay_for_their_other_reader() -> None:
    text = f"(float[2, 4, 8, 10] y, float[2, 4, 9, 11] z) {{ y = ConvTranspose<{TWO}>(x, w)\n"
    text += " z = ConvTranspose<strides = [2, 2], pads = [0, 0, 0, 0], output_padding = [1, 1]>(x, w) }"
    found, notes, wanted, got = rewritten(text, {"w": weights(3, 4, 2, 2)})
    assert found[-1] == "z = ConvTranspose(x, w)"
    assert [str(skip) for skip in notes.skips] == ["z: unsupported attribute (the output is cropped or padded)"]
    assert_reassociated(wanted, got)


NEAR_MISSES = {
    "overlapping windows": ("kernel_shape = [3, 3], strides = [2, 2]", (3, 4, 3, 3), "windows overlap or leave gaps"),
    "gaps": ("kernel_shape = [2, 2], strides = [3, 3]", (3, 4, 2, 2), "windows overlap or leave gaps"),
    "a plain product": ("kernel_shape = [1, 1]", (3, 4, 1, 1), "no square blocks of pixels"),
    "blocks of 2 x 3": ("kernel_shape = [2, 3], strides = [2, 3]", (3, 4, 2, 3), "no square blocks of pixels"),
    "a cropped output": (f"{TWO}, pads = [0, 0, 1, 1]", (3, 4, 2, 2), "the output is cropped or padded"),
    "groups": (f"{TWO}, group = 3", (3, 2, 2, 2), "groups or dilations"),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_near_miss_stays(name: str) -> None:
    attributes, shape, why = NEAR_MISSES[name]
    text = f"(float[n, c, h, w] y) {{ y = ConvTranspose<{attributes}>(x, v) }}"
    found, notes, wanted, got = rewritten(text, {"v": weights(*shape)})
    assert found == ["y = ConvTranspose(x, v)"]
    assert [str(skip) for skip in notes.skips] == [f"y: unsupported attribute ({why})"]
    np.testing.assert_array_equal(got[0], wanted[0])


def test_weights_that_are_computed_stay() -> None:
    text = f"(float[2, 4, 8, 10] y) {{ v = Exp(w)\n y = ConvTranspose<{TWO}>(x, v) }}"
    found, notes, _, _ = rewritten(text, {"w": weights(3, 4, 2, 2)})
    assert found[-1] == "y = ConvTranspose(x, v)"
    assert [str(skip) for skip in notes.skips] == ["y: weight is not a constant"]


def test_excluded_node_stays() -> None:
    text = f"(float[2, 4, 8, 10] y) {{ [up] y = ConvTranspose<{TWO}>(x, w) }}"
    found, notes, _, _ = rewritten(text, {"w": weights(3, 4, 2, 2)}, exclude=("up",))
    assert found == ["y = ConvTranspose(x, w)"]
    assert [str(skip) for skip in notes.skips] == ["up: excluded by the user"]
