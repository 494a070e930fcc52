# SPDX-License-Identifier: Apache-2.0
"""Remove units from a graph: every parameter, attribute and vector of sizes on every axis that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgefold.passes.base import Edit
from edgefold.passes.pruning import cut_layers, cut_sizes, size_vectors
from edgefold.passes.pruning.evaluation import store_output
from edgefold.passes.pruning.groups import AxisKey, Dependencies, Exactness, IntArray, Pruned, Trace
from edgefold.passes.pruning.surgery import Surgery

_REWRITES = {**cut_sizes.REWRITES, **cut_layers.REWRITES}


def cut(model: ir.Model, dependencies: Dependencies, trace: Trace, pruned: Pruned) -> list[Edit]:
    """Remove units in place.

    What a removed unit would have given its readers is taken as zero: a mean over channels of an exact group is
    multiplied by the share that stays, and the epsilon and gain of a root mean square normalization by its inverse,
    so that the cut model equals the one in which these channels are zero.

    Args:
        model: prepared.
        dependencies: of the model.
        trace: of the model.
        pruned: the units of each group to remove; at least one unit of every axis must stay.

    Returns:
        What was done; nothing where nothing is pruned.

    Raises:
        PreconditionError: a node takes what decides on its channels from the data. The analysis freezes these, so
            that this is an error of the analysis.
    """
    kept = dependencies.kept(pruned)
    if not kept:
        return []
    _freeze_static(model.graph, trace)
    surgery = Surgery(model, trace, kept, _inexact(dependencies, pruned))
    nodes = list(model.graph.all_nodes())
    for node in nodes:
        _cut_parameters(surgery, node, kept)
    for node in nodes:
        size_vectors.follow(surgery, node)
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None and node.domain in ("", "ai.onnx") and surgery.concerns(node):
            rewrite(surgery, node)
    for body in model.graph.subgraphs():
        size_vectors.settle(surgery, body)
    _refresh_shapes(model, kept)
    common.RemoveUnusedNodesPass()(model)
    return surgery.edits


def _freeze_static(graph: ir.Graph, trace: Trace) -> None:
    """Store what was computed from sizes that never vary: channels, and floats such as 1 / sqrt(head size).

    A size that shapes an axis is rewritten afterwards like any literal; a float keeps the value that it had.
    """
    for node in list(graph.all_nodes()):
        arrays = [trace.static(str(output.name)) for output in node.outputs]
        if any(array is None or output.is_graph_output() for array, output in zip(arrays, node.outputs, strict=True)):
            continue
        for output, array in zip(node.outputs, arrays, strict=True):
            store_output(graph, output, np.asarray(array))
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def _inexact(dependencies: Dependencies, pruned: Pruned) -> frozenset[AxisKey]:
    names = {group.name for group in dependencies.groups if group.exactness == Exactness.STATISTICS}
    return frozenset(dependencies.kept({name: units for name, units in pruned.items() if name in names}))


def _cut_parameters(surgery: Surgery, node: ir.Node, kept: Mapping[AxisKey, IntArray]) -> None:
    for position, value in enumerate(node.inputs):
        if value is None or not value.is_initializer() or value.const_value is None:
            continue
        if position in cut_sizes.INDICES.get(node.op_type, ()) or not surgery.changes(value):
            continue
        array = value.const_value.numpy()
        before = array.shape
        if before != surgery.before(value):
            continue  # read by two nodes, and cut already
        for axis in range(array.ndim):
            if (str(value.name), axis) in kept:
                array = np.take(array, surgery.kept(value, axis), axis)
        value.const_value = ir.tensor(np.ascontiguousarray(array), dtype=value.const_value.dtype, name=value.name)
        value.shape = ir.Shape(array.shape)
        surgery.note(node, f"{value.name} {_text(before)} -> {_text(array.shape)}")


def _refresh_shapes(model: ir.Model, kept: Mapping[AxisKey, IntArray]) -> None:
    """Stored shapes of activations follow; dimensions with a name keep it."""
    for value in (*_activations(model), *(value for body in model.graph.subgraphs() for value in body.inputs)):
        shape = value.shape
        if shape is None:
            continue
        sizes = [
            len(kept[str(value.name), axis]) if isinstance(size, int) and (str(value.name), axis) in kept else size
            for axis, size in enumerate(shape)
        ]
        value.shape = ir.Shape(sizes)


def _activations(model: ir.Model) -> Iterator[ir.Value]:
    return (value for node in model.graph.all_nodes() for value in node.outputs)


def _text(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))
