# SPDX-License-Identifier: Apache-2.0
"""What a block keeps to itself although it shares a matrix: a scale for each output, and a product of low rank.

    y = (x W + b) * s + (x A) B

The scales s have a closed form, the slope of the wanted outputs on the present ones. A B is the best approximation of
rank r, for the inputs that the use sees, of what its own least-squares solution would add to W (Relaxed Recursive
Transformers, 2410.20672, section 2.3, take the SVD of the difference of the weights; here it is whitened).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._halves import Halves
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._least_squares import least_squares
from edgefold.passes._refittable import Layer
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.base import Edit, Notes, Skip, SkipReason
from edgefold.passes.depth.sharing.factors import shared_basis
from edgefold.passes.depth.sharing.places import SharingStack
from edgefold.passes.depth.sharing.refit import Evidence, Level, about_means, observed

Matrix = NDArray[np.float64]

_SCALES = (0.25, 4.0)  # beyond these a scale is chance, and its bias would be divided by nearly nothing
_TINY = 1e-30


def correct(graph: ir.Graph, levels: Sequence[Level], evidence: Evidence, rank: int, scales: bool) -> Notes:
    """Gives every use of a shared matrix corrections of its own, front to back.

    Args:
        graph: changed in place.
        levels: of `shared_levels`; those with one use each have nothing to correct.
        evidence: of the changed and the original model.
        rank: of the products; 0 for none.
        scales: whether outputs get scales.
    """
    store = InitializerStore(graph)
    edits: list[Edit] = []
    skips: list[Skip] = []
    for level in _use_by_use(graph, levels):
        for [(layer, halves)] in observed(level, evidence):
            if _can_be_corrected(layer.site):
                edits.extend(_correct(graph, store, layer, halves, rank, scales))
            else:
                skips.append(Skip(layer.site.label, SkipReason.TARGET_LACKS_OP, "corrections are for x W only"))
    return Notes(tuple(edits), tuple(skips))


def _use_by_use(graph: ir.Graph, levels: Sequence[Level]) -> list[Level]:
    """One level for each block that shares, in the order of the graph: each sees the corrections of those before."""
    order = {node: index for index, node in enumerate(graph)}
    shared = (level for level in levels if len(level[0]) > 1)
    uses = ([[nodes[use]] for nodes in level] for level in shared for use in range(len(level[0])))
    return sorted(uses, key=lambda level: order[level[0][0]])


def correction_bytes(stack: SharingStack, rank: int, scales: bool) -> int:
    """What the corrections of one block store."""
    return sum(
        int(site.weight.dtype.itemsize) * (rank * (site.k + site.n) + (site.n if scales else 0))
        for place in stack.places
        for site in place.sites(0)
        if _can_be_corrected(site)
    )


def _can_be_corrected(site: WeightedNode) -> bool:
    return site.geometry is None and not site.on_left


def _correct(
    graph: ir.Graph, store: InitializerStore, layer: Layer, halves: Halves, rank: int, scales: bool
) -> Iterator[Edit]:
    [weights] = layer.weights()[:, :-1]
    centred = about_means(halves)
    [gram], [cross] = centred.whole.xtx, centred.whole.xty
    scale = _slopes(weights, gram, cross) if scales else np.ones(weights.shape[1])
    total = weights * scale
    factors: tuple[Matrix, Matrix] | None = None
    if rank:
        ridge = centred.best_damping(np.concatenate([total, np.zeros_like(total[:1])])[None])
        wanted = least_squares(gram, cross, damping=ridge, prior=total)
        basis, [coefficients] = shared_basis([wanted - total], [gram], rank)
        factors = basis, coefficients
        total = total + basis @ coefficients
    moments = halves.whole
    bias = (moments.target_sums[0] - moments.sums[0] @ total) / moments.count
    layer.write(np.concatenate([weights, bias[None] / scale])[None])
    yield Edit(layer.site.label, f"corrections of its own, rank {rank}" + (", scales" if scales else ""))
    _insert(graph, store, layer, scale if scales else None, factors)


def _slopes(weights: Matrix, gram: Matrix, cross: Matrix) -> Matrix:
    """For each output the factor on x W that gives the least squared error."""
    energy = np.einsum("kn,kn->n", weights, gram @ weights)
    slopes: Matrix = np.einsum("kn,kn->n", weights, cross) / np.maximum(energy, _TINY)
    return np.clip(slopes, *_SCALES)


def _insert(
    graph: ir.Graph, store: InitializerStore, layer: Layer, scale: Matrix | None, factors: tuple[Matrix, Matrix] | None
) -> None:
    """Puts the nodes of the corrections behind a layer; what comes last takes over its name and readers."""
    site = layer.site
    dtype = site.weight.dtype.numpy()
    name = site.label

    def stored(what: str, array: Matrix) -> ir.Value:
        return store.add_own(f"{name}.{what}", np.ascontiguousarray(array, dtype=dtype))

    now = weighted_node(site.node)  # a layer without a bias has just got one
    assert isinstance(now, WeightedNode)
    output = now.output
    if scale is not None:
        output = behind(graph, output, "Mul", stored("scales", scale), f"{name}_scaled")
    if factors is not None:
        down = ir.node("MatMul", [site.data, stored("delta_a", factors[0])], name=f"{name}_delta_a")
        up = ir.node("MatMul", [down.outputs[0], stored("delta_b", factors[1])], name=f"{name}_delta_b")
        for node in (down, up):
            node.outputs[0].name, node.outputs[0].dtype = f"{node.name}_output", site.weight.dtype
        graph.insert_before(site.node, [down, up])
        behind(graph, output, "Add", up.outputs[0], f"{name}_corrected")


def behind(graph: ir.Graph, output: ir.Value, op_type: str, operand: ir.Value, name: str) -> ir.Value:
    """A node that takes a value and an operand; its result takes over the name and the readers of the value."""
    node = ir.node(op_type, [output, operand], name=name)
    result = node.outputs[0]
    result.shape, result.type = output.shape, output.type
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    node.replace_input_with(0, output)
    result.name, output.name = output.name, f"{name}_input"
    producer = output.producer()
    assert producer is not None, "a layer makes it"
    graph.insert_after(producer, node)
    return result
