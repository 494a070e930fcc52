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
from edgefold.passes._layer_inputs import Inputs, Targets
from edgefold.passes._least_squares import least_squares
from edgefold.passes._moments import Moments
from edgefold.passes._refit import MAX_MOMENT_BYTES
from edgefold.passes._refittable import Layer
from edgefold.passes._weighted_nodes import WeightedNode, node_label, weighted_node
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason
from edgefold.passes.depth.sharing.grouping import Group
from edgefold.passes.depth.sharing.places import SharingStack
from edgefold.passes.pruning.groups import Trace
from edgefold.passes.quantization.weights import layer_inputs

Matrix = NDArray[np.float64]
MAX_ROWS = 8192
"""Rows of inputs that each use of a matrix is fitted on."""
_TINY = 1e-30


def refit_shared(
    model: ir.Model,
    trace: Trace,
    stacks: Sequence[SharingStack],
    groups: Sequence[Group],
    statistics: tuple[Calibrates, Calibrates],
    sweeps: int,
) -> Notes:
    """Refits, in place, the matrices of blocks that share, and those of all later blocks.

    Args:
        model: whose blocks share weights already.
        trace: of the original.
        stacks: of the model.
        groups: of several blocks.
        statistics: of the model, which read its weights as they are when asked, and of the original.
        sweeps: how often to go from the first group to the last: the uses of a matrix in later blocks see what the
            new weights do in earlier ones only in the next sweep.

    Returns:
        An edit for each refitted matrix with its error over its uses, and a Skip for each that stays as it is.
    """
    levels, skips = _levels(model.graph, stacks, groups)
    fits: dict[str, _Fit] = {}
    for _ in range(sweeps):
        for level in levels:
            for fit in _refit_level(level, trace.shapes, *statistics):
                first = fits.get(fit.matrix, fit)
                fits[fit.matrix] = dataclasses.replace(fit, before=first.before)
    edits = tuple(
        Edit(fit.matrix, f"refitted for {fit.uses}: error {fit.before:.3g} -> {fit.after:.3g}") for fit in fits.values()
    )
    return Notes(edits, tuple(skips), _stats(list(fits.values())))


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Error of the outputs of all uses of a matrix over their variance, as it was and as refitted."""

    matrix: str
    uses: str
    before: float
    after: float


Level = list[list[ir.Node]]
"""Matrices whose uses read the same tensors, each as the nodes that apply it."""


def _levels(graph: ir.Graph, stacks: Sequence[SharingStack], groups: Sequence[Group]) -> tuple[list[Level], list[Skip]]:
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


def _refit_level(
    level: Level, shapes: Mapping[str, tuple[int, ...]], changed: Calibrates, original: Calibrates
) -> Iterator[_Fit]:
    """One pass over the data serves all matrices of a level."""
    uses = [[_layer(node, shapes) for node in nodes] for nodes in level]
    requests: dict[Inputs, list[Layer]] = {}
    for layer in (layer for layers in uses for layer in layers):
        requests.setdefault(layer.inputs, []).append(layer)
    targets = {inputs: [layer.targets for layer in layers] for inputs, layers in requests.items()}
    halves = dict(_by_layer(requests, changed.regressions(targets, original)))
    for layers in uses:
        yield _refit(layers, [halves[id(layer)] for layer in layers])


def _by_layer(requests: Mapping[Inputs, list[Layer]], moments: Mapping[Inputs, Halves]) -> Iterator[tuple[int, Halves]]:
    for inputs, layers in requests.items():
        start = 0
        for layer in layers:
            yield id(layer), moments[inputs].targets(slice(start, start + layer.width))
            start += layer.width


def _refit(layers: Sequence[Layer], found: Sequence[Halves]) -> _Fit:
    """Solves for one matrix and the biases of all its uses, and writes them."""
    prior = layers[0].weights()
    centred = [_centred(halves) for halves in found]
    pooled = Halves(_summed([one.even for one in centred]), _summed([one.odd for one in centred]))
    ridge = pooled.best_damping(np.concatenate([prior[:, :-1], np.zeros_like(prior[:, :1])], axis=1))
    matrix = least_squares(pooled.whole.xtx, pooled.whole.xty, damping=ridge, prior=prior[:, :-1])
    errors = []
    for layer, halves in zip(layers, found, strict=True):
        moments = halves.whole
        bias = (moments.target_sums - np.einsum("pk,pkn->pn", moments.sums, matrix)) / moments.count
        fitted = np.concatenate([matrix, bias[:, None]], axis=1)
        errors.append([_relative_error(moments, weights) for weights in (layer.weights(), fitted)])
        layer.write(fitted)
    before, after = np.mean(errors, axis=0)
    uses = f"{len(layers)} use" + ("s" if len(layers) > 1 else "")
    return _Fit(str(layers[0].site.weight.root.name), uses, float(before), float(after))


def _relative_error(moments: Moments, weights: Matrix) -> float:
    variance = moments.target_squares - moments.target_sums**2 / moments.count
    return float(moments.with_bias().error(weights).sum() / max(float(variance.sum()), _TINY))


def _centred(halves: Halves) -> Halves:
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
    inputs = layer_inputs(site)
    assert inputs is not None
    axis = 1 if site.geometry else -2 if site.on_left else -1
    targets = Targets(str(site.output.name), axis, site.geometry.group if site.geometry else 1)
    return Layer(site, inputs, _sum_or_own(site.output, targets, shapes))


def _stats(fits: Sequence[_Fit]) -> Mapping[str, float | int | str]:
    if not fits:
        return {}
    return {
        "refitted": len(fits),
        "error_before": float(np.mean([fit.before for fit in fits])),
        "error_after": float(np.mean([fit.after for fit in fits])),
    }


def _sum_or_own(output: ir.Value, targets: Targets, shapes: Mapping[str, tuple[int, ...]]) -> Targets:
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or uses[0].node.domain not in ("", "ai.onnx"):
        return targets
    total, other = uses[0].node.outputs[0], uses[0].node.inputs[1 - uses[0].idx]
    shape = shapes.get(str(output.name))
    if other is None or other.is_initializer() or shape is None or shapes.get(str(total.name)) != shape:
        return targets
    return dataclasses.replace(targets, tensor=str(total.name), less=str(other.name))
