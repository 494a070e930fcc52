# SPDX-License-Identifier: Apache-2.0
"""Prune-channels: whole channels, heads and neurons go from any graph, and what reads them is refitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.passes._constants import trace_constant
from edgefold.passes._names import matches
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import (
    OPTION,
    Calibrates,
    Context,
    Effect,
    Notes,
    Pass,
    PreconditionError,
    Skip,
    SkipReason,
)
from edgefold.passes.pruning.analysis import Analysis
from edgefold.passes.pruning.budget import Budget, Goal, macs, parameters
from edgefold.passes.pruning.candidates import Attention, candidates
from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.groups import Group
from edgefold.passes.pruning.importance import Aggregate, Normalize
from edgefold.passes.pruning.latency import latency
from edgefold.passes.pruning.outcome import outcome
from edgefold.passes.pruning.prepare import share
from edgefold.passes.pruning.repair import repair
from edgefold.passes.pruning.scoring import Criterion, Scorer
from edgefold.passes.pruning.selection import Limits, Ranking, Selection, classes_of, per_saving, select

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Floor = Annotated[float, msgspec.Meta(ge=0, le=1)]
Multiple = Annotated[int, msgspec.Meta(ge=1)]
Importance = Literal["random", "l1", "l2", "activation", "taylor", "snip", "grasp", "crop", "obs", "obspa"]

_QUANTIZED = frozenset(("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits"))
HALF = 0.5  # of the multiply-accumulates, where no budget is given


class GroupOverride(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other limits for the groups that a node belongs to; of several that match a group the last one holds.

    Attributes:
        match: a node name or glob.
        floor: share of the units that stay; 1 leaves the group alone.
        multiple: of channels.
    """

    match: str
    floor: Floor | None = None
    multiple: Multiple | None = None

    def fits(self, group: Group) -> bool:
        """Whether it is meant for a group, by the name of a node of it."""
        return any(matches(one.node, self.match) for one in group.slices)


