# SPDX-License-Identifier: Apache-2.0
"""Products with stored weights as exporters write those of experts: one matrix each, all stacked, or gathered."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant, trace_constant
from edgefold.passes.pruning.groups import Trace

Array = npt.NDArray[Any]

MOVES = frozenset(("Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"))
"""Operators that carry the features of a token along without computing with them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Stored weights of one expert, or of all.

    Attributes:
        array: [in, out], or [E, in, out].
        routes: the values that choose among the E for every token; none where all are used, or one by its number.
    """

    array: Array
    routes: tuple[ir.Value, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """A node that multiplies features by weights.

    Attributes:
        node: MatMul, Gemm or Einsum.
        data: what it multiplies.
        matrix: the weights.
        others: further operands of an Einsum: gates.
        bias: of a Gemm, [out].
    """

    node: ir.Node
    data: ir.Value
    matrix: Matrix
    others: tuple[ir.Value, ...] = ()
    bias: Array | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Some columns of a product with its bias.

    Attributes:
        factor: the product.
        bias: [out] or [E, out], of all columns; or None.
        columns: which, int64.
        routes: the values that choose among the biases.
    """

    factor: Factor
    bias: Array | None
    columns: npt.NDArray[np.int64]
    routes: tuple[ir.Value, ...] = ()

    def weight(self, expert: int) -> Array:
        """[in, columns], of one expert."""
        array = self.factor.matrix.array
        matrix: Array = array[expert] if array.ndim == 3 else array
        return matrix if len(self.columns) == matrix.shape[1] else matrix[:, self.columns]

    def bias_of(self, expert: int) -> Array | None:
        """[columns], of one expert."""
        if self.bias is None:
            return None
        return (self.bias[expert] if self.bias.ndim == 2 else self.bias)[self.columns]

    def same(self, other: Linear) -> bool:
        """Whether both are the same columns of the same product."""
        return self.factor.node is other.factor.node and np.array_equal(self.columns, other.columns)


