# SPDX-License-Identifier: Apache-2.0
"""Inspect shows repeated blocks as a person thinks of them."""

from __future__ import annotations

from pathlib import Path

from edgefold.files.loading import load_model
from edgefold.measuring.blocks import BlockRow, PartRow, StackRow, blocks_text, list_blocks
from edgefold.measuring.inspect import inspect

CHAR_LM = Path(__file__).resolve().parents[1] / "models" / "char_lm" / "model.onnx"


def test_blocks_of_the_committed_model() -> None:
    found = inspect(load_model(CHAR_LM), skips=lambda model: [])
    (stack,) = found.to_json()["stacks"]
    assert [block["number"] for block in stack["blocks"]] == [0, 1, 2]
    assert [block["obstacle"] for block in stack["blocks"]] == [None] * 3
    assert [half["kind"] for half in stack["blocks"][0]["halves"]] == ["attention", "feed-forward"]
    width = 96
    assert stack["blocks"][0]["weights"] > 12 * width**2
    assert (
        "3 transformer blocks of 112 k weights, numbers 0 to 2, values add_24 to add_351; each attention of 37.4 k"
        in (found.to_text())
    )


def test_numbers_go_on_from_stack_to_stack() -> None:
    resnet = CHAR_LM.parents[1] / "digits_cnn" / "model.onnx"
    stacks = list_blocks(load_model(resnet).model)
    numbers = [block.number for stack in stacks for block in stack.blocks]
    assert numbers == list(range(len(numbers)))


def test_what_stands_against_a_cut_is_said() -> None:
    part = PartRow("attention", "a", "b", 3, 10, None)
    blocks = [BlockRow("block", "a", "b", 3, 1_500, "'h' is read outside" if n else None, n, (part,)) for n in (0, 1)]
    text = StackRow("2 transformer blocks", tuple(blocks)).to_text()
    assert text.splitlines() == [
        "2 transformer blocks of 1.5 k weights, numbers 0 to 1, values a to b; each attention of 10",
        "  block 1 cannot be cut out: 'h' is read outside",
    ]
    assert blocks_text([]) == ["No residual blocks repeat."]
