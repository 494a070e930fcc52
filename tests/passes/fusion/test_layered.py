# SPDX-License-Identifier: Apache-2.0
"""The residual blocks of a network are found in its fused nodes, with the numbers and weights that they had."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import onnx_ir as ir
import pytest
from linear_blocks import quantized
from packed_convs import conv_graph
from test_channel_gates import Ranges
from test_channel_gates import fuse as fuse_gates

from edgefold.measuring.blocks import FUSED, list_blocks
from edgefold.measuring.layered import _WRITERS, layered
from edgefold.ops import OPERATORS, add_functions
from edgefold.passes.base import Context
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.fuse_blocks import FuseBlocks
from edgefold.passes.fusion.conv_region import fuse_conv_regions
from edgefold.passes.fusion.cost import TYPICAL, Device, Level
from edgefold.passes.fusion.inverted_residual import fuse_inverted_residuals
from edgefold.probing import probe

X = np.random.default_rng(5).uniform(-6, 6, (1, 8, 9, 10)).astype(np.float32)
HEAD = "g (float[1, 8, 9, 10] x) => (float[n, c, h, w] y) { r0 = Conv(x, 8, 16, kernel=3) s0 = Relu(r0)"
TAIL = "y = Conv(s3, 16, 8) }"
ONLY_NODES_COST = Device("only nodes cost", (Level("memory", np.inf, 1e9),))
BLOCKS = {
    "the function behind the sum": (
        "a{n} = Conv(s{m}, 16, 16, kernel=3) b{n} = Relu(a{n}) c{n} = Conv(b{n}, 16, 16, kernel=3) "
        "d{n} = Add(c{n}, s{m}) s{n} = Relu(d{n})"
    ),
    "the sum behind the function": (
        "a{n} = Conv(s{m}, 16, 16, kernel=3) b{n} = Relu(a{n}) c{n} = Conv(b{n}, 16, 16, kernel=3) "
        "d{n} = Relu(c{n}) s{n} = Add(s{m}, d{n})"
    ),
    "three convolutions": (
        "a{n} = Conv(s{m}, 16, 48) b{n} = Relu(a{n}) c{n} = Conv(b{n}, 48, 48, kernel=3, group=48) d{n} = Relu(c{n}) "
        "e{n} = Conv(d{n}, 48, 16) f{n} = Add(e{n}, s{m}) s{n} = Relu(f{n})"
    ),
}


def network(block: str, tail: str = TAIL) -> ir.Model:
    blocks = (block.format(m=before, n=after) for before, after in itertools.pairwise(range(4)))
    return conv_graph(f"{HEAD} {' '.join(blocks)} {tail}")


def fuse(model: ir.Model, *, inverted: bool = False) -> ir.Model:
    fused = model.clone()
    context = Context(probe=functools.partial(probe, feeds={"x": X}, seed=0))
    fuse_conv_regions(fused, context, TYPICAL)
    if inverted:
        fuse_inverted_residuals(fused, context, ONLY_NODES_COST)
    add_functions(fused)
    return fused


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_keep_their_numbers_and_weights(name: str) -> None:
    apart = network(BLOCKS[name])
    fused = fuse(apart)
    assert not find_stacks(fused)  # the sums are inside nodes
    (before,), (after,) = list_blocks(apart), list_blocks(fused)
    assert [block.number for block in after.blocks] == [block.number for block in before.blocks] == [0, 1, 2]
    assert [block.weights for block in after.blocks] == [block.weights for block in before.blocks]
    assert [block.nodes for block in after.blocks] == [BLOCKS[name].count("Conv")] * 3
    assert [block.obstacle for block in after.blocks] == [FUSED] * 3
    assert after.to_text().endswith(f"\n  none can be cut out: {FUSED}")
    assert after.blocks[0].end == after.blocks[1].start


def test_a_block_may_be_one_node() -> None:
    apart = network(BLOCKS["three convolutions"])
    fused = fuse(apart, inverted=True)
    assert sum(node.op_type == "FusedInvertedResidual" for node in fused.graph) == 3
    (before,), (after,) = list_blocks(apart), list_blocks(fused)
    assert [block.nodes for block in after.blocks] == [1, 1, 1]
    assert [block.weights for block in after.blocks] == [block.weights for block in before.blocks]


def test_squeeze_and_excitation_inside_a_block_is_of_it() -> None:
    block = (
        "a{n} = Conv(s{m}, 8, 16) b{n} = HardSwish(a{n}) p{n} = GlobalAveragePool(b{n}) "
        "q{n} = Conv(p{n}, 16, 4, low=-127, high=127) t{n} = Relu(q{n}) u{n} = Conv(t{n}, 4, 16) "
        "v{n} = HardSigmoid(u{n}) g{n} = Mul(b{n}, v{n}) "
        "c{n} = Conv(g{n}, 16, 8, low=-127, high=127) s{n} = Add(c{n}, s{m})"
    )
    blocks = " ".join(block.format(m=n, n=n + 1) for n in range(3))
    head = "g (float[2, 8, 9, 10] x) => (float[n, c, h, w] y) { r0 = Conv(x, 8, 8) s0 = Relu(r0)"
    apart = conv_graph(f"{head} {blocks} y = Conv(s3, 8, 8, low=-127, high=127) }}")
    fused = fuse_gates(apart, calibration=Ranges())
    assert sum(node.op_type == "CodeGate" for node in fused.graph) == 3
    (before,), (after,) = list_blocks(apart), list_blocks(fused)
    assert [block.weights for block in after.blocks] == [block.weights for block in before.blocks]
    assert [block.nodes for block in after.blocks] == [6, 6, 6]


def test_fused_layers_without_a_way_around_are_no_blocks() -> None:
    plain = "a{n} = Conv(s{m}, 16, 16, kernel=3) s{n} = Relu(a{n})"
    fused = fuse(network(plain))
    assert sum(node.op_type == "FusedConvBlock" for node in fused.graph) == 5
    assert list_blocks(fused) == ()


@pytest.mark.parametrize(("last", "added"), [("HardSwish(d)", ["Activation"]), ("Identity(d)", [])])
def test_what_follows_the_second_of_two_layers_is_a_layer(last: str, added: list[str]) -> None:
    text = f"u = MatMul(x, up) h = Relu(u) d = MatMul(h, down) e = {last} y = Add(e, x)"
    model = quantized(text.replace("e = Identity(d) y = Add(e, x)", "y = Add(d, x)"))
    FuseBlocks(kinds=("feed-forward",)).rewrite(model, Context(probe=functools.partial(probe, feeds={})))
    assert [node.op_type for node in model.graph] == ["FusedFeedForward"]
    product = ["MatMul", "Add"]
    found = [node.op_type for node in layered(model).model.graph]
    assert found == [*product, "Activation", *product, *added, "Add"]


def test_a_block_of_another_width_is_none_of_them() -> None:
    wider = "a{n} = Conv(s{m}, 16, 16, kernel=3) b{n} = Relu(a{n}) c{n} = Conv(b{n}, 16, 16) s{n} = Add(c{n}, s{m})"
    odd = wider.replace("16, 16, kernel=3", "16, 24").replace("Conv(b{n}, 16", "Conv(b{n}, 24")
    blocks = [wider.format(m=0, n=1), odd.format(m=1, n=2), wider.format(m=2, n=3)]
    assert list_blocks(fuse(conv_graph(f"{HEAD} {' '.join(blocks)} {TAIL}"))) == ()


def test_what_is_computed_is_not_changed() -> None:
    fused = fuse(network(BLOCKS["three convolutions"]))
    nodes = [node.name for node in fused.graph]
    found = layered(fused)
    assert [node.name for node in fused.graph] == nodes
    assert set(found.owners) == set(found.model.graph)
    assert set(found.owners.values()) == set(fused.graph)


def test_every_fused_operator_has_its_layers() -> None:
    fused = {operator.name for operator in OPERATORS if operator.name.startswith("Fused")}
    assert fused == {operator for domain, operator in _WRITERS if operator.startswith("Fused")}


def test_a_float_model_is_its_own_layers() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    assert layered(model).model is model
