# SPDX-License-Identifier: Apache-2.0
"""Low-rank changes of weights, as ordinary nodes while they are trained and folded into the weights afterwards.

``W' = W + B A`` (LoRA, Hu et al. 2021, section 4.1), or with a donor weight D of the same shape, as FuseGPT injects a
removed block (arXiv 2411.14507, section 3.2), ``W' = W + B A + (P Q) * D``. B and P start at zero, so that nothing
changes before the first step; the donor's term has full rank although only P and Q are trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes.heal import SIZE_OF_ZEROS

Float = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """The adapter of one stored weight; a kernel of a convolution counts as the matrix [outputs, all others].

    Attributes:
        weight: the initializer that is adapted, of any number of dimensions from two on.
        low_rank: B [rows, rank] and A [rank, columns].
        donated: P and Q of the same shapes, and D of the weight's shape; empty without a donor.
        nodes: what computes W', the last one its output.
        initializers: all that stands beside the weight for it.
    """

    weight: ir.Value
    low_rank: tuple[ir.Value, ir.Value]
    donated: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    initializers: tuple[ir.Value, ...]

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the initializers to train."""
        return tuple(str(value.name) for value in (*self.low_rank, *self.donated[:2]))

    def change(self) -> Float:
        """W' - W as the factors stand, float32 of the weight's shape."""
        shape = _array(self.weight).shape
        b, a = (_array(value) for value in self.low_rank)
        change: Float = (b @ a).reshape(shape)
        if self.donated:
            p, q, donor = (_array(value) for value in self.donated)
            change = change + (p @ q).reshape(shape) * donor
        return change.astype(np.float32, copy=False)


def pays(shape: Sequence[int], rank: int) -> bool:
    """Whether an adapter of that rank has fewer numbers than a weight of that shape."""
    return len(shape) >= 2 and rank * (shape[0] + math.prod(shape[1:])) < math.prod(shape)


def attach(
    model: ir.Model, weights: Mapping[str, ir.TensorProtocol | None], rank: int, seed: int
) -> tuple[Adapter, ...]:
    """Put an adapter beside each of some weights, in place; the model computes what it did.

    Args:
        model: float32 initializers of its main graph are adapted, for all their readers at once.
        weights: name of an initializer -> its donor, or None.
        rank: of the factors, at least 1.
        seed: of A and Q.
    """
    random = np.random.default_rng(seed)
    return tuple(_attached(model.graph, name, donor, rank, random) for name, donor in weights.items())


def fold(model: ir.Model, adapters: Sequence[Adapter]) -> None:
    """Add what was trained to the weights and take the adapters out, in place; an untrained one leaves no trace."""
    graph = model.graph
    for adapter in adapters:
        weight, change = adapter.weight, adapter.change()
        ir.convenience.replace_all_uses_with(adapter.nodes[-1].outputs[0], weight)
        graph.remove(adapter.nodes, safe=True)
        for value in adapter.initializers:
            del graph.initializers[str(value.name)]
        if change.any():
            weight.const_value = ir.tensor(_array(weight) + change, name=weight.name)


def _attached(
    graph: ir.Graph, name: str, donor: ir.TensorProtocol | None, rank: int, random: np.random.Generator
) -> Adapter:
    weight = graph.initializers[name]
    array = _array(weight)
    rows, columns = len(array), array[0].size
    # An optimizer that steps relative to each tensor takes zeros for tensors of a certain size: with the other factor
    # of this deviation, a step moves the product as far as it would have moved the weight.
    deviation = 1 / (SIZE_OF_ZEROS * math.sqrt(rank))
    size = float(np.sqrt(np.square(array, dtype=np.float64).mean()))
    writer = _Writer(graph, name, array.shape)
    readers = [(use.node, use.idx) for use in weight.uses()]
    low_rank = writer.factors("lora", rows, columns, rank, deviation * size, random)
    changed = writer.node("Add", weight, writer.product("lora", low_rank))
    donated: tuple[ir.Value, ...] = ()
    if donor is not None:
        factors = writer.factors("donor", rows, columns, rank, deviation, random)
        donated = (*factors, writer.initializer("donor_weight", donor.numpy()))
        changed = writer.node("Add", changed, writer.node("Mul", writer.product("donor", factors), donated[2]))
    for node, position in readers:
        node.replace_input_with(position, changed)
    graph.insert_before(graph[0], writer.nodes)  # also before the subgraphs that read the weight
    return Adapter(weight, low_rank, donated, tuple(writer.nodes), tuple(writer.initializers))


class _Writer:
    """Collects the nodes of one adapter, all named after its weight."""

    def __init__(self, graph: ir.Graph, weight: str, shape: tuple[int, ...]) -> None:
        self._graph, self._weight, self._shape = graph, weight, shape
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def initializer(self, role: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(name=f"{self._weight}.{role}", const_value=ir.tensor(array))
        value.dtype, value.shape = ir.DataType(value.const_value.dtype), ir.Shape(array.shape)  # type: ignore[union-attr]
        self._graph.register_initializer(value)
        self.initializers.append(value)
        return value

    def node(self, operator: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(operator, inputs, name=f"{self._weight}.adapter_{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_output"
        node.outputs[0].dtype = ir.DataType.FLOAT
        self.nodes.append(node)
        return node.outputs[0]

    def factors(
        self, role: str, rows: int, columns: int, rank: int, deviation: float, random: np.random.Generator
    ) -> tuple[ir.Value, ir.Value]:
        """Zeros [rows, rank], and normal [rank, columns] of some deviation."""
        right = deviation * random.standard_normal((rank, columns))
        return (
            self.initializer(f"{role}_left", np.zeros((rows, rank), np.float32)),
            self.initializer(f"{role}_right", right.astype(np.float32)),
        )

    def product(self, role: str, factors: tuple[ir.Value, ir.Value]) -> ir.Value:
        """The factors' product in the weight's shape."""
        product = self.node("MatMul", *factors)
        if len(self._shape) == 2:
            return product
        return self.node("Reshape", product, self.initializer(f"{role}_shape", np.array(self._shape, np.int64)))


def _array(value: ir.Value) -> NDArray[Any]:
    assert value.const_value is not None, "adapters are of initializers"
    return value.const_value.numpy()