class Weights:
    """Reads products from a graph; each node is looked at once.

    Args:
        trace: shapes and small values, where a slice's limits are computed from shapes.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._factors: dict[ir.Node, Factor | None] = {}

    def factor(self, node: ir.Node | None) -> Factor | None:
        """What a node multiplies with which weights; None where it does not."""
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node not in self._factors:
            read = {"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum}.get(node.op_type)
            self._factors[node] = None if read is None else read(node)
        return self._factors[node]

    def linear(self, value: ir.Value | None) -> Linear | None:
        """The product, bias and columns behind a value; None where something else computes it."""
        node = None if value is None else value.producer()
        if value is None or node is None or node.domain not in ("", "ai.onnx"):
            return None
        if (factor := self.factor(node)) is not None:
            return Linear(factor, factor.bias, np.arange(factor.matrix.array.shape[-1]))
        if node.op_type in MOVES:
            return self.linear(node.inputs[0])
        if node.op_type == "Add":
            return self._biased(node)
        if node.op_type in ("Split", "Slice"):
            found = self.linear(node.inputs[0])
            chosen = None if found is None else self._chosen(value, node, found.columns)
            return None if found is None or chosen is None else dataclasses.replace(found, columns=chosen)
        return None

    def _biased(self, node: ir.Node) -> Linear | None:
        for data, addend in (node.inputs, tuple(reversed(node.inputs))):
            bias = _gathered(addend)
            found = None if bias is None else self.linear(data)
            if bias is not None and found is not None and found.bias is None:
                rows = np.squeeze(bias.array)
                if rows.ndim in (1, 2) and rows.shape[-1] == len(found.columns) > 1:
                    return dataclasses.replace(found, bias=rows, routes=bias.routes)
        return None

    def _chosen(self, value: ir.Value, node: ir.Node, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """The columns that a Slice or Split leaves, if they run along its axis."""
        if node.op_type == "Split":
            stored = self._integers(node, 1)
            parts = len(node.outputs)
            sizes = [-(-len(columns) // parts)] * parts if stored is None else stored
            ends = np.cumsum(sizes)
            return columns[ends[value.index() or 0] - sizes[value.index() or 0] : ends[value.index() or 0]]
        starts, ends_, steps = (self._integers(node, position) for position in (1, 2, 4))
        if starts is None or ends_ is None or len(starts) != 1:
            return None
        return columns[int(starts[0]) : int(ends_[0]) : 1 if steps is None else int(steps[0])]

    def _integers(self, node: ir.Node, position: int) -> list[int] | None:
        if len(node.inputs) <= position or node.inputs[position] is None:
            return None
        value = node.inputs[position]
        assert value is not None
        stored = small_constant(value)
        found = self._trace.static(str(value.name)) if stored is None else stored
        return None if found is None else [int(one) for one in found.reshape(-1)]


def _matrix(value: ir.Value | None) -> Matrix | None:
    """The weights behind a value: stored, one of a stack, or gathered from a stack for every token."""
    found = _gathered(value)
    if found is None or found.array.dtype.kind != "f":
        return None
    return found if found.array.ndim == 3 or (found.array.ndim == 2 and not found.routes) else None


def _gathered(value: ir.Value | None) -> Matrix | None:
    stored = trace_constant(value)
    if stored is not None:
        return Matrix(stored.array())
    node = None if value is None else value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs:
        return None
    if node.op_type in ("Gather", "GatherND"):
        table, index = trace_constant(node.inputs[0]), node.inputs[1]
        if table is None or index is None or node.attributes.get_int("axis", 0) != 0:
            return None
        number = small_constant(index)
        if number is not None:
            return Matrix(table.array()[int(number.reshape(-1)[0])]) if number.size == 1 else None
        return Matrix(table.array(), (index,)) if len(table.shape) in (2, 3) else None
    inner = _gathered(node.inputs[0]) if node.op_type in ("Cast", "Transpose", "Unsqueeze", "Identity") else None
    if inner is None or node.op_type != "Transpose":
        return inner
    order = node.attributes.get_ints("perm", None) or list(reversed(range(inner.array.ndim)))
    if len(order) != inner.array.ndim or (inner.routes and order[0] != 0):
        return None
    return dataclasses.replace(inner, array=np.transpose(inner.array, order))


def _matmul(node: ir.Node) -> Factor | None:
    left, right = node.inputs
    if (matrix := _matrix(right)) is not None and left is not None:
        return Factor(node, left, matrix)
    if (matrix := _matrix(left)) is not None and right is not None:
        return Factor(node, right, dataclasses.replace(matrix, array=np.swapaxes(matrix.array, -1, -2)))
    return None


def _gemm(node: ir.Node) -> Factor | None:
    data, matrix = node.inputs[0], _matrix(node.inputs[1])
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if matrix is None or data is None or node.attributes.get_int("transA", 0) == 1 or not plain:
        return None
    if node.attributes.get_int("transB", 0):
        matrix = dataclasses.replace(matrix, array=matrix.array.T)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return Factor(node, data, matrix)
    bias = _gathered(node.inputs[2])
    return None if bias is None else Factor(node, data, matrix, bias=np.squeeze(bias.array))


def _einsum(node: ir.Node) -> Factor | None:
    """``td,edf->tef`` and its like: the first of three labels of the weights numbers the experts."""
    terms, _, result = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    labels = [(value, term) for value, term in zip(node.inputs, terms.split(","), strict=False) if value is not None]
    found = [(value, term, _matrix(value)) for value, term in labels]
    weights = [(value, term, matrix) for value, term, matrix in found if matrix is not None]
    if len(weights) != 1:
        return None
    [(value, term, matrix)] = weights
    for data, read in labels:
        summed = [label for label in term[-2:] if label in read and label not in result]
        made = [label for label in term[-2:] if label in result and label not in read]
        if data is not value and len(summed) == len(made) == 1:
            order = [*range(len(term) - 2), term.index(summed[0]), term.index(made[0])]
            others = tuple(one for one, _ in labels if one is not value and one is not data)
            return Factor(node, data, dataclasses.replace(matrix, array=np.transpose(matrix.array, order)), others)
    return None
