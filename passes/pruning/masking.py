# SPDX-License-Identifier: Apache-2.0
"""The oracle of the pruning: the model uncut, with every channel that a cut would remove set to zero.

It knows nothing of operators. All that a removed channel could tell any reader is zero, and so is what a parameter
holds for it; a cut model that differs has lost, moved or rescaled something else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgefold.passes.pruning.evaluation import element_types
from edgefold.passes.pruning.groups import AxisKey, Dependencies, IntArray, Pruned, Trace
from edgefold.passes.pruning.surgery import Array

_WHERE = 9  # the opset that brought it


def masked(model: ir.Model, dependencies: Dependencies, trace: Trace, pruned: Pruned) -> ir.Model:
    """A copy of a model in which the pruned units are zero wherever they are read.

    Args:
        model: prepared, and not changed.
        dependencies: of the model.
        trace: of the model. Axes whose length varies (batch x heads) are masked where they are apart again.
        pruned: the units of each group.
    """
    copy = model.clone()
    types = element_types(model)
    dead = _dead(trace, dependencies.kept(pruned))
    for name, value in copy.graph.initializers.items():
        if name in dead and value.const_value is not None and value.const_value.dtype.is_floating_point():
            array = np.where(dead[name], np.zeros((), value.const_value.numpy().dtype), value.const_value.numpy())
            value.const_value = ir.tensor(array, dtype=value.const_value.dtype, name=name)
    for node in list(copy.graph.all_nodes()):
        for output in node.outputs:
            dtype = types.get(str(output.name))
            if output.name in dead and dtype is not None and dtype.is_floating_point():
                _mask(copy.graph, node, output, dead[output.name], dtype)
    return copy


def _mask(graph: ir.Graph, node: ir.Node, output: ir.Value, dead: Array, dtype: ir.DataType) -> None:
    if graph.opset_imports.get("", 1) < _WHERE:
        alive = _initializer(graph, f"{output.name}:alive", (~dead).astype(dtype.numpy()))
        chosen = ir.node("Mul", [alive, output], name=f"{output.name}:masked")
    else:
        # Not Mul: what a removed channel holds may be infinite by now.
        gone = _initializer(graph, f"{output.name}:removed", dead)
        zero = _initializer(graph, f"{output.name}:zero", np.zeros((), dtype.numpy()))
        chosen = ir.node("Where", [gone, zero, output], name=f"{output.name}:masked")
    result = chosen.outputs[0]
    result.name = f"{output.name}:masked"
    output.replace_all_uses_with(result, replace_graph_outputs=True)  # of a body: the interface keeps its channels
    chosen.replace_input_with(len(chosen.inputs) - 1, output)
    assert node.graph is not None
    node.graph.insert_after(node, chosen)


def _initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _dead(trace: Trace, kept: Mapping[AxisKey, IntArray]) -> dict[str, Array]:
    """For each value a bool array that broadcasts against it: True where an index of any axis is removed."""
    dead: dict[str, Array] = {}
    for (name, axis), indices in kept.items():
        if (name, axis) in trace.dynamic:
            continue
        shape = trace.shapes[name]
        gone = np.ones(shape[axis], bool)
        gone[indices] = False
        gone = gone.reshape([-1 if one == axis else 1 for one in range(len(shape))])
        dead[name] = dead.get(name, np.zeros((), bool)) | gone
    return dead
