# SPDX-License-Identifier: Apache-2.0
"""The blocks of models that are there as files: how many, of which halves, and that they can be cut out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefold.files.loading import load_model
from edgefold.passes.depth.blocks import Stack, find_stacks

ROOT = Path(__file__).resolve().parents[3]
TRANSFORMER = ("attention", "feed-forward")

EXPECTED = {
    "minilm/model.onnx": ([6], TRANSFORMER),
    "gpt_charlm/model.onnx": ([6], TRANSFORMER),
    "gpt_charlm/model_dynamo.onnx": ([6], TRANSFORMER),
    "moe_charlm/model.onnx": ([4], TRANSFORMER),
    "vit_mnist/model.onnx": ([6], TRANSFORMER),
    "cifar_resnet20/model.onnx": ([3, 2, 2], ()),
    "cifar_resnet20/model_dynamo.onnx": ([3, 2, 2], ()),
    "cifar_resnet56/model.onnx": ([9, 8, 8], ()),
    "cifar_resnet56/model_dynamo.onnx": ([9, 8, 8], ()),
    "imagenet_mobilenetv2/model.onnx": ([2, 3, 2, 2], ()),
    "imagenet_squeezenet11/model.onnx": ([], ()),
    "keras_mobilenetv1_vww/model.onnx": ([], ()),
    "keras_autoencoder_ad01/model.onnx": ([], ()),
}


def stacks_of(path: Path) -> tuple[Stack, ...]:
    if not path.is_file():
        pytest.skip(f"no {path.parent.name}/{path.name}")
    return find_stacks(load_model(path).model)


@pytest.mark.parametrize("name", EXPECTED)
def test_real_models(data_folder: Path, name: str) -> None:
    counts, halves = EXPECTED[name]
    stacks = stacks_of(data_folder / name)
    assert [len(stack.blocks) for stack in stacks] == counts
    for block in (block for stack in stacks for block in stack.blocks):
        assert tuple(half.kind for half in block.halves) == halves
        assert block.obstacle is None


def test_blocks_of_a_stack_follow_each_other_and_correspond() -> None:
    (stack,) = stacks_of(ROOT / "models" / "char_lm" / "model.onnx")
    assert len(stack.blocks) == 3
    for one, other in zip(stack.blocks, stack.blocks[1:], strict=False):
        assert one.end is other.start
        assert not set(one.nodes) & set(other.nodes)
        assert [v.const_value.shape for v in one.parameters if v.const_value] == [
            v.const_value.shape for v in other.parameters if v.const_value
        ]
    for block in stack.blocks:
        assert [half.start for half in block.halves] == [block.start, block.halves[0].end]
        assert block.halves[-1].end is block.end
        assert {node for half in block.halves for node in half.nodes} <= set(block.nodes)
