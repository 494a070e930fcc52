# SPDX-License-Identifier: Apache-2.0
"""Shared matrices solved anew for all their uses at once: what one block's weights lack for another is made up for.

For a matrix W with uses l in several blocks the best weights and private biases are those that solve

    min sum_l v_l |X_l W + b_l - Y_l|^2 + ridge * |W - W_0|^2

with X_l the inputs of the use in the changed model, Y_l what it gave in the original, v_l one over the variance of Y_l,
and W_0 the weights as shared. A use that is added to the stream aims at the sum in the original, so that it also makes
up for what the blocks before it have lost. The ridge is the one by which each half of the batches is predicted best
from the other. This is the asymmetric repair of pruning with the moments of the uses added up; blocks of their own
after the first shared one are refitted by the same equation with one use.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._halves import Halves
from edgefold.passes._layer_inputs import Inputs, Rows
from edgefold.passes._least_squares import least_squares
from edgefold.passes._moments import Moments
from edgefold.passes._refit import MAX_MOMENT_BYTES
from edgefold.passes._refittable import Layer, layer_of, summed_with
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs, node_label, weighted_node
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason
from edgefold.passes.depth.sharing.grouping import Group
from edgefold.passes.depth.sharing.places import SharingStack

Matrix = NDArray[np.float64]
Level = list[list[ir.Node]]
"""Matrices whose uses read the same tensors, each as the nodes that apply it."""

MAX_ROWS = 8192
"""Rows of inputs that each use of a matrix is fitted on."""
_JUDGED_ROWS = 1024  # of the outputs, which may be as wide as a vocabulary
_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a refit goes by.

    Attributes:
        changed: statistics of the model that shares weights; read those weights as they are when asked.
        original: of the model before.
        shapes: of the tensors of the original.
    """

    changed: Calibrates
    original: Calibrates
    shapes: Mapping[str, tuple[int, ...]]

    def error(self, outputs: Sequence[str]) -> float:
        """Squared error of the outputs of the changed model over their energy, added up."""
        requests = [Rows(name) for name in outputs]
        got, wanted = (one.rows(requests, _JUDGED_ROWS) for one in (self.changed, self.original))
        return sum(
            float(np.square(got[request] - wanted[request]).sum() / max(np.square(wanted[request]).sum(), _TINY))
            for request in requests
        )


def refit_levels(model: ir.Model, levels: Sequence[Level], evidence: Evidence, sweeps: int) -> Notes:
    """Refits, in place, matrices level by level, from the first to the last.

    A first solution takes the inputs of the original for X_l, because those of the changed model are far from where
    they will end. Then come the sweeps from the first group to the last; what new weights do in one block the uses in
    later ones see in full only in the next sweep. The weights with the least error of the outputs are kept.

    Args:
        model: changed; the nodes are its own.
        levels: what to refit, in the order of the graph.
        evidence: of the two models.
        sweeps: at least 1.

    Returns:
        An edit for each refitted matrix with its error over its uses; nothing without levels.
    """
    if not levels:
        return Notes()
    outputs = [str(value.name) for value in model.graph.outputs]
    _give_biases(levels, evidence.shapes)
    best = _Weights.of(model.graph, evidence.error(outputs))
    before = best.error
    fits: dict[str, _Fit] = {}
    try:
        for level in (level for level in levels if len(level[0]) > 1):
            _refit_level(level, dataclasses.replace(evidence, changed=evidence.original))
        for _ in range(sweeps):
            found = {fit.matrix: fit for level in levels for fit in _refit_level(level, evidence)}
            error = evidence.error(outputs)
            if error < best.error:
                best, fits = _Weights.of(model.graph, error), found
    finally:
        best.restore(model.graph)
    worse = Skip("model", SkipReason.FALLBACK, "the refit made the outputs worse: weights stay as shared")
    edits = tuple(Edit(fit.matrix, fit.what) for fit in fits.values())
    return Notes(
        edits, () if fits else (worse,), {"refitted": len(fits), "error_before": before, "error_after": best.error}
    )


