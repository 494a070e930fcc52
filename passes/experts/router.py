# SPDX-License-Identifier: Apache-2.0
"""The gates of a layer when it has fewer experts: summed over groups, or computed without those that are gone.

Merged experts leave the router alone: the top-k is taken over the old experts, and the gates of a group are added up.
That is exact for what it says, one expert in the place of all members, and such an expert runs once where both choices
fall into its group. Removed experts must not be chosen: their logits become minus infinity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._refittable import store
from edgefold.passes.experts.grouping import Groups

_SEEN_THROUGH = ("Softmax", "Sigmoid", "Cast", "Identity", "Reshape", "Add")
_CHOOSING = ("TopK", "ArgMax")


def membership(groups: Groups) -> NDArray[np.float32]:
    """A row for each of E experts with a 1 in the column of its group, float32 [E, M]."""
    matrix = np.zeros((sum(map(len, groups)), len(groups)), np.float32)
    for number, group in enumerate(groups):
        matrix[list(group), number] = 1
    return matrix


def sum_gates(graph: ir.Graph, gates: ir.Value, groups: Groups) -> ir.Value:
    """The gates of the groups, [T, M]: each adds up the gates of its members.

    The members are picked by booleans: a product with a matrix of ones would be a weight to other passes, which would
    round it or train it, and no gate would be exactly 0 any more.

    Args:
        graph: of the gates.
        gates: [T, E].
        groups: M of them.
    """
    store, dtype = InitializerStore(graph), gates.dtype or ir.DataType.FLOAT
    members = store.add(f"{gates.name}.members", membership(groups).T.astype(bool))
    zero = store.add(f"{gates.name}.none", np.array(0, dtype.numpy()))
    first, last = (store.add(f"{gates.name}.axis", np.array([axis], np.int64)) for axis in (1, -1))
    spread = ir.node("Unsqueeze", [gates, first], name=f"{gates.name}.of_each")
    picked = ir.node("Where", [members, spread.outputs[0], zero], name=f"{gates.name}.of_members")
    summed = ir.node("ReduceSum", [picked.outputs[0], last], {"keepdims": 0}, name=f"{gates.name}.of_groups")
    return _put(graph, gates, [spread, picked, summed], len(groups))


def keep_gates(graph: ir.Graph, gates: ir.Value, kept: Sequence[int]) -> ir.Value:
    """The columns of some experts, [T, len(kept)]; arguments as in `sum_gates`."""
    columns = InitializerStore(graph).add(f"{gates.name}.kept", np.array(kept, np.int64))
    node = ir.node("Gather", [gates, columns], {"axis": 1}, name=f"{gates.name}.of_kept")
    return _put(graph, gates, [node], len(kept))


@dataclasses.dataclass(frozen=True)
class Router:
    """Where the experts of a layer are chosen.

    Attributes:
        choice: the TopK or ArgMax.
        normalized: the Softmax over all experts in front of it, or None.
        logits: [.., E], of the linear map, before any activation.
    """

    choice: ir.Node
    normalized: ir.Node | None
    logits: ir.Value

    def masked(self, graph: ir.Graph, experts: int) -> Mask:
        """Puts a row of E numbers, at first 0, where it is added to what the choice is made by."""
        readers = [one for one in (self.normalized, self.choice) if one is not None]
        dtype = _float_type(self.logits)
        row = InitializerStore(graph).add_own(f"{self.logits.name}.mask", np.zeros(experts, dtype.numpy()))
        added = []
        for reader in readers:
            value = reader.inputs[0]
            assert value is not None
            node = ir.node("Add", [value, row], name=f"{value.name}.masked")
            node.outputs[0].name, node.outputs[0].type = node.name, value.type
            node.outputs[0].shape = value.shape
            graph.insert_before(reader, node)
            reader.replace_input_with(0, node.outputs[0])
            added.append(node)
        return Mask(row, tuple(added), tuple(readers))


@dataclasses.dataclass(frozen=True)
class Mask:
    """Keeps experts from being chosen."""

    row: ir.Value
    nodes: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]

    def keep(self, kept: Sequence[int]) -> None:
        """Only these experts may be chosen."""
        assert self.row.const_value is not None
        row = np.full(self.row.const_value.shape.numpy(), -np.inf)
        row[list(kept)] = 0
        store(self.row, row)

    def remove(self) -> None:
        """Takes it out of the graph again."""
        graph = self.nodes[0].graph
        assert isinstance(graph, ir.Graph)
        for node, reader in zip(self.nodes, self.readers, strict=True):
            reader.replace_input_with(0, node.inputs[0])
            graph.remove(node, safe=True)
        graph.initializers.pop(str(self.row.name))


def find_router(gates: ir.Value) -> Router | None:
    """The nearest choice that the gates depend on; None where there is none."""
    pending, seen = [gates], {gates}
    while pending:
        node = pending.pop(0).producer()
        if node is None:
            continue
        if node.op_type in _CHOOSING and node.domain in ("", "ai.onnx"):
            return _router(node)
        for value in node.inputs:
            if value is not None and value not in seen:
                seen.add(value)
                pending.append(value)
    return None


def _router(choice: ir.Node) -> Router | None:
    normalized: ir.Node | None = None
    value = choice.inputs[0]
    while value is not None and (node := value.producer()) is not None and node.op_type in _SEEN_THROUGH:
        if node.op_type == "Add" and not any(one is not None and one.is_initializer() for one in node.inputs):
            break
        normalized = node if node.op_type == "Softmax" else normalized
        value = next((one for one in node.inputs if one is not None and not one.is_initializer()), None)
    return None if value is None else Router(choice, normalized, value)


def _float_type(value: ir.Value) -> ir.DataType:
    """Its element type; where the graph does not say, that of what it is computed from."""
    node = value.producer()
    known = [value.dtype, *(one.dtype for one in (node.inputs if node else ()) if one is not None)]
    return next((one for one in known if one is not None and one.is_floating_point()), ir.DataType.FLOAT)


def _put(graph: ir.Graph, gates: ir.Value, nodes: Sequence[ir.Node], columns: int) -> ir.Value:
    """Puts nodes right behind the gates; the last one gives new gates."""
    for node in nodes:
        node.outputs[0].name, node.outputs[0].type = node.name, gates.type
    producer = gates.producer()
    if producer is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)
    output = nodes[-1].outputs[0]
    output.shape = ir.Shape([None, columns])
    return output
