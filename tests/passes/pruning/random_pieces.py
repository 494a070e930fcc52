# SPDX-License-Identifier: Apache-2.0
"""Pieces of real networks, and models that are pieces wired at random."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st
from random_bodies import branched, looped
from random_graphs import SIDE, Builder, Draw


def convolution(b: Builder) -> None:
    x, width = b.pick(), b.width()
    b.give(b.add("Conv", [x.name, b.weight(width, x.channels, 3, 3), b.weight(width)], pads=[1, 1, 1, 1]), width)


def grouped(b: Builder) -> None:
    x = b.pick()
    groups = b.draw(st.sampled_from([g for g in (2, 3, x.channels) if x.channels % g == 0]))
    width = groups * b.draw(st.sampled_from([1, 2, 3]))
    kernel = b.weight(width, x.channels // groups, 3, 3)
    b.give(b.add("Conv", [x.name, kernel], group=groups, pads=[1, 1, 1, 1]), width)


def transposed(b: Builder) -> None:
    x = b.pick()
    groups = b.draw(st.sampled_from([g for g in (1, 2) if x.channels % g == 0]))
    width = groups * b.draw(st.sampled_from([2, 4]))
    kernel = b.weight(x.channels, width // groups, 3, 3)
    b.give(b.add("ConvTranspose", [x.name, kernel, b.weight(width)], group=groups, pads=[1, 1, 1, 1]), width)


def activation(b: Builder) -> None:
    x = b.pick()
    b.give(b.add(b.draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish", "Identity"])), [x.name]), x.channels)


def normalization(b: Builder) -> None:
    x = b.pick()
    inputs = [x.name, b.vector(x.channels), b.weight(x.channels)]
    if b.draw(st.booleans()):
        b.give(b.add("BatchNormalization", [*inputs, b.weight(x.channels), b.vector(x.channels)]), x.channels)
    else:
        b.give(b.add("InstanceNormalization", inputs, epsilon=0.1), x.channels)


def pool(b: Builder) -> None:
    x = b.pick()
    kind = b.draw(st.sampled_from(["AveragePool", "MaxPool"]))
    b.give(b.add(kind, [x.name], kernel_shape=[3, 3], pads=[1, 1, 1, 1]), x.channels)


def elementwise(b: Builder) -> None:
    x = b.pick()
    others = [one for one in b.pictures if one.channels in (x.channels, 1)]
    other = others[-1 - b.draw(st.integers(0, len(others) - 1))]
    b.give(b.add(b.draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), [x.name, other.name]), x.channels)


def scale(b: Builder) -> None:
    x = b.pick()
    b.give(b.add("Mul", [x.name, b.vector(x.channels, 1, 1)]), x.channels)


def concat(b: Builder) -> None:
    x, other = b.pick(), b.pick()
    b.give(b.add("Concat", [x.name, other.name], axis=1), x.channels + other.channels)


def split(b: Builder) -> None:
    x = b.pick()
    first = b.draw(st.integers(1, x.channels - 1)) if x.channels > 1 else 0
    if not first:
        return
    name = b.add("Split", [x.name, b.integers(first, x.channels - first)], 2, axis=1)
    b.give(f"{name}_1", x.channels - first)
    b.give(name, first)


def piece(b: Builder) -> None:
    """Some of the channels: a slice with a step, or chosen ones."""
    x = b.pick()
    if b.draw(st.booleans()):
        step = b.draw(st.sampled_from([1, 2, 3, -1]))
        start, end = (0, x.channels) if step > 0 else (x.channels - 1, -x.channels - 1)
        inputs = [b.integers(value) for value in (start, end, 1, step)]
        b.give(b.add("Slice", [x.name, *inputs]), -(-x.channels // abs(step)))
    else:
        chosen = b.draw(st.lists(st.integers(0, x.channels - 1), min_size=1, max_size=6))
        b.give(b.add("Gather", [x.name, b.integers(*chosen)], axis=1), len(chosen))


def pad(b: Builder) -> None:
    x = b.pick()
    before, after = b.draw(st.integers(0, 2)), b.draw(st.integers(0, 2))
    b.give(b.add("Pad", [x.name, b.integers(0, before, 0, 0, 0, after, 0, 0)]), before + x.channels + after)


def shuffle(b: Builder) -> None:
    x = b.pick()
    groups = b.draw(st.sampled_from([g for g in (1, 2, 3, 4) if x.channels % g == 0]))
    parts = b.add("Reshape", [x.name, b.integers(-1, groups, x.channels // groups, SIDE, SIDE)])
    turned = b.add("Transpose", [parts], perm=[0, 2, 1, 3, 4])
    b.give(b.add("Reshape", [turned, b.integers(-1, x.channels, SIDE, SIDE)]), x.channels)


def gate(b: Builder) -> None:
    """Squeeze and excite."""
    x = b.pick()
    pooled = b.add("GlobalAveragePool", [x.name])
    hidden = b.add("Relu", [b.add("Conv", [pooled, b.weight(4, x.channels, 1, 1)])])
    open_ = b.add("Sigmoid", [b.add("Conv", [hidden, b.weight(x.channels, 4, 1, 1)])])
    b.give(b.add("Mul", [x.name, open_]), x.channels)


def mean(b: Builder) -> None:
    """The channels' mean or sum, as one channel."""
    x = b.pick()
    kind = b.draw(st.sampled_from(["ReduceMean", "ReduceSum"]))
    b.give(b.add(kind, [x.name, b.integers(1)], keepdims=1), 1)


