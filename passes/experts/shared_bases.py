# SPDX-License-Identifier: Apache-2.0
"""One basis for the inputs and one for the outputs of all experts of a layer: the layer in a narrower space.

Gate and up share the basis V of their inputs, so that z = x V is computed once a token for all its experts; down shares
the basis B of its outputs, so that what the experts give is added up in few numbers and multiplied by B once a token.
Between the two the layer is one of narrower experts, and stays in dispatch form. The non-linearity stands between, so
that the other sides, outputs of gate and up and inputs of down, could share storage only, and no work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._least_squares import damped, least_squares
from edgefold.passes.experts.dispatch import Array, Expert, Product
from edgefold.passes.experts.dispatched import DispatchedLayer, replace_dispatched
from edgefold.passes.experts.evidence import Evidence
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.experts.refit import joint

Matrix = NDArray[np.float64]

_DAMPING = 1e-6  # of the mean diagonal; only a basis is taken from it


@dataclasses.dataclass(frozen=True)
class Narrowed:
    """A layer between two shared bases.

    Attributes:
        first: float64 [d, r], of the inputs.
        experts: from r numbers to r.
        last: float64 [r, n], of the outputs, with orthonormal rows.
    """

    first: Matrix
    experts: Sequence[FeedForward]
    last: Matrix


def rank_for(experts: Sequence[FeedForward], share: float) -> int:
    """The rank of both bases at which this share of the experts' weights is stored; 0 where there is none."""
    whole = experts[0].weights
    d, f, n = whole.inputs[0].weight.shape[0], experts[0].width, experts[0].outputs
    matrices = len(whole.inputs)
    weights = len(experts) * f * (matrices * d + n)
    rank = int(share * weights / (d + n + len(experts) * f * (matrices + 1)))
    return rank if rank < min(d, n) else 0


def narrowed(experts: Sequence[FeedForward], evidence: Evidence, rank: int) -> Narrowed:
    """The layer of this rank whose output is nearest to what is wanted, its last matrices refitted jointly."""
    first = _input_basis(experts, evidence.x, rank)
    last = _output_basis(experts, evidence, rank)
    z = evidence.x @ first.astype(evidence.x.dtype)
    columns = evidence.gates.T != 0
    inner = [_between(one, evidence.x[routed], first, last) for one, routed in zip(experts, columns, strict=True)]
    wanted = evidence.wanted @ last.T.astype(evidence.wanted.dtype)
    return Narrowed(first, joint(inner, evidence.gates, z, wanted), last)


def write_narrowed(graph: ir.Graph, layer: DispatchedLayer, found: Narrowed) -> None:
    """Puts a narrowed layer in the place of a layer in dispatch form."""
    store, start = InitializerStore(graph), layer.nodes[0]
    output, name, dtype = layer.output, layer.name, found.experts[0].weights.down.weight.dtype
    bases = [
        store.add_cast(f"{name}.{place}_basis", matrix.astype(dtype), layer.stored, start)
        for place, matrix in (("first", found.first), ("last", found.last))
    ]
    first = _product(layer.x, bases[0], f"{name}/first_basis")
    graph.insert_before(start, first)
    members = [one.weights for one in found.experts]
    inner = replace_dispatched(graph, layer, layer.gates, members, x=first.outputs[0])
    last = _product(inner, bases[1], f"{name}/last_basis")
    producer = inner.producer()
    assert producer is not None
    inner.replace_all_uses_with(last.outputs[0], replace_graph_outputs=True)
    last.replace_input_with(0, inner)
    graph.insert_after(producer, last)
    last.outputs[0].shape = output.shape
    inner.name, last.outputs[0].name = f"{name}/narrow", inner.name
    inner.shape = ir.Shape([None, len(found.last)])


def _input_basis(experts: Sequence[FeedForward], x: Array, rank: int) -> Matrix:
    """The r directions from which all experts' first products together are told best, float64 [d, r].

    With X'X = L L' they are L'^-1 Q, Q the leading left singular vectors of L' [W_1 .. W_E].
    """
    rows = x.astype(np.float64)
    factor = np.linalg.cholesky(damped(rows.T @ rows, _DAMPING)).T
    gram = np.zeros_like(factor)
    for product in (product for expert in experts for product in expert.weights.inputs):
        seen = factor @ product.weight
        gram += seen @ seen.T
    return np.linalg.solve(factor, _leading(gram, rank))


def _output_basis(experts: Sequence[FeedForward], evidence: Evidence, rank: int) -> Matrix:
    """The r directions in which the gated outputs of the experts are strongest, float64 [r, n]."""
    gram = np.zeros((experts[0].outputs,) * 2)
    for expert, gate in zip(experts, evidence.gates.T, strict=True):
        rows = np.flatnonzero(gate)
        outputs = (gate[rows, None] * expert(evidence.x[rows])).astype(np.float64)
        gram += outputs.T @ outputs
    return _leading(gram, rank).T


def _leading(gram: Matrix, rank: int) -> Matrix:
    _, vectors = np.linalg.eigh(gram)
    return np.ascontiguousarray(vectors[:, : -rank - 1 : -1])


def _between(expert: FeedForward, x: Array, first: Matrix, last: Matrix) -> FeedForward:
    """One expert in the narrow space: its first matrices fitted on its own rows, its last one projected."""
    rows = x.astype(np.float64)
    z = rows @ first
    weights = expert.weights

    def fitted(product: Product) -> Product:
        matrix = least_squares(z.T @ z, z.T @ (rows @ product.weight))
        return Product(matrix.astype(product.weight.dtype), product.bias)

    bias = None if weights.down.bias is None else (weights.down.bias @ last.T).astype(weights.down.bias.dtype)
    down = Product((weights.down.weight @ last.T).astype(weights.down.weight.dtype), bias)
    return FeedForward(Expert(tuple(map(fitted, weights.inputs)), down), expert.activation)


def _product(value: ir.Value, matrix: ir.Value, name: str) -> ir.Node:
    node = ir.node("MatMul", [value, matrix], name=name)
    output = node.outputs[0]
    assert matrix.shape is not None
    output.name, output.type, output.shape = name, value.type, ir.Shape([None, matrix.shape[1]])
    return node
