# SPDX-License-Identifier: Apache-2.0
"""A copy of a model whose outputs are tensors from its inside, from the bodies of If, Loop and Scan too.

A body gives a tensor as one more output. The other branch of an If gives an empty one in its place, so that what is
empty was not computed in a run; what all iterations of a Loop or Scan gave is joined along the first axis, vectors as
the rows of a matrix: their one axis is that of the features, which a layer reads as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgefold.errors import ModelError
from edgefold.passes._subgraphs import bodies, is_control, nodes_of

Array = np.ndarray[Any, Any]
_OWN = "edgefold-outside"


class Exposed:
    """A copy of a model, which shares its tensors, with the named tensors as its only outputs.

    Args:
        model: not changed; the names of its values are unique.
        names: of tensors.
        as_shapes: the shapes of the tensors as they leave the main graph in place of their values.

    Raises:
        ModelError: a tensor that there is not, that an operator keeps to itself, or whose type in a body is unknown.

    Attributes:
        model: the copy.
        outputs: names of its outputs, in the order of the tensors.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], *, as_shapes: bool = False) -> None:
        self.model = model.clone()
        self._names = list(names)
        self._loops: dict[str, int] = {}
        values = _values(self.model)
        if any(name in values and values[name].dtype is None for name in names):
            common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(self.model)
        holders = {body: node for node in nodes_of(self.model.graph) for body in bodies(node) if is_control(node)}
        self.model.graph.outputs.clear()
        for number, name in enumerate(self._names):
            if name not in values:
                raise ModelError(f"the model has no tensor '{name}'")
            value = values[name]
            while value.graph is not self.model.graph:
                value = _given(_holder(holders, value), value, f"{name}:{_OWN}{number}")
                self._loops[name] = self._loops.get(name, 0) + (_producer(value).op_type != "If")
            self.model.graph.outputs.append(_shape(value, number) if as_shapes else value)
        if self._loops:
            _leave_out_the_rest(self.model)
        self.outputs = [str(value.name) for value in self.model.graph.outputs]
        self._as_shapes = as_shapes

    def read(self, arrays: Sequence[Array]) -> dict[str, Array]:
        """The tensors by name, from the outputs of one run; without those of bodies that did not run."""
        found = dict(zip(self._names, arrays, strict=True))
        if self._as_shapes:
            return found
        return {name: array for name, array in self._joined(found) if array.size or name not in self._loops}

    def _joined(self, found: dict[str, Array]) -> Iterator[tuple[str, Array]]:
        for name, array in found.items():
            loops = self._loops.get(name, 0)
            kept = array.shape[loops + (array.ndim != loops + 1) :]
            yield name, array.reshape(-1, *kept) if loops and array.size else array


def _values(model: ir.Model) -> dict[str, ir.Value]:
    """All values, by name; of several with one name that of the main graph."""
    found: dict[str, ir.Value] = {}
    for graph in model.graphs():
        produced = (value for node in graph for value in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *produced):
            found.setdefault(str(value.name), value)
    return found


def _holder(holders: dict[ir.Graph, ir.Node], value: ir.Value) -> ir.Node:
    graph = value.graph
    if not isinstance(graph, ir.Graph) or graph not in holders:
        raise ModelError(f"tensor '{value.name}' is inside an operator that does not give it")
    if value.dtype is None:
        raise ModelError(f"tensor '{value.name}' is inside a body and of unknown type")
    return holders[graph]


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _given(holder: ir.Node, value: ir.Value, name: str) -> ir.Value:
    """A value of a body as one more output of the node that has the body."""
    assert value.dtype is not None
    for place, body in enumerate(bodies(holder)):
        if body is value.graph:
            node = ir.node("Identity", [value], name=f"{name}:{place}")
            node.outputs[0].shape = value.shape  # ONNX Runtime asks it where nothing runs
        else:
            nothing = ir.tensor(np.zeros(0, value.dtype.numpy()))
            node = ir.node("Constant", [], {"value": nothing}, name=f"{name}:{place}")
        node.outputs[0].name, node.outputs[0].dtype = f"{holder.name}:{name}:{place}", value.dtype
        body.append(node)
        body.outputs.append(node.outputs[0])
    for attribute in ("scan_output_axes", "scan_output_directions"):
        if attribute in holder.attributes:
            given = [*holder.attributes[attribute].as_ints(), 0]
            holder.attributes[attribute] = ir.AttrInt64s(attribute, given)
    holder.resize_outputs(len(holder.outputs) + 1)
    holder.outputs[-1].name, holder.outputs[-1].dtype = f"{holder.name}:{name}", value.dtype
    return holder.outputs[-1]


def _leave_out_the_rest(model: ir.Model) -> None:
    """Branches compute nothing that is not read any more: a layer-by-layer repair runs them once a layer."""
    before, count = 0, -1
    while before != count:
        before = count
        for node in nodes_of(model.graph):
            if node.op_type == "If":
                _empty_unread(node)
        common.RemoveUnusedNodesPass()(model)
        count = sum(1 for _ in model.graph.all_nodes())


def _empty_unread(choice: ir.Node) -> None:
    """Outputs of an If that nothing reads become empty tensors of their types, where these are known."""
    for number, value in enumerate(choice.outputs):
        given = [body.outputs[number] for body in bodies(choice)]
        if value.uses() or value.is_graph_output() or any(one.dtype is None for one in given):
            continue
        for body, one in zip(bodies(choice), given, strict=True):
            assert one.dtype is not None
            node = ir.node("Constant", [], {"value": ir.tensor(np.zeros(0, one.dtype.numpy()))})
            node.outputs[0].name, node.outputs[0].dtype = f"{one.name}:{_OWN}-empty", one.dtype
            body.append(node)
            body.outputs[number] = node.outputs[0]
        value.shape = None


def _shape(value: ir.Value, number: int) -> ir.Value:
    node = ir.node("Shape", [value], name=f"{value.name}:{_OWN}-shape{number}")
    node.outputs[0].name, node.outputs[0].dtype = node.name, ir.DataType.INT64
    graph = value.graph
    assert isinstance(graph, ir.Graph)
    graph.append(node)
    return node.outputs[0]