def linear(b: Builder) -> None:
    x, width = b.pick(), b.width()
    hidden = b.add("MatMul", [b.flat(x), b.weight(x.channels, width)])
    b.square(b.add("Add", [hidden, b.weight(width)]), width)


def layer_norm(b: Builder) -> None:
    x = b.pick()
    inputs = [b.flat(x), b.vector(x.channels), b.weight(x.channels)]
    b.square(b.add("LayerNormalization", inputs, axis=-1, epsilon=0.1), x.channels)


def rms_norm(b: Builder) -> None:
    x = b.pick()
    tokens = b.flat(x)
    squares = b.add("ReduceMean", [b.add("Mul", [tokens, tokens]), b.integers(-1)], keepdims=1)
    root = b.add("Sqrt", [b.add("Add", [squares, b.constant(np.float32(0.1))])])
    b.square(b.add("Mul", [b.add("Div", [tokens, root]), b.vector(x.channels)]), x.channels)


def attention(b: Builder) -> None:
    """Two heads of three dimensions; now and then the keys of a single head serve both."""
    x = b.pick()
    tokens, shared = b.flat(x), b.draw(st.booleans())

    def heads(count: int, perm: list[int]) -> str:
        projected = b.add("MatMul", [tokens, b.weight(x.channels, 3 * count)])
        return b.add("Transpose", [b.add("Reshape", [projected, b.integers(0, 0, count, 3)])], perm=perm)

    q, k, v = heads(2, [0, 2, 1, 3]), heads(1 if shared else 2, [0, 2, 3, 1]), heads(2, [0, 2, 1, 3])
    mixed = b.add("MatMul", [b.add("Softmax", [b.add("MatMul", [q, k])], axis=-1), v])
    joined = b.add("Reshape", [b.add("Transpose", [mixed], perm=[0, 2, 1, 3]), b.integers(0, 0, 6)])
    b.square(b.add("MatMul", [joined, b.weight(6, x.channels)]), x.channels)


def perceptron(b: Builder) -> None:
    """Everything flattened and brought back."""
    x, width = b.pick(), b.width()
    size = x.channels * SIDE * SIDE
    hidden = b.add("Relu", [b.add("Gemm", [b.add("Flatten", [x.name]), b.weight(size, width)])])
    back = b.add("Gemm", [hidden, b.weight(x.channels * SIDE * SIDE, width)], transB=1)
    b.give(b.add("Reshape", [back, b.integers(-1, x.channels, SIDE, SIDE)]), x.channels)


def tied(b: Builder) -> None:
    """One convolution applied twice."""
    x = b.pick()
    kernel = b.weight(x.channels, x.channels, 1, 1)
    b.give(b.add("Conv", [b.add("Relu", [b.add("Conv", [x.name, kernel])]), kernel]), x.channels)


def blocks(b: Builder) -> None:
    """Depth to space and back."""
    x = b.pick()
    if x.channels % 4:
        return
    wide = b.add("DepthToSpace", [x.name], blocksize=2, mode=b.draw(st.sampled_from(["CRD", "DCR"])))
    b.give(b.add("SpaceToDepth", [b.add("Relu", [wide])], blocksize=2), x.channels)


def gated(b: Builder) -> None:
    """Gated linear unit: one half of the channels opens the other."""
    x, width = b.pick(), b.width()
    wide = b.add("Conv", [x.name, b.weight(2 * width, x.channels, 1, 1)])
    value = b.add("Split", [wide], 2, axis=1, num_outputs=2)
    b.give(b.add("Mul", [value, b.add("Sigmoid", [f"{value}_1"])]), width)


