# SPDX-License-Identifier: Apache-2.0
"""Bring any exporter's graph into the one form that channels can be cut from: every constant an initializer of its own.

Exporters store one tensor for many uses: a vector ``[64]`` may be the shape of one Reshape and the axes of a Slice.
A use that is rewritten must not change the others, so that every use gets an initializer of its own; the tensors
behind them stay shared in memory, and `share` joins again what is still equal.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgefold.passes._subgraphs import give_by_nodes
from edgefold.passes.pruning.bodies import open_bodies
from edgefold.passes.pruning.evaluation import evaluate, store_output

Ties = tuple[tuple[str, ...], ...]
"""Names of the initializers that were one matrix (float, of two dimensions or more), so that they stay one."""

_EDGEFOLD = "ai.edgefold"
_ORIGIN = "edgefold.origin"  # key in a value's meta: name of the initializer that it was
# They move or repeat stored elements; anything that computes stays in the graph.
_MOVES = frozenset(
    ("Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size",
     "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze")
)  # fmt: skip


def prepare(model: ir.Model) -> Ties:
    """Rewrite a model in place without changing what it computes.

    Functions are inlined; every node and value has a unique name, those of the interface as before; constants are
    initializers of the main graph and no inputs; nodes that move stored elements are folded; each use has its own
    initializer, in bodies of If, Loop and Scan too.

    Args:
        model: the caller's own; its tensors are shared with the result and never written to.

    Returns:
        The genuine ties.
    """
    ir.passes.Sequential(
        common.InlinePass(criteria=lambda function: function.domain != _EDGEFOLD),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveInitializersFromInputsPass(),
    )(model)
    give_by_nodes(model)
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
    )(model)
    open_bodies(model)
    model.ir_version = max(model.ir_version, 4)  # older ones want every initializer to be an input as well
    for graph in list(model.graphs()):
        _fold(graph, model.graph)
    return _one_a_use(model.graph)


def share(model: ir.Model) -> None:
    """Join initializers of the main graph that were one before `prepare` and are equal still."""
    kept: dict[str, list[ir.Value]] = {}
    for name, value in list(model.graph.initializers.items()):
        origin = value.meta.pop(_ORIGIN, None)
        if origin is None:
            continue
        known = kept.setdefault(origin, [])
        equal = next((other for other in known if _equal(other, value)), None)
        if equal is None or value.is_graph_output():
            known.append(value)
            continue
        value.replace_all_uses_with(equal)
        model.graph.initializers.pop(name)


def _fold(graph: ir.Graph, main: ir.Graph) -> None:
    opset = main.opset_imports.get("", 1)
    for node in list(graph):
        if node.domain == "" and node.op_type in _MOVES and _may_fold(node):
            arrays = [None if value is None else _tensor(value).numpy() for value in node.inputs]
            for output, array in zip(node.outputs, evaluate(node, arrays, opset), strict=True):
                store_output(main, output, np.asarray(array))
            read = {value for value in node.inputs if value is not None}
            graph.remove(node, safe=True)
            for value in read:
                if not value.uses() and not value.is_graph_output():
                    main.initializers.pop(str(value.name))


def _may_fold(node: ir.Node) -> bool:
    """Whether all inputs are stored, and the result is no second copy of a matrix that stays in the graph."""
    stored = all(value is None or (value.is_initializer() and value.const_value is not None) for value in node.inputs)
    if not stored or any(output.is_graph_output() or not output.name for output in node.outputs):
        return False
    return all(
        value is None or len(value.uses()) == 1 or not _is_matrix(_tensor(value)) or node.op_type in ("Shape", "Size")
        for value in node.inputs
    )


def _one_a_use(graph: ir.Graph) -> Ties:
    ties: list[tuple[str, ...]] = []
    taken = set(graph.initializers) | {str(value.name) for node in graph.all_nodes() for value in node.outputs}
    taken |= {str(value.name) for one in (graph, *graph.subgraphs()) for value in one.inputs}
    for name, value in list(graph.initializers.items()):
        if value.const_value is None:
            continue
        uses, given = list(value.uses()), value.is_graph_output()  # under its name, which therefore stays its own
        copies = [name] if uses and not given else []
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        for use in uses if given else uses[1:]:
            fresh = next(one for one in numbered if one not in taken)
            taken.add(fresh)
            use.node.replace_input_with(use.idx, _copy(graph, value, fresh))
            copies.append(fresh)
        if len(copies) > 1 or given:
            value.meta[_ORIGIN] = name
        if len(copies) > 1 and _is_matrix(value.const_value):
            ties.append(tuple(copies))
    return tuple(ties)


def _copy(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
    copy.meta[_ORIGIN] = value.name
    graph.register_initializer(copy)
    return copy


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _is_matrix(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_floating_point() and len(tensor.shape) >= 2


def _equal(first: ir.Value, second: ir.Value) -> bool:
    one, other = _tensor(first), _tensor(second)
    if one is other:
        return True
    same_form = one.dtype == other.dtype and tuple(one.shape) == tuple(other.shape)
    return same_form and one.tobytes() == other.tobytes()
