# SPDX-License-Identifier: Apache-2.0
"""The finder on the forms in which networks come: what is a block, what is none, where it begins and ends."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from block_networks import HIDDEN, WIDTH, Network

from edgefold.passes.depth.blocks import Stack, find_stacks

TRANSFORMER = ["attention", "feed-forward"]


def counts(model: ir.Model) -> list[int]:
    before = ir.to_proto(model).SerializeToString()
    found = find_stacks(model)
    assert ir.to_proto(model).SerializeToString() == before
    return [len(stack.blocks) for stack in found]


def only(model: ir.Model) -> Stack:
    (stack,) = find_stacks(model)
    return stack


def halves(stack: Stack) -> list[str]:
    return [half.kind for half in stack.blocks[0].halves]


def test_pre_norm_from_a_float_input() -> None:
    net = Network()
    x = "x"
    for _ in range(3):
        x = net.pre_norm(x)
    stack = only(net.model(net.linear(net.norm(x))))
    assert (len(stack.blocks), halves(stack), stack.name) == (3, TRANSFORMER, "3 transformer blocks")
    assert (stack.blocks[0].start.name, stack.blocks[-1].end.name) == ("x", x)
    assert all(block.obstacle is None for block in stack.blocks)


def test_post_norm_ends_behind_its_written_out_norm() -> None:
    net = Network("int64[b, t] ids, float[b, 1, 1, t] mask")
    x = first = net.written_out_norm(net.add("Gather", net.weight(50, WIDTH), "ids"))
    for _ in range(3):
        x = net.post_norm(x, net.add("Mul", "mask", "scale") if x == first else "mask")
    stack = only(net.model(net.add("Tanh", net.linear(x))))
    assert (len(stack.blocks), halves(stack)) == (3, TRANSFORMER)
    assert (stack.blocks[0].start.name, stack.blocks[-1].end.name) == (first, x)


def test_a_mask_from_the_same_input_opens_no_way_around() -> None:
    net = Network("int64[b, t] ids")
    mask = net.add("Cast", net.add("Equal", "ids", "ids"), attributes="<to = 1>")
    x = net.add("Gather", net.weight(50, WIDTH), "ids")
    for _ in range(3):
        x = net.pre_norm(x, net.add("Unsqueeze", net.add("Unsqueeze", mask, net.axis()), net.axis()))
    assert counts(net.model(x)) == [3]


def test_attention_and_feed_forward_side_by_side_have_no_halves() -> None:
    net = Network()
    x = "x"
    for _ in range(3):
        x = net.add("Add", net.add("Add", net.attention(net.norm(x)), net.feed_forward(net.norm(x))), x)
    stack = only(net.model(x))
    assert (len(stack.blocks), halves(stack), stack.name) == (3, [], "3 transformer blocks")


def test_encoder_and_decoder() -> None:
    net = Network(f"int64[b, t] ids, float[b, t, {WIDTH}] target")
    memory = net.add("Gather", net.weight(50, WIDTH), "ids")
    for _ in range(2):
        memory = net.pre_norm(memory)
    memory, x = net.norm(memory), net.norm("target")
    for _ in range(3):
        x = net.add("Add", x, net.attention(net.norm(x)))
        x = net.add("Add", x, net.attention(net.norm(x), memory))
        x = net.add("Add", x, net.feed_forward(net.norm(x)))
    encoder, decoder = find_stacks(net.model(net.linear(x)))
    assert (len(encoder.blocks), len(decoder.blocks)) == (2, 3)
    assert halves(decoder) == ["attention", "attention", "feed-forward"]
    crossing = [v.const_value.size for v in decoder.blocks[0].halves[1].parameters if v.const_value]
    assert sum(crossing) == 4 * WIDTH * WIDTH + 6 * WIDTH + 1, "keys and values of the memory belong to the half"


@pytest.mark.parametrize("learnt", [True, False])
def test_a_decoder_whose_queries_are_learnt(learnt: bool) -> None:
    """Its first self-attention is a constant, so that its first block is another and the stream begins within it."""
    net = Network()
    memory = net.norm(net.linear("x"))
    tables = [net.weight(1, 3, WIDTH), net.weight(1, 1, WIDTH)]  # the second is a bias, on which no network begins
    x = net.add("Add", tables[not learnt], net.attention(memory))
    for _ in range(3):
        x = net.add("Add", x, net.attention(net.norm(x)))
        x = net.add("Add", x, net.attention(net.norm(x), memory))
        x = net.add("Add", x, net.feed_forward(net.norm(x)))
    found = find_stacks(net.model(net.linear(net.add("Add", x, memory))))
    assert [(len(stack.blocks), halves(stack)) for stack in found] == (
        [(3, ["attention", "attention", "feed-forward"])] if learnt else []
    )
    assert all(block.obstacle is None for stack in found for block in stack.blocks)


def test_blocks_that_alternate_are_pairs() -> None:
    net = Network()
    x = "x"
    net.arrays["shift"], net.arrays["last"] = np.array([2], np.int64), np.array([1000], np.int64)
    net.arrays["one"] = np.array([1], np.int64)
    for i in range(6):
        inner = net.add("Slice", net.norm(x), "shift", "last", "one") if i % 2 else net.norm(x)
        x = net.add("Add", x, net.attention(inner))
        x = net.add("Add", x, net.feed_forward(net.norm(x)))
    stack = only(net.model(net.linear(x)))
    assert (len(stack.blocks), halves(stack)) == (3, TRANSFORMER * 2)


def test_gemm_and_reshapes_of_a_slimmer_are_the_same_block() -> None:
    net = Network(f"float[4, {WIDTH}] x")
    net.arrays["rows"], net.arrays["back"] = np.array([4, WIDTH], np.int64), np.array([2, 2, WIDTH], np.int64)
    x = net.add("Tanh", "x")
    for i in range(4):
        y = net.norm(x)
        if i == 0:
            up = net.add("Gemm", net.add("Reshape", net.add("Reshape", y, "back"), "rows"), net.weight(HIDDEN, WIDTH),
                         net.weight(HIDDEN), attributes="<transB = 1>")  # fmt: skip
        else:
            up = net.linear(y, WIDTH, HIDDEN)
        x = net.add("Add", x, net.linear(net.add("Relu", up), HIDDEN, WIDTH))
    assert counts(net.model(net.linear(x))) == [4]


def test_reshapes_on_the_stream_belong_to_the_block_before() -> None:
    net = Network(f"float[2, 2, {WIDTH}] x")
    net.arrays["rows"], net.arrays["back"] = np.array([4, WIDTH], np.int64), np.array([2, 2, WIDTH], np.int64)
    x = net.add("Tanh", "x")
    for _ in range(3):
        x = net.add("Reshape", net.add("Add", x, net.attention(net.norm(x))), "rows")
        x = net.add("Reshape", net.add("Add", x, net.feed_forward(net.norm(x))), "back")
    stack = only(net.model(net.linear(x)))
    assert [str(block.end.producer().op_type) for block in stack.blocks] == ["Reshape"] * 3
    assert stack.blocks[-1].end.name == x


def test_a_reshape_before_the_head_is_not_in_the_last_block() -> None:
    net = Network(f"float[4, {WIDTH}] x")
    net.arrays["rows"] = np.array([2, 2 * WIDTH], np.int64)
    x = "x"
    for _ in range(3):
        x = net.add("Add", x, net.feed_forward(net.norm(x)))
    stack = only(net.model(net.linear(net.add("Reshape", x, "rows"), 2 * WIDTH)))
    assert stack.blocks[-1].end.name == x
    assert stack.name == "3 feed-forward blocks"


def test_fused_embeddings_hand_their_mask_to_every_attention() -> None:
    net = Network("int32[b, t] ids, int32[b, t] segment, int32[b, t] mask")
    tables = [net.weight(30, WIDTH) for _ in range(3)]
    x = net.add("com.microsoft.EmbedLayerNormalization", "ids", "segment", *tables, net.weight(WIDTH),
                net.weight(WIDTH), "mask", outputs=2)  # fmt: skip
    index = f"{x}_1"
    for _ in range(3):
        y = net.add("com.microsoft.Attention", x, net.weight(WIDTH, 3 * WIDTH), net.weight(3 * WIDTH), index,
                    attributes="<num_heads = 2>")  # fmt: skip
        for branch in (lambda y=y: net.linear(y), None):
            y = branch() if branch else net.feed_forward(x)
            x = net.add("com.microsoft.SkipLayerNormalization", y, x, net.weight(WIDTH), net.weight(WIDTH))
    stack = only(net.model(x))
    assert (len(stack.blocks), halves(stack)) == (3, TRANSFORMER)
    assert all(block.obstacle is None for block in stack.blocks)


def test_a_fused_pre_norm_stream_of_two_values_cannot_be_cut() -> None:
    net = Network()
    x, y = "x", net.norm("x")
    for _ in range(6):
        done = net.add("com.microsoft.SkipLayerNormalization", x, net.feed_forward(y), net.weight(WIDTH),
                       net.weight(WIDTH), outputs=4)  # fmt: skip
        x, y = f"{done}_3", done
    stack = only(net.model(net.linear(y)))
    assert all("carried by several values" in str(block.obstacle) for block in stack.blocks[1:-1])


def test_values_that_leave_a_block_stand_against_cutting_it() -> None:
    net = Network()
    x, hidden = "x", ""
    for i in range(3):
        y = net.add("Relu", net.linear(net.norm(x), WIDTH, HIDDEN))
        hidden = y if i == 1 else hidden
        x = net.add("Add", x, net.linear(y, HIDDEN, WIDTH))
    obstacles = [block.obstacle for block in only(net.model(x, hidden)).blocks]
    assert obstacles == [None, f"'{hidden}', made inside it, is an output of the model", None]


def test_tied_blocks_use_the_same_parameters() -> None:
    net = Network()
    x, start = "x", len(net.arrays)
    for _ in range(3):
        stored = dict(list(net.arrays.items())[:start])
        made = dict(net.arrays)
        net.arrays = stored
        x = net.pre_norm(x)
        net.arrays = {**made, **net.arrays}
    one, *others = only(net.model(net.linear(x))).blocks
    assert all(other.parameters == one.parameters for other in others)


def test_residual_stages_and_what_stands_between_them() -> None:
    net = Network("float[b, 3, 8, 8] x")
    x = net.add("Relu", net.conv("x", 3, 8))
    for _ in range(4):
        x = net.residual(x)
    down = net.conv(net.add("Relu", net.conv(x, 8, 16, more=", strides = [2, 2]")), 16, 16)
    x = net.add("Relu", net.add("Add", down, net.conv(x, 8, 16, 1, ", strides = [2, 2]")))
    for _ in range(3):
        x = net.residual(x, 16)
    model = net.model(net.add("GlobalAveragePool", x))
    stacks = find_stacks(model)
    assert [stack.name for stack in stacks] == ["4 convolution blocks", "3 convolution blocks"]
    assert {str(block.end.producer().op_type) for stack in stacks for block in stack.blocks} == {"Relu"}


def test_blocks_under_a_long_skip_connection() -> None:
    net = Network("float[b, 8, 8, 8] x")
    first = x = net.conv("x", 8, 8)
    for _ in range(4):
        x = net.residual(x)
    assert counts(net.model(net.conv(net.add("Add", net.conv(x, 8, 8), first), 8, 8))) == [4]


def test_towers_that_join() -> None:
    net = Network(f"float[b, {WIDTH}] x")
    ends = []
    for depth in (2, 3):
        x = net.linear("x")
        for _ in range(depth):
            x = net.add("Add", x, net.feed_forward(net.norm(x)))
        ends.append(x)
    assert counts(net.model(net.linear(net.add("Mul", *ends)))) == [2, 3]


def test_nodes_in_any_order() -> None:
    net = Network()
    x = "x"
    for _ in range(3):
        x = net.pre_norm(x)
    model = net.model(net.linear(x))
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))
    assert counts(model) == [3]


def plain(net: Network, x: str) -> str:
    return net.add("Relu", net.linear(x))


def gated(net: Network, x: str) -> str:
    return net.add("Mul", x, net.add("Sigmoid", net.linear(x)))


def dense(net: Network, x: str) -> str:
    width = WIDTH + 8 * (len(net.lines) // 4)
    return net.add("Concat", x, net.add("Relu", net.linear(x, width, 8)), attributes="<axis = -1>")


def projected(net: Network, x: str) -> str:
    return net.add("Add", net.linear(x), net.linear(net.add("Relu", net.linear(x))))


def activated(net: Network, x: str) -> str:
    """The polynomial of a written-out GELU: an addition of x, but no weights in the branch."""
    y = net.linear(x)
    return net.add("Tanh", net.add("Add", y, net.add("Mul", net.add("Mul", y, y), "scale")))


def interrupted(net: Network, x: str) -> str:
    """A residual branch, then a layer that nothing leads around."""
    return plain(net, net.add("Add", x, net.feed_forward(x)))


@pytest.mark.parametrize("layer", [plain, gated, dense, projected, activated, interrupted])
def test_layers_with_no_way_around_are_no_blocks(layer) -> None:  # type: ignore[no-untyped-def]
    net = Network()
    x = "x"
    for _ in range(4):
        x = layer(net, x)
    assert counts(net.model(x)) == []


def test_unequal_blocks_and_a_single_one_are_no_stack() -> None:
    net = Network()
    x = "x"
    for hidden in (8, 12, 16, 24):
        up = net.add("Relu", net.linear(net.norm(x), WIDTH, hidden))
        x = net.add("Add", x, net.linear(up, hidden, WIDTH))
    assert counts(net.model(x)) == []


@pytest.mark.parametrize("size", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_large_graphs_take_seconds(size: int) -> None:
    net = Network()
    x = "x"
    while len(net.lines) < size:
        x = net.pre_norm(x)
    model = net.model(net.linear(net.norm(x)))
    begin = time.process_time()
    (stack,) = find_stacks(model)
    assert time.process_time() - begin < 30 * size / 20_000
    assert len(stack.blocks) * len(stack.blocks[0].nodes) > 0.95 * size