def group_norm(b: Builder) -> None:
    """GroupNormalization, whole or in the parts that exporters write it as."""
    x = b.pick()
    groups = b.draw(st.sampled_from([g for g in (1, 2, 3, 4) if x.channels % g == 0]))
    if b.draw(st.booleans()):
        inputs = [x.name, b.vector(x.channels), b.weight(x.channels)]
        b.give(b.add("GroupNormalization", inputs, num_groups=groups, epsilon=0.1), x.channels)
        return
    ones, zeros = (b.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    rows = b.add(
        "InstanceNormalization", [b.add("Reshape", [x.name, b.integers(0, groups, -1)]), ones, zeros], epsilon=0.1
    )
    whole = b.add("Reshape", [rows, b.add("Shape", [x.name])])
    b.give(b.add("Mul", [whole, b.vector(x.channels, 1, 1)]), x.channels)


def computed_shape(b: Builder) -> None:
    """Flattened and brought back by sizes that the graph computes itself."""
    x = b.pick()
    shape = b.add("Shape", [x.name])
    batch = b.add("Gather", [shape, b.integers(0)], axis=0)
    channels = b.add("Gather", [shape, b.integers(1)], axis=0)
    kept = b.draw(st.sampled_from([channels, b.integers(x.channels)]))
    rows = b.add("Reshape", [x.name, b.add("Concat", [batch, kept, b.integers(-1)], axis=0)])
    picture = b.add("Concat", [batch, b.integers(-1, SIDE, SIDE)], axis=0)
    b.give(b.add("Reshape", [b.add("Relu", [rows]), picture]), x.channels)


def recurrent(b: Builder) -> None:
    """An LSTM or GRU along the pixels, in one direction or both."""
    x, width = b.pick(), b.draw(st.sampled_from([3, 4]))
    kind, gates = b.draw(st.sampled_from([("LSTM", 4), ("GRU", 3)]))
    directions = b.draw(st.sampled_from([1, 2]))
    steps = b.add("Transpose", [b.flat(x)], perm=[1, 0, 2])
    kernels = [b.weight(directions, gates * width, size) for size in (x.channels, width)]
    options = {"hidden_size": width, "direction": "bidirectional" if directions == 2 else "forward"}
    states = b.add(kind, [steps, *kernels, b.weight(directions, 2 * gates * width)], **options)
    joined = b.add("Reshape", [b.add("Transpose", [states], perm=[0, 2, 1, 3]), b.integers(0, 0, -1)])
    b.square(b.add("Transpose", [joined], perm=[1, 0, 2]), directions * width)


def grouped_queries(b: Builder) -> None:
    """Four query heads for two heads of keys and values, which Expand repeats."""
    x = b.pick()
    tokens = b.flat(x)

    def heads(count: int) -> str:
        projected = b.add("MatMul", [tokens, b.weight(x.channels, 3 * count)])
        return b.add("Transpose", [b.add("Reshape", [projected, b.integers(0, 0, count, 3)])], perm=[0, 2, 1, 3])

    def repeated(few: str) -> str:
        wide = b.add("Expand", [b.add("Unsqueeze", [few, b.integers(2)]), b.integers(1, 1, 2, 1, 1)])
        return b.add("Reshape", [wide, b.integers(0, 4, SIDE * SIDE, 3)])

    keys = b.add("Transpose", [repeated(heads(2))], perm=[0, 1, 3, 2])
    scores = b.add("Mul", [b.add("MatMul", [heads(4), keys]), b.vector(4, 1, 1)])
    mixed = b.add("MatMul", [b.add("Softmax", [scores], axis=-1), repeated(heads(2))])
    joined = b.add("Reshape", [b.add("Transpose", [mixed], perm=[0, 2, 1, 3]), b.integers(0, 0, 12)])
    b.square(b.add("MatMul", [joined, b.weight(12, x.channels)]), x.channels)


def choice(b: Builder) -> None:
    """Where, by a comparison of two values."""
    x = b.pick()
    others = [one for one in b.pictures if one.channels == x.channels]
    other = others[-1 - b.draw(st.integers(0, len(others) - 1))]
    b.give(b.add("Where", [b.add("Less", [x.name, other.name]), x.name, other.name]), x.channels)


def across(b: Builder) -> None:
    """Softmax over the channels: a barrier."""
    x = b.pick()
    b.give(b.add("Softmax", [x.name], axis=1), x.channels)


PIECES = [
    convolution, activation, elementwise, concat, split, grouped, normalization, pool, scale, piece, pad, shuffle, gate,
    mean, linear, layer_norm, rms_norm, attention, perceptron, tied, blocks, transposed, gated, group_norm,
    computed_shape, recurrent, grouped_queries, choice, across, looped, branched,
]  # fmt: skip


@st.composite
def models(draw: Draw) -> ir.Model:
    """Models of one to ten pieces, of pictures [N, 3, 4, 4] to [N, 2, 4, 4]."""
    builder = Builder(draw)
    convolution(builder)
    for part in draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=10)):
        if builder.pictures[-1].channels < 40:
            part(builder)
    return builder.model()
