# SPDX-License-Identifier: Apache-2.0
"""quantize-attention on a decoder with a key/value cache: all tokens at once, one a step, none before the first."""

from __future__ import annotations

import cached_decoder
import numpy as np
import onnx_ir as ir
import pytest
from cached_decoder import FORMS, Call, in_pieces

from edgefold.errors import EdgefoldError
from edgefold.passes import Context
from edgefold.passes.quantize_attention import QuantizeAttention
from edgefold.probing import probe
from edgefold.session import make_session

POSITIONS = 9
SHAPES = {"x": (2, 3, 16), "past_k": (2, 2, 5, 8), "past_v": (2, 2, 5, 8), "mask": (2, 8)}


def opened(model: ir.Model, library: bool) -> Call:
    try:
        session = make_session(model, threads=1, library=library)
    except EdgefoldError as missing:
        pytest.skip(str(missing))
    return lambda feeds: session.run(None, feeds)


def quantized(form: str) -> ir.Model:
    model = cached_decoder.decoder(form)
    notes = QuantizeAttention().rewrite(model, Context(probe=lambda one: probe(one, shapes=SHAPES)))
    assert [edit.what.split()[0] for edit in notes.edits] == ["ShiftAttention"]
    assert not notes.skips
    left = [node.op_type for node in model.graph]
    assert left.count("MatMul") == 3
    assert left.count("Transpose") == 4  # of x's heads, three times in and once out: keys are read as they are kept
    assert not {"Softmax", "IsNaN", "Mul", "Div"} & set(left)
    return model


@pytest.mark.parametrize("library", [True, False], ids=["kernels", "stock"])
@pytest.mark.parametrize("form", FORMS)
def test_a_token_a_step_gives_what_all_at_once_give(form: str, library: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 9, (2, POSITIONS, 16)).astype(np.float32) / 8
    mask = np.ones((2, POSITIONS), np.int64)
    mask[1, :2] = 0  # a shorter text, filled up on the left
    seen = mask.astype(bool)
    float_run = opened(cached_decoder.decoder(form), False)
    integer_run = opened(quantized(form), library)
    expected = in_pieces(float_run, x, [POSITIONS], mask)[seen]
    whole = in_pieces(integer_run, x, [POSITIONS], mask)[seen]
    # Scores move by about 1 in 127 of q and of k, and that of v: a few hundredths of the result at worst.
    assert np.abs(whole - expected).max() < 0.08 * np.abs(expected).max()
    for ends in ([*range(1, POSITIONS + 1)], [4, 5, 9]):
        pieces = in_pieces(integer_run, x, ends, mask)[seen]
        np.testing.assert_array_equal(pieces, whole)
