# SPDX-License-Identifier: Apache-2.0
"""Feed-forward bodies: one or two products, an activation, a product, and what routes tokens through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgefold.passes.experts.activation import Expression, Operand, is_affine, read_expression, swapped
from edgefold.passes.experts.dispatch import Expert, Product
from edgefold.passes.experts.recognition.matrices import MOVES, Array, Factor, Linear, Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Body:
    """``activation(x W_gate, x W_up) W_down`` as a graph has it, of one expert or of all in one.

    Attributes:
        inputs: gate and up, or only one.
        activation: over them.
        down: the last product, all of its columns.
        output: the value behind it, with its bias.
        sources: the values that the tokens pass through on their way in, from the first to what `inputs` multiply.
        routes: what may say which weights the tokens meet, and how much comes out.
    """

    inputs: tuple[Linear, ...]
    activation: Expression
    down: Linear
    output: ir.Value
    sources: tuple[ir.Value, ...]
    routes: tuple[ir.Value, ...]

    @property
    def count(self) -> int | None:
        """How many experts it stands for; None where its matrices are of one."""
        sizes = {len(one.factor.matrix.array) for one in self._linears if one.factor.matrix.array.ndim == 3}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def picks(self) -> bool:
        """Whether only some of the tokens go in."""
        makers = (value.producer() for value in self.sources)
        return any(node is not None and node.op_type in ("Gather", "GatherND") for node in makers)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Its products."""
        return tuple(one.factor.node for one in self._linears)

    @property
    def _linears(self) -> tuple[Linear, ...]:
        return (*self.inputs, self.down)

    def experts(self) -> list[Expert]:
        """The experts that it stands for, in the order of their numbers."""
        return [
            Expert(tuple(_product(one, number) for one in self.inputs), _product(self.down, number))
            for number in range(self.count or 1)
        ]


def find_bodies(graph: ir.Graph, weights: Weights) -> Iterator[Body]:
    """The feed-forward bodies of a graph, in the order of their last products, routed or not."""
    for node in graph:
        factor = weights.factor(node)
        body = None if factor is None else _body(factor, weights)
        if body is not None:
            yield body


def _product(linear: Linear, expert: int) -> Product:
    weight, bias = linear.weight(expert), linear.bias_of(expert)
    return Product(weight, None if bias is None else bias.astype(weight.dtype))


def _body(down: Factor, weights: Weights) -> Body | None:
    inputs: list[Linear] = []

    def operand(value: ir.Value) -> Expression | None:
        found = weights.linear(value)
        if found is None:
            return None
        position = next((number for number, known in enumerate(inputs) if known.same(found)), len(inputs))
        if position == len(inputs):
            inputs.append(found)
        return Operand(position)

    activation = read_expression(down.data, operand, through=MOVES)
    if activation is None or isinstance(activation, Operand) or not 1 <= len(inputs) <= 2:
        return None
    if len(inputs) == 2 and is_affine(activation, 0) and not is_affine(activation, 1):
        inputs.reverse()
        activation = swapped(activation)
    chains = zip(*(sources_of(one.factor.data) for one in inputs), strict=False)
    sources = [first for first, *rest in chains if set(rest) <= {first}]
    last = Linear(down, down.bias, np.arange(down.matrix.array.shape[-1]))
    output, bias, gates = _behind(last, weights)
    last = dataclasses.replace(last, bias=bias)
    chosen = [value for one in (*inputs, last) for value in (*one.factor.matrix.routes, *one.routes)]
    routes = (*chosen, *down.others, *gates)
    return Body(tuple(inputs), activation, last, output, tuple(sources), routes) if sources else None


def sources_of(data: ir.Value) -> list[ir.Value]:
    """The values from which features come unchanged, farthest first."""
    values = [data]
    while (node := values[0].producer()) is not None and node.op_type in (*MOVES, "Gather", "GatherND"):
        before = node.inputs[0]
        if before is None or before.is_initializer():
            break
        values.insert(0, before)
    return values


def _behind(down: Linear, weights: Weights) -> tuple[ir.Value, Array | None, list[ir.Value]]:
    """The output with its bias, the bias, and what the output is multiplied with afterwards."""
    output, bias = down.factor.node.outputs[0], down.bias
    value = output
    while len(uses := list(value.uses())) == 1:
        node = uses[0].node
        others = [one for one in node.inputs if one is not None and one is not value]
        if node.op_type in MOVES:
            value = node.outputs[0]
        elif node.op_type == "Add" and bias is None and (found := weights.linear(node.outputs[0])) is not None:
            output = value = node.outputs[0]
            bias = found.bias
        else:
            return output, bias, others if node.op_type in ("Mul", "MatMul", "Einsum") else []
    return output, bias, []
