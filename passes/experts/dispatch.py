# SPDX-License-Identifier: Apache-2.0
"""The dispatch form: a mixture-of-experts layer in standard operators, each expert on the tokens routed to it.

Every layer is brought into this form before anything else works on it. Calibration, quantization, low rank and healing
then see experts as the ordinary matrix products they are, whose inputs are the routed tokens and no others::

    y_0 = ConstantOfShape(Shape(x))                              x [T, d], gates [T, M], exactly 0 where not routed
    for e in 0 .. M-1:
        column_e = Gather(gates, e, axis=1)                                                             [T]
        rows_e = Reshape(NonZero(column_e), [-1])                                                       [n], n >= 0
        x_e = Gather(x, rows_e, axis=0)                                                                 [n, d]
        body_e = activation(x_e W_gate + b_gate, x_e W_up + b_up) W_down + b_down                       [n, d]
        y_{e+1} = ScatterND(y_e, Unsqueeze(rows_e, 1), body_e * Unsqueeze(Gather(column_e, rows_e), 1), "add")

Layers in float16 are computed in float32, between two casts: ONNX Runtime's CPU provider adds up by ScatterND in
nothing narrower. Their weights stay float16 in the file, each behind a Cast.

The form is written here and read in `passes.experts.dispatched`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.experts.activation import Expression, write_expression

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Product:
    """``x W + b``.

    Attributes:
        weight: [in, out], a float type.
        bias: [out], or None.
    """

    weight: Array
    bias: Array | None = None


@dataclasses.dataclass(frozen=True)
class Expert:
    """One expert: ``activation(x W_gate + b_gate, x W_up + b_up) W_down + b_down``.

    Attributes:
        inputs: the products that read tokens: gate and up, or only one.
        down: the product that gives the output.
    """

    inputs: tuple[Product, ...]
    down: Product


PRODUCT_NAMES = {1: ("up",), 2: ("gate", "up")}


def write_dispatch(
    graph: ir.Graph,
    layer: str,
    x: ir.Value,
    gates: ir.Value,
    experts: Sequence[Expert],
    activation: Expression,
    *,
    stored: ir.DataType | None = None,
    after: ir.Node | None = None,
) -> ir.Value:
    """Puts a layer in dispatch form into a graph.

    Args:
        graph: the main graph.
        layer: prefix of the names of nodes (``{layer}/experts.0/gate``) and weights (``{layer}.experts.0.gate``).
        x: tokens [T, d], or with more axes before the last.
        gates: [T, M], or with the axes of x and M in the place of d; of the type of x.
        experts: M of them. Products that hold the same memory share an initializer.
        activation: over each expert's `inputs`.
        stored: type of the weights in the file; None for that which they have.
        after: the node behind which the layer is put; None for the end of the graph.

    Returns:
        The layer's output, of the shape and the type of x.
    """
    stored = stored or ir.DataType.from_numpy(experts[0].down.weight.dtype)
    half = x.dtype == ir.DataType.FLOAT16
    writer = _Writer(graph, layer, ir.DataType.FLOAT if stored == ir.DataType.FLOAT16 else stored, stored)
    flat, rows_of_gates = (writer.rows(*one, half) for one in ((x, "tokens"), (gates, "gates")))
    shape = writer.node("Shape", [flat], "shape", ir.DataType.INT64)
    zero = ir.tensor(np.zeros(1, writer.dtype.numpy()))
    total = writer.node("ConstantOfShape", [shape], "zeros", value=zero)
    for number, expert in enumerate(experts):
        total = writer.expert(number, expert, activation, flat, rows_of_gates, total)
    if len(x.shape or ()) != 2:
        total = writer.node("Reshape", [total, writer.node("Shape", [x], "x_shape", ir.DataType.INT64)], "output")
    if half:
        total = writer.node("Cast", [total], "half", ir.DataType.FLOAT16, to=ir.DataType.FLOAT16)
    total.shape = x.shape
    if after is None:
        graph.extend(writer.nodes)
    else:
        graph.insert_after(after, writer.nodes)
    return total


class _Writer:
    """Collects the nodes of one layer."""

    def __init__(self, graph: ir.Graph, layer: str, dtype: ir.DataType, stored: ir.DataType) -> None:
        self.nodes: list[ir.Node] = []
        self.dtype = dtype
        self._layer = layer
        self._stored = stored
        self._store = InitializerStore(graph)
        self._kept: dict[object, ir.Value] = {}

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Adds a node with one output, which has its name."""
        output = ir.Value(name=f"{self._layer}/{name}", type=ir.TensorType(dtype or self.dtype))
        found = ir.convenience.convert_attributes(attributes)
        self.nodes.append(ir.Node("", operator, inputs, found, outputs=[output], name=output.name))
        return output

    def rows(self, value: ir.Value, name: str, half: bool) -> ir.Value:
        """A value with all axes but the last run together, itself where it has two; cast where it is half."""
        if half:
            wide = self.node("Cast", [value], f"{name}_wide", to=self.dtype)
            wide.shape, value = value.shape, wide
        if value.shape is not None and value.shape.rank() == 2:
            return value
        columns = self.node("Shape", [value], f"{name}_size", ir.DataType.INT64, start=-1)
        shape = self.node("Concat", [self._integers([-1]), columns], f"{name}_shape", ir.DataType.INT64, axis=0)
        rows = self.node("Reshape", [value, shape], name)
        rows.shape = None if value.shape is None else ir.Shape([None, value.shape[-1]])
        return rows

    def expert(
        self, number: int, expert: Expert, activation: Expression, x: ir.Value, gates: ir.Value, total: ir.Value
    ) -> ir.Value:
        """Adds one expert's share to the sum over those before it."""
        at = f"experts.{number}"
        index = self._store.add(f"{self._layer}.{number}", np.array(number, np.int64))
        column = self.node("Gather", [gates, index], f"{at}/column", axis=1)
        found = self.node("NonZero", [column], f"{at}/nonzero", ir.DataType.INT64)
        rows = self.node("Reshape", [found, self._integers([-1])], f"{at}/rows", ir.DataType.INT64)
        tokens = self.node("Gather", [x, rows], f"{at}/tokens", axis=0)
        names = PRODUCT_NAMES[len(expert.inputs)]
        hidden = [self._product(one, tokens, at, name) for one, name in zip(expert.inputs, names, strict=True)]
        nodes, result = write_expression(activation, hidden, self._store, f"{self._layer}/{at}", self.dtype)
        self.nodes += nodes
        body = self._product(expert.down, result, at, "down")
        weight = self.node("Gather", [column, rows], f"{at}/weight", axis=0)
        one = self._integers([1])
        scaled = self.node("Mul", [body, self.node("Unsqueeze", [weight, one], f"{at}/weights")], f"{at}/share")
        places = self.node("Unsqueeze", [rows, one], f"{at}/places", ir.DataType.INT64)
        return self.node("ScatterND", [total, places, scaled], f"{at}/sum", reduction="add")

    def _product(self, product: Product, x: ir.Value, at: str, name: str) -> ir.Value:
        weight = self._weight(product.weight, f"{self._layer}.{at}.{name}")
        result = self.node("MatMul", [x, weight], f"{at}/{name}")
        if product.bias is None:
            return result
        bias = self._weight(product.bias, f"{self._layer}.{at}.{name}.bias")
        return self.node("Add", [result, bias], f"{at}/{name}_bias")

    def _weight(self, array: Array, name: str) -> ir.Value:
        view = array.__array_interface__
        memory = (view["data"], array.strides, array.shape)  # tied weights are read into other arrays of one memory
        if memory not in self._kept:
            kept = self._store.add_own(name, np.ascontiguousarray(array, self._stored.numpy()))
            wide = self.dtype == self._stored
            self._kept[memory] = kept if wide else self.node("Cast", [kept], f"{name}/cast", to=self.dtype)
        return self._kept[memory]

    def _integers(self, values: list[int]) -> ir.Value:
        return self._store.add(f"{self._layer}.axes", np.array(values, np.int64))
