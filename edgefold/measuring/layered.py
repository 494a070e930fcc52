# SPDX-License-Identifier: Apache-2.0
"""A compressed model as the float layers that it computes, for what looks for the structure of a network.

Codes and their scales, the order in which images lie and the attributes of kernels are left out, so that blocks which
differ in nothing else are equal, and a residual addition inside a fused node is an addition. Nothing of it can be run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefold.measuring.packed_weights import EDGEFOLD

WEIGHTED = frozenset(("Conv", "MatMul"))
"""Operators of layers by which it is said where a fused node belongs."""


@dataclass(frozen=True)
class Layered:
    """What a model computes, and by which of its nodes.

    Attributes:
        model: a copy of float layers; the given model itself where nothing of it is compressed.
        owners: node of the main graph of it -> the node of the given model that computes it.
    """

    model: ir.Model
    owners: Mapping[ir.Node, ir.Node]


def layered(model: ir.Model) -> Layered:
    """Writes fused and packed nodes as Conv, MatMul, Add and their activations, whose weights have shapes only."""
    if not any(node.domain == EDGEFOLD for node in model.graph):
        return Layered(model, {node: node for node in model.graph})
    copy = model.clone()
    owners = dict(zip(copy.graph, model.graph, strict=True))
    weights: dict[ir.Value, ir.Value] = {}
    for node in list(copy.graph):
        write = _WRITERS.get((node.domain, node.op_type))
        if write is not None:
            layers = _Layers(node, weights)
            write(layers)
            owner = owners.pop(node)
            owners.update(dict.fromkeys(layers.replace(), owner))
    return Layered(copy, owners)


class _Layers:
    """The layers of one node, written one behind the other."""

    def __init__(self, node: ir.Node, weights: dict[ir.Value, ir.Value]) -> None:
        self.node = node
        self.value = self.input(0)
        self._weights = weights
        self._written: list[ir.Node] = []

    def input(self, place: int) -> ir.Value:
        value = self.node.inputs[place]
        assert value is not None
        return value

    def integer(self, name: str) -> int:
        return self.node.attributes.get_int(name, 0)

    def write(self, operator: str, *others: ir.Value, domain: str = "", attributes: Sequence[ir.Attr] = ()) -> None:
        """Adds a layer that reads what the one before gives."""
        made = ir.Node(domain, operator, [self.value, *others], attributes)
        self._written.append(made)
        self.value = made.outputs[0]
        self.value.name = f"{self.node.outputs[0].name}/{len(self._written)}"

    def convolution(self, first: int, k: str, geometry: bool = True) -> None:
        """A convolution whose packed weights begin at an input; of one pixel where it has no geometry."""
        kernel = tuple(self.node.attributes.get_ints("kernel_shape", ())) if geometry else (1, 1)
        shape = (self._columns(first), self.integer(k) // math.prod(kernel), *kernel)
        names = ("strides", "pads", "dilations", "group") if geometry else ()
        kept = [self.node.attributes[name] for name in names if name in self.node.attributes]
        self.write("Conv", self._weight(first, shape), self.input(first + 4), attributes=kept)

    def product(self, first: int, k: str) -> None:
        """A matrix product whose packed weights begin at an input, and its bias."""
        self.write("MatMul", self._weight(first, (self.integer(k), self._columns(first))))
        self.write("Add", self.input(first + 4))

    def activation(self, prefix: str = "") -> None:
        """The activation function inside the node; nothing where there is none, or it changes nothing."""
        if prefix + "function" not in self.node.attributes:
            return
        given = {name: self.node.attributes[prefix + name] for name in ("function", "alpha", "beta")}
        limits = (given["alpha"].as_float(), given["beta"].as_float())
        if given["function"].as_int() or limits != (-math.inf, math.inf):
            plain = [ir.Attr(name, one.type, one.value) for name, one in given.items()]
            self.write("Activation", domain=EDGEFOLD, attributes=plain)

    def replace(self) -> list[ir.Node]:
        """Puts the layers in the place of the node and returns them."""
        graph = self.node.graph
        assert graph is not None
        if not self._written:
            self.write("Identity")
        ir.convenience.replace_nodes_and_values(
            graph, self.node, [self.node], self._written, self.node.outputs[:1], [self.value]
        )
        return self._written

    def _columns(self, first: int) -> int:
        """One for each scale."""
        shape = self.input(first + 3).shape
        return math.prod(size for size in shape or () if isinstance(size, int))

    def _weight(self, first: int, shape: tuple[int, ...]) -> ir.Value:
        """A weight of that shape without content, the same for the same codes."""
        codes = self.input(first)
        if codes not in self._weights:
            name = f"{codes.name}.float"
            tensor = ir.ExternalTensor(
                "weights", 0, 4 * math.prod(shape), ir.DataType.FLOAT, shape=ir.Shape(shape), name=name
            )
            self._weights[codes] = ir.Value(
                name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor
            )
            graph = self.node.graph
            assert graph is not None
            graph.register_initializer(self._weights[codes])
        return self._weights[codes]


def _conv_block(layers: _Layers) -> None:
    _activated(layers, layers.integer("residual_at"), 8, lambda: layers.convolution(1, "k"))


def _inverted_residual(layers: _Layers) -> None:
    layers.convolution(1, "expand_k", geometry=False)
    layers.activation("expand_")
    layers.convolution(6, "depthwise_k")
    layers.activation("depthwise_")
    last = lambda: layers.convolution(11, "project_k", geometry=False)  # noqa: E731
    _activated(layers, layers.integer("residual"), 0, last, "project_")


def _activated(layers: _Layers, residual_at: int, residual: int, write: Callable[[], None], prefix: str = "") -> None:
    """A layer, its activation function, and what is added before (1) or behind (2) it."""
    write()
    if residual_at == 1:
        layers.write("Add", layers.input(residual))
    layers.activation(prefix)
    if residual_at == 2:
        layers.write("Add", layers.input(residual))


def _feed_forward(layers: _Layers) -> None:
    layers.product(1, "up_k")
    layers.activation()
    layers.product(8, "down_k")
    layers.activation("down_")
    _added(layers, 15)


def _linear(layers: _Layers) -> None:
    layers.product(1, "k")
    layers.activation()
    _added(layers, 8)


def _added(layers: _Layers, residual: int) -> None:
    """What is added last; a stored value there is nothing."""
    if ir.convenience.get_const_tensor(layers.input(residual)) is None:
        layers.write("Add", layers.input(residual))


def _codes(layers: _Layers) -> None:
    """Floats as codes, or back, are the same numbers; stored weights stay as they are."""
    if ir.convenience.get_const_tensor(layers.value) is not None:
        layers.write(layers.node.op_type, *(one for one in layers.node.inputs[1:] if one is not None))


_WRITERS: Mapping[tuple[str, str], Callable[[_Layers], None]] = {
    (EDGEFOLD, "FusedConvBlock"): _conv_block,
    (EDGEFOLD, "FusedInvertedResidual"): _inverted_residual,
    (EDGEFOLD, "FusedFeedForward"): _feed_forward,
    (EDGEFOLD, "FusedLinear"): _linear,
    (EDGEFOLD, "ShiftConv"): lambda layers: layers.convolution(1, "k"),
    (EDGEFOLD, "FloatConv"): lambda layers: layers.convolution(1, "k"),
    (EDGEFOLD, "ShiftMatMul"): lambda layers: layers.product(1, "k"),
    (EDGEFOLD, "CodeMean"): lambda layers: layers.write("GlobalAveragePool"),
    (EDGEFOLD, "CodeGate"): lambda layers: layers.write("Mul", layers.input(1)),
    ("", "QuantizeLinear"): _codes,
    ("", "DequantizeLinear"): _codes,
}