def _give_biases(levels: Sequence[Level], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives every use the bias that it has, or zero, as a tensor of its own, so that weights can be put back."""
    for layer in (_layer(node, shapes) for level in levels for nodes in level for node in nodes):
        layer.write(layer.weights())


@dataclasses.dataclass(frozen=True)
class _Weights:
    """The stored tensors of a graph, and the error of the outputs that they give."""

    tensors: Mapping[ir.Value, ir.TensorProtocol | None]
    error: float

    @classmethod
    def of(cls, graph: ir.Graph, error: float) -> _Weights:
        return cls({value: value.const_value for value in graph.initializers.values()}, error)

    def restore(self, graph: ir.Graph) -> None:
        """Puts them back."""
        for value in graph.initializers.values():
            value.const_value = self.tensors[value]


@dataclasses.dataclass(frozen=True)
class _Fit:
    """What a refit did to one matrix."""

    matrix: str
    what: str


def shared_levels(
    graph: ir.Graph, stacks: Sequence[SharingStack], groups: Sequence[Group]
) -> tuple[list[Level], list[Skip]]:
    """What is refitted together, in the order of the graph: group by group, and in each by what the matrices read."""
    first = min(number for group in groups for number in group.blocks)
    grouped = {number: group.blocks for group in groups for number in group.blocks}
    order = {node: index for index, node in enumerate(graph)}
    levels: list[Level] = []
    skips: list[Skip] = []
    for stack in stacks:
        for blocks in dict.fromkeys(grouped.get(number, (number,)) for number in stack.numbers if number >= first):
            found: dict[tuple[Inputs | None, ...], Level] = {}
            for place in stack.places:
                nodes = [node for number in blocks for node in place.nodes[number - stack.first]]
                refusal = _refusal(nodes)
                if refusal is None:
                    found.setdefault(tuple(map(_inputs, nodes)), []).append(nodes)
                else:
                    skips.append(refusal)
            levels.extend(sorted(found.values(), key=lambda level: order[level[0][0]]))
    return levels, skips


def _refusal(nodes: Sequence[ir.Node]) -> Skip | None:
    """Why a matrix keeps its weights; None where all that reads it can be fitted."""
    for node in nodes:
        site = weighted_node(node)
        if not isinstance(site, WeightedNode) or site.kind == "gather":
            return Skip(node_label(node), SkipReason.TARGET_LACKS_OP, f"{node.op_type} keeps its weights, no refit")
        if site.weight.views:
            return Skip(site.label, SkipReason.NOT_CONSTANT, "its weights stand behind other nodes, no refit")
        runs = site.geometry.group if site.geometry else 1
        if 8 * runs * site.k**2 > MAX_MOMENT_BYTES:
            return Skip(site.label, SkipReason.RANK, f"{site.k} inputs are too many to refit")
    return None


def _inputs(node: ir.Node) -> Inputs | None:
    site = weighted_node(node)
    assert isinstance(site, WeightedNode)
    return layer_inputs(site)


def observed(level: Level, evidence: Evidence) -> list[list[tuple[Layer, Halves]]]:
    """The uses of each matrix of a level with their moments; one pass over the data serves all of them."""
    uses = [[_layer(node, evidence.shapes) for node in nodes] for nodes in level]
    requests: dict[Inputs, list[Layer]] = {}
    for layer in (layer for layers in uses for layer in layers):
        requests.setdefault(layer.inputs, []).append(layer)
    targets = {inputs: [layer.targets for layer in layers] for inputs, layers in requests.items()}
    halves = dict(_by_layer(requests, evidence.changed.regressions(targets, evidence.original)))
    return [[(layer, halves[id(layer)]) for layer in layers] for layers in uses]


def _refit_level(level: Level, evidence: Evidence) -> list[_Fit]:
    return [_refit(uses) for uses in observed(level, evidence)]


def _by_layer(requests: Mapping[Inputs, list[Layer]], moments: Mapping[Inputs, Halves]) -> Iterator[tuple[int, Halves]]:
    for inputs, layers in requests.items():
        start = 0
        for layer in layers:
            yield id(layer), moments[inputs].targets(slice(start, start + layer.width))
            start += layer.width


def _refit(uses: Sequence[tuple[Layer, Halves]]) -> _Fit:
    """Solves for one matrix and the biases of all its uses, and writes them."""
    prior = uses[0][0].weights()
    centred = [about_means(halves) for _, halves in uses]
    pooled = Halves(_summed([one.even for one in centred]), _summed([one.odd for one in centred]))
    ridge = pooled.best_damping(np.concatenate([prior[:, :-1], np.zeros_like(prior[:, :1])], axis=1))
    matrix = least_squares(pooled.whole.xtx, pooled.whole.xty, damping=ridge, prior=prior[:, :-1])
    errors = []
    for layer, halves in uses:
        moments = halves.whole
        bias = (moments.target_sums - np.einsum("pk,pkn->pn", moments.sums, matrix)) / moments.count
        fitted = np.concatenate([matrix, bias[:, None]], axis=1)
        errors.append([_relative_error(moments, weights) for weights in (layer.weights(), fitted)])
        layer.write(fitted)
    before, after = np.mean(errors, axis=0)
    told = f"{len(uses)} uses" if len(uses) > 1 else "one use"
    return _Fit(str(uses[0][0].site.weight.root.name), f"refitted for {told}: error {before:.3g} -> {after:.3g}")


def _relative_error(moments: Moments, weights: Matrix) -> float:
    variance = moments.target_squares - moments.target_sums**2 / moments.count
    return float(moments.with_bias().error(weights).sum() / max(float(variance.sum()), _TINY))


def about_means(halves: Halves) -> Halves:
    """Moments about the means over both halves, for targets of variance one: a use has a bias of its own."""
    whole = halves.whole
    mean, target = whole.mean(), whole.target_sums / whole.count
    variance = (whole.target_squares - whole.target_sums**2 / whole.count).sum() / whole.count
    scale = 1 / max(float(variance), _TINY)
    return Halves(*(_about(half, mean, target, scale) for half in (halves.even, halves.odd)))


def _about(moments: Moments, mean: Matrix, target: Matrix, scale: float) -> Moments:
    count = moments.count
    sums, target_sums = moments.sums - count * mean, moments.target_sums - count * target
    xtx = moments.xtx - mean[:, :, None] * moments.sums[:, None] - sums[:, :, None] * mean[:, None]
    xty = moments.xty - mean[:, :, None] * moments.target_sums[:, None] - sums[:, :, None] * target[:, None]
    squares = moments.target_squares - 2 * target * moments.target_sums + count * target**2
    return Moments(xtx * scale, sums * scale, xty * scale, target_sums * scale, squares * scale, count)


def _summed(moments: Sequence[Moments]) -> Moments:
    return functools.reduce(operator.add, moments)


def _layer(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> Layer:
    site = weighted_node(node)
    assert isinstance(site, WeightedNode)
    layer = layer_of(site)
    assert layer is not None
    total, other = summed_with(site.output) or (None, None)
    if total is None or other is None or str(total.name) not in shapes:
        return layer
    whole = shapes[str(total.name)]
    if shapes.get(str(site.output.name), whole) != whole:  # a term that the original lacks is of the sum's shape
        return layer
    return layer.aiming_at(str(total.name), str(other.name))
