# SPDX-License-Identifier: Apache-2.0
"""Repair a model whose blocks were removed, shared or made shallower: the layers that write to the stream are refitted.

A residual stream remembers: what a cut has changed stays in it. Every later layer that adds to the stream is fitted to
the original's stream less what the stream has become, so that it makes up for both, and the layer just before a removed
run may aim at the stream after it. No training, only forward passes; the regression is that of `_refit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import onnx_ir as ir

from edgefold.passes._refit import MAX_ROWS, refit
from edgefold.passes._refittable import Layer, as_layer, summed_with
from edgefold.passes._subgraphs import reads
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.base import Calibrates, Notes, Skip
from edgefold.passes.depth.aims import aims
from edgefold.passes.depth.drift import drifted

Scope = Literal["stream", "all"]


class Uncut:
    """A model before a cut, and what it gives on calibration data: computed once for all repairs of a search.

    Args:
        model: stays as it is.
        calibration: supplies the batches.
    """

    def __init__(self, model: ir.Model, calibration: Calibrates) -> None:
        self.model, self.calibration = model, calibration
        self._seen: dict[int, Calibrates] = {}

    def seen(self, half: int | None) -> Calibrates:
        """Through the model, on the even (0), the odd (1) or all batches (None)."""
        if half is None:  # the search is over: what it remembers goes
            self._seen.clear()
            return self.calibration.through(self.model, max_rows=MAX_ROWS)
        if half not in self._seen:
            self._seen[half] = self.calibration.through(self.model, max_rows=MAX_ROWS, half=half, remembers=True)
        return self._seen[half]


def repair_depth(
    model: ir.Model,
    uncut: Uncut,
    targets: Mapping[str, str],
    *,
    half: int | None = None,
    scope: Scope = "stream",
    damping: float | None = None,
    exclude: Callable[[str], bool] = lambda node: False,
) -> Notes:
    """Refits, in place, the layers that write to the residual stream of a changed model.

    Args:
        model: changed; values that it shares with the original have the same names.
        uncut: before the change.
        targets: names of stream values of the model -> names of the values of the original that they should equal. For
            a removed run of blocks: the value before it -> the value after it. Empty is allowed: all other layers aim
            at the value of their own name.
        half: of the batches, on which the layers are refitted; None for all.
        scope: `stream` refits the layers that are added to something (output and down projections, the last
            convolution of a block), `all` every layer whose inputs have changed.
        damping: as in `refit`.
        exclude: names of nodes that must not be touched.

    Returns:
        An edit for each refitted layer, a Skip for each one that keeps its weights although it has an error to make up
        for, and as stats the mean relative error of what they write before and after. A layer whose weights other nodes
        use too gets a new bias only.

    Raises:
        ValueError: a target names a value that the models do not have.
    """
    aimed = aims(model, uncut.model, targets)
    layers, skips = _layers(model, uncut.model, aimed.sums, scope, exclude)
    changed = uncut.calibration.through(model, max_rows=MAX_ROWS, half=half)
    notes = refit(layers, changed, uncut.seen(half), damping)
    return dataclasses.replace(notes, edits=(*aimed.edits, *notes.edits), skips=(*aimed.skips, *skips, *notes.skips))


def _layers(
    model: ir.Model,
    original: ir.Model,
    sums: Mapping[str, str],
    scope: Scope,
    exclude: Callable[[str], bool],
) -> tuple[list[Layer], list[Skip]]:
    """The layers to refit, in the order of the graph, each with its target, and those that stay as they are."""
    known = ir.convenience.create_value_mapping(original.graph, include_subgraphs=False)
    latest: dict[ir.Value, int] = {}  # the last layer that a value depends on
    found: list[Layer] = []
    skips: list[Skip] = []
    drift = drifted(model, original)
    for node in model.graph:
        after = max((latest.get(value, 0) for value in reads(node)), default=0)
        layer = as_layer(node, exclude, bias_of_shared=True)
        if layer is not None and _damaged(node, drift, sums, scope):
            if isinstance(layer, Skip):
                skips.append(layer)
            elif layer.targets.tensor in known:  # a layer that the original lacks has nothing to aim at
                found.append(dataclasses.replace(layer, number=len(found) + 1, after=after))
                after = len(found)
        latest.update((value, after) for value in node.outputs)
    return [_with_target(layer, sums, latest) for layer in found], skips


def _damaged(node: ir.Node, drift: set[ir.Value], sums: Mapping[str, str], scope: Scope) -> bool:
    """Whether a layer within the scope has something to make up for."""
    site = weighted_node(node)
    output = site.output if isinstance(site, WeightedNode) else node.outputs[0]
    total, _ = summed_with(output) or (None, None)
    if total is None:
        return output.name in sums or (scope == "all" and output in drift)
    return output in drift or total in drift or total.name in sums


def _with_target(layer: Layer, sums: Mapping[str, str], latest: Mapping[ir.Value, int]) -> Layer:
    """The layer with the sum that it is a term of as its target, where the other term is there before it runs."""
    total, other = summed_with(layer.site.output) or (None, None)
    if total is None or other is None or latest.get(other, 0) >= layer.number:
        own = layer.targets.tensor
        return dataclasses.replace(layer, targets=dataclasses.replace(layer.targets, tensor=sums.get(own, own)))
    name = str(total.name)
    return layer.aiming_at(sums.get(name, name), str(other.name), latest.get(other, 0))
