# SPDX-License-Identifier: Apache-2.0
"""Gates at the ends of parts: one model, and so one session, that stands for every choice of parts to remove."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.depth.blocks import Part
from edgefold.passes.pruning.evaluation import element_types


def gated(model: ir.Model, parts: Sequence[Part]) -> tuple[ir.Model, tuple[str, ...]]:
    """A copy of the model in which the end of each part is ``end + (g - 1) (end - start)``, behind the name of `end`.

    With g = 1 a part is what it was, to the last bit; with g = 0 it is out, up to the rounding of one subtraction; in
    between it is mixed, and the output has a derivative by g everywhere, also at 1, where learning begins. The form is
    the gate of FoldGPT (arXiv 2407.00928), ``start + g (end - start)``, rearranged.

    Args:
        model: holds the parts in its main graph; not changed.
        parts: they may follow one another, but none lies inside another.

    Returns:
        The copy, and the names of its gates: inputs of type float32 and shape [1] whose default is 1.
    """
    copy = model.clone()
    copies = dict(zip(_values(model), _values(copy), strict=True))
    types = element_types(model)
    store = InitializerStore(copy.graph)
    one = store.add_own("gate:one", np.ones(1, np.float32))
    gates = []
    for part in parts:
        gate = store.add_own(f"gate:{part.end.name}", np.ones(1, np.float32))
        copy.graph.inputs.append(gate)
        # What reads an end reads its gate from now on, the part behind it too.
        start, end = copies[part.start], copies[part.end]
        copies[part.end] = _gate(copy.graph, start, end, gate, one, types.get(str(part.end.name), ir.DataType.FLOAT))
        gates.append(str(gate.name))
    return copy, tuple(gates)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """The values of the main graph, in the same order in every copy."""
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _gate(
    graph: ir.Graph, start: ir.Value, end: ir.Value, gate: ir.Value, one: ir.Value, dtype: ir.DataType
) -> ir.Value:
    """Puts a gate behind `end`, for all its readers and under its name."""
    nodes = [ir.node("Sub", [gate, one])]
    if dtype != ir.DataType.FLOAT:
        nodes.append(ir.node("Cast", nodes[-1].outputs, {"to": dtype.value}))
    share = nodes[-1].outputs[0]
    nodes.append(ir.node("Sub", [end, start]))
    nodes.append(ir.node("Mul", [share, nodes[-1].outputs[0]]))
    nodes.append(ir.node("Add", [end, nodes[-1].outputs[0]]))
    result = nodes[-1].outputs[0]
    result.shape, result.type = end.shape, end.type
    for position, node in enumerate(nodes):
        node.name = f"{end.name}:gate{position}"
        node.outputs[0].name = node.name
    producer = end.producer()
    assert producer is not None, "a node of the part makes its end"
    graph.insert_after(producer, nodes)
    own = set(nodes)
    for reader, position in list(end.uses()):
        if reader not in own:
            reader.replace_input_with(position, result)
    for position, output in enumerate(graph.outputs):
        if output is end:
            graph.outputs[position] = result
    end.name, result.name = f"{end.name}:ungated", end.name
    return result