class PruneChannels(Pass, frozen=True, kw_only=True):
    """Removes channels, attention heads and hidden neurons with everything that depends on them, and refits the rest.

    What it does: every index of every axis of every tensor is labelled; indices that must vanish together are a unit,
    units that lie on the same parameters a group (Structurally Prune Anything, 2403.18955). The least important
    units go until the budget is met: their slices of all parameters, and what counts them in attributes and shape
    constants. Then the layers after them are refitted, by least squares, to give their original outputs on the
    calibration data.

    When it fires: on float models of any exporter, before training, after it, or before healing; in the bodies of If,
    Loop and Scan too, whose layers are judged by their weights and not refitted.

    When it does not: on graphs that ONNX Runtime has fused or that hold quantized nodes, which are refused with advice.
    Channels of graph inputs and outputs stay, and those of operators without a rule; each operator that holds channels
    is listed with the reason.

    Numerics: lossy. Apart from the refit, removing units equals setting them to zero where they are summed; with
    ``statistics``, normalizations see fewer channels.

    Example: ``Conv(Relu(Conv(x, W)), V)`` with W [64, 3, 3, 3] and V [32, 64, 3, 3] keeps its three nodes; the weights
    become W' [40, 3, 3, 3] and V' [32, 40, 3, 3].

    Attributes:
        flops: share of the multiply-accumulates that stays; 0.5 where no budget is given.
        params: share of the parameters that stays.
        latency: share of the time in ONNX Runtime that stays, by the times of its operators on one thread, which are
            measured once on a machine and kept in the user's cache folder, or in the file that the environment
            variable EDGEFOLD_OPERATOR_TIMES names.
        importance: `random`; by weights `l1`, `l2`; by inputs `activation`; by gradients, which need torch
            (``edgefold[heal]``), `taylor`, `snip`, `grasp`, `crop`; `obs`, the error that removal leaves in the
            readers after they are refitted; `obspa`, `obs` with least-squares repair.
        aggregate: of the scores of a unit's slices; `obs` always takes the sum.
        normalize: scores of a group by a statistic of them; `auto` is `none` for `obs`, `mean` for the others.
        ranking: `global` compares all groups, `isomorphic` groups of the same structure, `uniform` units of a group.
        weigh: whether scores are divided by the share of the budget that a unit saves; `auto` does so for `obs`, whose
            scores are errors that add up.
        floor: share of each group that stays.
        multiple: to which the number of channels that stay is rounded up, as far as there are so many. ONNX Runtime
            computes convolutions in blocks of 8 or 16 channels, so that 8 is faster at equal work, at some accuracy.
        attention: where an axis is heads times dimensions: whole `heads` go, `dims` of every head, or `both`.
        statistics: whether units may go that a LayerNormalization averages over; first its mean is taken out by the
            layers before it, where nothing else reads their sum.
        repair: `least-squares` of every layer after a cut, `bias` only, or `none`.
        data: what `obs` and the repair look at: `calibration`, `noise` with the calibration's mean and deviation, or
            `none`, standard noise. Without a task it is `none`.
        overrides: other limits for single groups.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    flops: Share | None = None
    params: Share | None = None
    latency: Share | None = None
    importance: Importance = "obspa"
    aggregate: Aggregate = "sum"
    normalize: Literal["auto"] | Normalize = "auto"
    ranking: Ranking = "global"
    weigh: Literal["auto"] | bool = "auto"
    floor: Floor = 0.1
    multiple: Multiple = 1
    attention: Attention = "heads"
    statistics: bool = False
    repair: Literal["least-squares", "bias", "none"] = "least-squares"
    data: Literal["calibration", "noise", "none"] = "calibration"
    overrides: tuple[GroupOverride, ...] = ()

    def __post_init__(self) -> None:
        if self.importance == "obspa" and self.repair != "least-squares":
            raise ValueError(f"importance obspa is obs with least-squares repair; take obs for repair {self.repair}")

    def requires(self, model: ir.Model) -> None:
        if any(OPTION in value.metadata_props for value in model.graph.inputs):
            raise PreconditionError("model", "an input chooses its depth; prune it before elastic-depth")
        for node in model.graph.all_nodes():
            if node.domain == "ai.edgefold" or node.op_type in _QUANTIZED or _holds_codes(node):
                raise PreconditionError(node_label(node), f"{node.op_type} is quantized; prune before quantizing")
            if node.domain.startswith("com.microsoft"):
                why = f"{node.op_type} was fused by ONNX Runtime; prune the model as it was before its optimizer"
                raise PreconditionError(node_label(node), why)

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if context.probe is None:
            return Notes(skips=(Skip("model", SkipReason.DYNAMIC_SHAPE, "it has to be run once, and nothing can be"),))
        known = Analysis.of(model, context.probe, centre=self.statistics)
        found = candidates(known, attention=self.attention, statistics=self.statistics, excludes=context.excludes)
        budget = self._budget(known, found.groups, context)
        data, no_data = self._data(context)
        selection, fallbacks = self._select(known, found.groups, budget, data, context)
        unused = (one.match for one in self.overrides if not any(map(one.fits, found.groups)))
        skips = (*(Skip(name, SkipReason.NO_MATCH) for name in unused), *fallbacks, *found.skips)
        stats = outcome(selection, budget, known.dependencies, found)
        if not selection.pruned:
            return Notes(skips=skips, stats=stats)
        original = model.clone()
        edits = cut(model, known.dependencies, known.trace, selection.pruned)
        refit = self._refit(known, original, selection, data, context)
        share(model)
        return Notes((*known.centred, *edits, *refit.edits), (*no_data, *refit.skips, *skips), {**stats, **refit.stats})

    def _limits(self, group: Group) -> Limits:
        floor, multiple = self.floor, self.multiple
        for override in self.overrides:
            if override.fits(group):
                floor = floor if override.floor is None else override.floor
                multiple = multiple if override.multiple is None else override.multiple
        return Limits(floor, multiple)

    def _budget(self, known: Analysis, groups: Sequence[Group], context: Context) -> Budget:
        flops = HALF if self.flops is None and self.params is None and self.latency is None else self.flops
        goals = []
        if flops is not None:
            goals.append(Goal.of("flops", macs(known.dependencies, known.trace), flops))
        if self.params is not None:
            goals.append(Goal.of("params", parameters(known.parameters, known.ties, known.trace), self.params))
        if self.latency is not None:
            if context.operator_times is None:
                raise UsageError("prune-channels: nothing here measures the times that latency needs; take flops")
            goals.append(Goal.of("latency", latency(known, groups, context.operator_times), self.latency))
        return Budget(tuple(goals), known.dependencies.kept)

    def _data(self, context: Context) -> tuple[Calibrates | None, tuple[Skip, ...]]:
        """What the repair is fitted on, and a Skip where that is not what was asked for."""
        if self.data == "calibration" and context.calibration is not None:
            return context.calibration, ()
        kind: Literal["noise", "none"] = "noise" if self.data == "noise" and context.calibration else "none"
        made = context.synthetic(kind) if context.synthetic else None
        if made is not None and self.data == kind:
            return made, ()
        why = f"repair on {'made-up inputs' if made else 'nothing'} instead of {self.data}"
        return made, (Skip("model", SkipReason.NO_CALIBRATION, why),)

    def _select(
        self, known: Analysis, groups: Sequence[Group], budget: Budget, data: Calibrates | None, context: Context
    ) -> tuple[Selection, tuple[Skip, ...]]:
        limits = {group.name: self._limits(group) for group in groups}
        most = {group.name: limits[group.name].removed(group, group.size) for group in groups}
        criterion: Criterion = "obs" if self.importance == "obspa" else self.importance
        seen = data.through(known.model) if data is not None else None
        scorer = Scorer(criterion, self.aggregate, self.normalize)
        scored = scorer.score(groups, known.model, seen, context, most)
        weigh = scored.criterion == "obs" if self.weigh == "auto" else self.weigh
        scores = per_saving(groups, scored.scores, budget) if weigh else scored.scores
        classes = classes_of(groups, self.ranking, known.op_types)
        return select(groups, scores, budget, limits, classes), scored.fallbacks

    def _refit(
        self, known: Analysis, original: ir.Model, selection: Selection, data: Calibrates | None, context: Context
    ) -> Notes:
        if self.repair == "none" or data is None:
            return Notes()
        kept = known.dependencies.kept(selection.pruned)
        return repair(
            known.model,
            original,
            kept,
            known.trace,
            data,
            method=self.repair,
            exclude=context.excludes,
            ties=known.ties,
        )


def _holds_codes(node: ir.Node) -> bool:
    """Whether the node gives out a stored matrix of quantized weights; one on activations is no hindrance."""
    weights = trace_constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
    return weights is not None and len(weights.shape) > 1
