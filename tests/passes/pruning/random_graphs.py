# SPDX-License-Identifier: Apache-2.0
"""Random valid graphs, drawn by hypothesis: pieces of real networks wired at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SIDE = 4
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A value of shape [N, channels, 4, 4]."""

    name: str
    channels: int


class Builder:
    """A graph that grows by pieces; every piece takes pictures and gives pictures."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 3)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.pictures = [Picture("x", 3)]

    def model(self) -> ir.Model:
        last = self.pictures[-1]
        y = self.add("Conv", [last.name, self.weight(2, last.channels, 1, 1)])
        shape: list[int | str] = ["N", 3, SIDE, SIDE]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 2, SIDE, SIDE])],
            self.constants,
        )
        return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))

    # What pieces are made with.

    def add(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}" + ("" if place == 0 else f"_{place}") for place in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def weight(self, *shape: int) -> str:
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant((self.random.standard_normal(shape) * scale).astype(np.float32))

    def vector(self, *shape: int) -> str:
        """Positive factors."""
        return self.constant(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def pick(self) -> Picture:
        """An earlier value; the latest is the simplest choice."""
        return self.pictures[-1 - self.draw(st.integers(0, min(3, len(self.pictures) - 1)))]

    def width(self) -> int:
        return int(self.draw(st.sampled_from([4, 6, 8, 12])))

    def give(self, name: str, channels: int) -> None:
        self.pictures.append(Picture(name, channels))

    def flat(self, x: Picture) -> str:
        """Tokens [N, 16, channels]."""
        rows = self.add("Reshape", [x.name, self.integers(0, x.channels, SIDE * SIDE)])
        return self.add("Transpose", [rows], perm=[0, 2, 1])

    def square(self, tokens: str, channels: int) -> None:
        turned = self.add("Transpose", [tokens], perm=[0, 2, 1])
        self.give(self.add("Reshape", [turned, self.integers(-1, channels, SIDE, SIDE)]), channels)


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
        b.give(b.add("InstanceNormalization", inputs), x.channels)


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
    b.square(b.add("LayerNormalization", inputs, axis=-1), x.channels)


def rms_norm(b: Builder) -> None:
    x = b.pick()
    tokens = b.flat(x)
    squares = b.add("ReduceMean", [b.add("Mul", [tokens, tokens]), b.integers(-1)], keepdims=1)
    root = b.add("Sqrt", [b.add("Add", [squares, b.constant(np.float32(0.01))])])
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


PIECES = [
    convolution, activation, elementwise, concat, split, grouped, normalization, pool, scale, piece, pad, shuffle, gate,
    mean, linear, layer_norm, rms_norm, attention, perceptron, tied, blocks, transposed,
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
