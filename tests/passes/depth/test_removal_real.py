# SPDX-License-Identifier: Apache-2.0
"""On real models of several exporters: a block that adds nothing to the stream may go, and nothing changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from edgefold.files.loading import load_model
from edgefold.interface import ModelInterface
from edgefold.passes.depth.blocks import Block, find_stacks
from edgefold.passes.depth.gates import gated
from edgefold.passes.depth.surgery import cut_out
from edgefold.random_feeds import random_feeds
from edgefold.session import make_session, run

MODELS = {
    "minilm/model.onnx": 6,
    "gpt_charlm/model.onnx": 6,
    "gpt_charlm/model_dynamo.onnx": 6,
    "vit_mnist/model.onnx": 6,
    "moe_charlm/model.onnx": 4,
    "cifar_resnet20/model.onnx": 7,
    "cifar_resnet56/model.onnx": 25,
    "cifar_resnet20/model_dynamo.onnx": 7,
    "cifar_resnet56/model_dynamo.onnx": 25,
    "imagenet_mobilenetv2/model.onnx": 9,
    "imagenet_mobilenetv2/model_qdq_int8.onnx": 9,
    "deeplab_mobilenetv2/model.onnx": 9,
    "ppocr_det_v2/model.onnx": 6,
}
PRODUCTS = ("MatMul", "Gemm", "Conv")
every_model = pytest.mark.parametrize("name", MODELS)


def blocks_of(model: ir.Model) -> list[Block]:
    return [block for stack in find_stacks(model) for block in stack.blocks]


def outputs(model: ir.Model) -> list[np.ndarray]:
    session = make_session(model, threads=1, optimize=False)
    interface = ModelInterface.of(session)
    sizes = {
        port.name: tuple(
            size if isinstance(size, int) else (2, 16, 96, 96)[axis] for axis, size in enumerate(port.shape)
        )
        for port in interface.inputs
    }
    return run(session, None, random_feeds(interface, sizes, 0))


def silence(block: Block) -> None:
    """Zeroes the last layer of what a block, or each of its halves, adds to the stream, and no other."""
    inside = set(block.nodes)
    for half in block.halves or (block,):
        ends = [node for node in half.nodes if node.op_type == "Add" and half.start in node.inputs]
        waiting = [value for node in ends[-1:] for value in node.inputs if value is not half.start]
        assert waiting, "something is added to the stream"
        while waiting:
            value = waiting.pop()
            node = value.producer() if value is not None else None
            if node is not None and node in inside:
                waiting += list(node.inputs)[1:] if node.op_type in PRODUCTS else node.inputs
            elif value is not None and value.is_initializer() and half.start is not value:
                zero(value)


def normalize_only(block: Block) -> None:
    """Lets the norms of a block have factors of one and no bias."""
    for value in set(block.parameters):
        if str(value.name).endswith(("LayerNorm.weight", "LayerNorm.bias")) and value.const_value is not None:
            like = np.ones_like if str(value.name).endswith("weight") else np.zeros_like
            value.const_value = ir.tensor(like(value.const_value.numpy()), name=value.name)


def zero(value: ir.Value) -> None:
    """What is multiplied or added: weights, codes of eight bits, biases; scales and zero points stay."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    if array.dtype in (np.float32, np.int8, np.int32) and not is_grid(value):
        value.const_value = ir.tensor(np.zeros_like(array), name=value.name)


def is_grid(value: ir.Value) -> bool:
    """Whether codes are scaled or centred by it."""
    return any(use.node.op_type in ("QuantizeLinear", "DequantizeLinear") and use.idx > 0 for use in value.uses())


def align_grids(block: Block) -> None:
    """Gives the codes at the end of a quantized block the grid of those at its start.

    Each block of a quantized model rounds the stream to a grid of its own, so that even one that adds nothing moves
    it by up to half a step, and layers behind it by more: by 8 of 255 at the end of a MobileNetV2.
    """
    start, end = block.start.producer(), block.end.producer()
    assert start is not None
    assert end is not None
    if end.op_type == "DequantizeLinear":
        for ours, theirs in zip(end.inputs[1:], start.inputs[1:], strict=True):
            assert ours is not None
            assert theirs is not None
            ours.const_value = theirs.const_value


@every_model
def test_a_block_that_adds_nothing_may_go(name: str, data_folder: Path) -> None:
    if not (data_folder / name).exists():
        pytest.skip(f"{name} is not there")
    model = load_model(data_folder / name).model
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)  # Paddle's weights are Constant nodes
    blocks = blocks_of(model)
    assert len(blocks) == MODELS[name]
    middle = next(i for i in range(len(blocks) // 2, len(blocks)) if blocks[i].start is blocks[i - 1].end)
    if name.startswith(("deeplab", "ppocr")):  # which find nothing in noise: look at what they find it by
        blocks[-1].end.type = blocks[-1].end.type or ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(blocks[-1].end)
    post_norm = "minilm" in name
    if post_norm:  # rows leave a post-LN block normalized; the next norms keep them if they do nothing else
        normalize_only(blocks[middle - 1])
        normalize_only(blocks[middle])
    silence(blocks[middle])
    align_grids(blocks[middle])
    wanted = outputs(model)
    nodes, stored = len(model.graph), len(model.graph.initializers)
    cut_out(model, blocks[middle])
    assert len(model.graph) < nodes
    assert len(model.graph.initializers) < stored
    for got, expected in zip(outputs(model), wanted, strict=True):
        if post_norm:  # twice normalized is not the same to the last bit
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
        else:
            np.testing.assert_array_equal(got, expected)
    assert np.ptp(wanted[-1]) > 0


@pytest.mark.parametrize("name", ["gpt_charlm/model_dynamo.onnx", "vit_mnist/model.onnx", "cifar_resnet20/model.onnx"])
def test_open_gates_are_the_model_itself(name: str, data_folder: Path) -> None:
    model = load_model(data_folder / name).model
    halves = [half for block in blocks_of(model) for half in block.halves or (block,)]
    copy, _ = gated(model, halves)
    for got, expected in zip(outputs(copy), outputs(model), strict=True):
        np.testing.assert_array_equal(got, expected)
