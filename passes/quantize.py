# SPDX-License-Identifier: Apache-2.0
"""Quantize: constant weight matrices become packed integers of 2 to 8 bits behind ``ai.edgefold`` operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._constants import remove_if_unread
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._loop_states import drop_constant_states
from edgefold.passes._names import matches
from edgefold.passes._weighted_nodes import WeightedNode, weighted_nodes
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.quantization.activation_codes import MOST_GROUPS, STAYS_FLOAT, Wanted, choose_activations
from edgefold.passes.quantization.layer_position import LayerPositions, layer_positions
from edgefold.passes.quantization.mixed_precision import Weighting, mix_widths
from edgefold.passes.quantization.narrow_widths import ONE_WIDTH, narrow_widths
from edgefold.passes.quantization.order import Stage, in_stages
from edgefold.passes.quantization.shared_weights import WeightGroup, group_by_content
from edgefold.passes.quantization.shift_nodes import Activation, replace_node, store_matrix
from edgefold.passes.quantization.weights import Quantized, round_stage

Bits = Annotated[int, msgspec.Meta(ge=2, le=8)]
Groups = Annotated[int, msgspec.Meta(ge=1, le=MOST_GROUPS)]
Method = Literal["rtn", "shift", "shift-lut"]
Rounding = Literal["nearest", "gptq"]
FLOAT = 32  # bits of a weight that stays as it is
Activations = Literal[4, 6, 8, "float", "dynamic4", "dynamic6", "dynamic8", "static4", "static6", "static8"]


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other options for some nodes; of several that match a node the last one holds.

    Attributes:
        match: a node name or glob.
        weights: bits.
        method: of the weights.
        activations: as in the pass.
    """

    match: str
    weights: Bits | None = None
    method: Method | None = None
    activations: Activations | None = None

    def fits(self, site: WeightedNode) -> bool:
        """Whether it is meant for a node, by its name or that of its output."""
        return any(matches(name, self.match) for name in (site.label, str(site.output.name)))


class Plan(msgspec.Struct, frozen=True):
    """What is asked for one node."""

    bits: int
    method: Method
    activations: Wanted
    why_wider: str = ""
    narrow: tuple[int, ...] = ()
    fixed: bool = False


class Quantize(Pass, frozen=True, kw_only=True):
    """Replaces constant weights of MatMul, Gemm, Conv and embedding Gather by packed integer codes.

    What it does: a weight matrix W [K, N] becomes codes of ``weights`` bits that index tables of int8 levels, with one
    float scale a column (methods `rtn`, `shift`, `shift-lut`), and its node becomes ShiftMatMul, ShiftConv or
    ShiftGather. Activations stay float, or become 8-bit codes at run time. A convolution whose activations stay float
    becomes FloatConv: a smaller file that runs as fast as before, on weights that are decoded when it is loaded. Equal
    matrices, also transposed ones, are stored once, at the widest of the widths asked for.

    When it fires: on nodes of the main graph and of the bodies of If, Loop and Scan, however deep, whose weights are
    constants of float32, float16 or bfloat16. Packed weights lie in the main graph, so that branches share them; what
    a Loop hands on unchanged is a constant too.

    When it does not: each node left alone is listed with its reason; so is each that stays wider than ``weights``.

    Numerics: lossy.

    Example: ``y = Add(MatMul(x, w), b)`` becomes ``y = ShiftMatMul(x, w.codes, w.selectors, w.table, w.scales, y.bias,
    edgefold.zero)``; the zero says that activations are quantized by the range of each row.

    Attributes:
        weights: bits of a weight code.
        bits: bits of a weight code on average, in place of ``weights``: every layer but embeddings, the first and the
            last ones too, gets the width (2 to 6, or 8) with which the outputs, by a measurement of each layer alone,
            move least together. Layers whose width an override gives keep it.
        bits_weighting: what the average is over: `size`, weights; `macs`, multiply-accumulates.
        method: `rtn`, one table; `shift`, a power of two for 32 weights; `shift-lut`, learnt levels and finer steps
            (up to 6 bits; wider layers use `shift`).
        rounding: `nearest`, or `gptq` where there is calibration data.
        activations: 8 is `dynamic8` for MatMul and Gemm, `static8` for Conv, and so are 6 and 4, whose input channels
            get steps that differ by powers of two where calibration shows a gain; `float` leaves them alone.
        groups: of input channels of one layer, at most, that get steps of their own; 1 is one step for all.
        bias_correction: which layers' biases take the mean error of their outputs, where there is calibration data:
            `all`, or only those that are `there` already: a new one costs 32 bits a column.
        embeddings: bits of tables that a Gather reads.
        first_last: bits of the first and the last layers, and the fewest of their activations.
        routers: bits of the layers by which experts are chosen, where a small error may be a wrong choice, or `float`.
        overrides: other options for single nodes.
        widths: widths at which the file runs, such as [8, 6, 4]: it stores codes of 8 bits, and a session that asks
            for fewer rounds them when it opens. Needs ``weights`` 8 and method `shift` or `rtn`. What is kept wider
            has one width.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    weights: Bits = 4
    bits: Annotated[float, msgspec.Meta(ge=2, le=8)] | None = None
    bits_weighting: Weighting = "size"
    method: Method = "shift-lut"
    rounding: Rounding = "nearest"
    activations: Activations = 8
    groups: Groups = MOST_GROUPS
    bias_correction: Literal["all", "there"] = "all"
    embeddings: Bits = 8
    first_last: Bits = 8
    routers: Bits | Literal["float"] = 8
    overrides: tuple[Override, ...] = ()
    widths: tuple[Bits, ...] = ()

    def __post_init__(self) -> None:
        if self.method == "shift-lut" and self.weights > 6:
            raise ValueError(f"method shift-lut ends at 6 bits; take method shift for {self.weights}")
        if self.widths and (self.weights != 8 or self.method == "shift-lut"):
            raise ValueError("widths rounds codes of 8 bits: set weights to 8 and method to shift or rtn")
        if self.widths and self.bits is not None:
            raise ValueError("widths rounds codes of 8 bits and bits chooses other ones: leave out one of them")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from edgefold.ops import add_functions  # onnxscript takes a second to import

        drop_constant_states(model)
        sites, skips = _find(model, context)
        skips += [Skip(one.match, SkipReason.NO_MATCH) for one in self.overrides if not any(map(one.fits, sites))]
        positions = layer_positions(model.graph)
        plans = {site.node: self._plan(site, positions) for site in sites}
        skips += [Skip(s.label, SkipReason.KEPT_WIDER, "router, float") for s in sites if plans[s.node].bits == FLOAT]
        sites = [site for site in sites if plans[site.node].bits != FLOAT]
        groups, table, told = self._groups(model, sites, plans, context)
        skips += told
        store = InitializerStore(model.graph)
        edits: list[Edit] = []
        tally = _Tally()
        original = context.calibration
        now = original.through(model) if original is not None else None
        stages, fallbacks = self._stages(model, groups, context)
        skips += fallbacks
        for stage in stages:
            sites = [site for group in stage.groups for site in group.sites]
            activations, fallbacks = choose_activations(sites, {s.node: plans[s.node].activations for s in sites}, now)
            skips += fallbacks
            for rounded in round_stage(stage, self.rounding, activations, now, original):
                skips += rounded.fallbacks
                taken = rounded if self.bias_correction == "all" else rounded.without_new_biases()
                edits += _replace(store, taken, plans, activations)
                tally.count(rounded)
            add_functions(model)
        return Notes(tuple(edits), tuple(skips), tally.stats() | _finding(skips), table)

    def _groups(
        self, model: ir.Model, sites: list[WeightedNode], plans: Mapping[ir.Node, Plan], context: Context
    ) -> tuple[list[WeightGroup], tuple[Mapping[str, Any], ...], list[Skip]]:
        """The matrices with their widths; where a budget of bits decides on these, the table behind it."""
        methods = {node: plan.method for node, plan in plans.items()}
        groups, skips = group_by_content(sites, {node: plan.bits for node, plan in plans.items()}, methods)
        if self.bits is None:
            return groups, (), [*skips, *_wider(groups, plans)]
        fixed = frozenset(node for node, plan in plans.items() if plan.fixed)
        mixed = mix_widths(model, groups, self.bits, self.bits_weighting, context, methods=methods, fixed=fixed)
        own = [one for one in mixed.groups if all(s.kind == "gather" or plans[s.node].fixed for s in one.sites)]
        return mixed.groups, mixed.table, [*skips, *mixed.skips, *_wider(own, plans)]

    def _stages(self, model: ir.Model, groups: list[WeightGroup], context: Context) -> tuple[list[Stage], list[Skip]]:
        """All at once where the rounding of one matrix does not depend on that of others."""
        if not groups:
            return [], []
        if self.rounding == "nearest":
            return [Stage(tuple(groups), {})], []
        if context.calibration is None:
            skip = Skip("model", SkipReason.NO_CALIBRATION, f"rounding nearest instead of {self.rounding}")
            return [Stage(tuple(groups), {})], [skip]
        try:
            shapes = context.probe(model).shapes if context.probe else {}
        except ModelError as error:
            detail = f"{error}: layers do not make up for the streams that they are added to"
            return in_stages(model.graph, groups, {}), [Skip("model", SkipReason.FALLBACK, detail)]
        return in_stages(model.graph, groups, shapes), []

    def _plan(self, site: WeightedNode, positions: LayerPositions) -> Plan:
        bits, why, activations = self.weights, "", Wanted.of(self.activations, self.groups)
        if site.kind == "gather":
            bits, why = self.embeddings, "embedding"
        elif site.node in positions.routers:
            bits, why = FLOAT if self.routers == "float" else self.routers, "router"
        elif self.bits is None and site.node in positions.first:
            bits, why = self.first_last, "first layer"
        elif self.bits is None and site.node in positions.last:
            bits, why = self.first_last, "last layer"
        if any(site.node in some for some in (positions.first, positions.last, positions.routers)):
            activations = dataclasses.replace(activations, bits=max(activations.bits, self.first_last))
        method, fixed = self.method, why == "router"
        for override in self.overrides:
            if override.fits(site):
                bits, why = (bits, why) if override.weights is None else (override.weights, "override")
                fixed = fixed or override.weights is not None
                method = override.method or method
                activations = (
                    activations if override.activations is None else Wanted.of(override.activations, self.groups)
                )
        narrow = () if why else tuple(sorted({width for width in self.widths if width < 8}, reverse=True))
        return Plan(bits, method, activations, why if bits > self.weights else "", narrow, fixed)


def _find(model: ir.Model, context: Context) -> tuple[list[WeightedNode], list[Skip]]:
    """The nodes that can be packed, and a Skip for each that cannot but has weights."""
    sites: list[WeightedNode] = []
    skips: list[Skip] = []
    for found in weighted_nodes(model):
        if isinstance(found, Skip):
            skips.append(found)
        elif _excluded(found, context):
            skips.append(Skip(found.label, SkipReason.EXCLUDED))
        elif found.node.graph is not model.graph and not context.outer_constants:
            skips.append(Skip(found.label, SkipReason.SUBGRAPH, "packed weights there need ONNX Runtime 1.29"))
        else:
            sites.append(found)
    return sites, skips


def _replace(
    store: InitializerStore,
    rounded: Quantized,
    plans: Mapping[ir.Node, Plan],
    activations: Mapping[ir.Node, Activation],
) -> Iterator[Edit]:
    """Puts the packed matrix in the place of every node that applies it, and gives an edit for each."""
    group = rounded.group
    weights = store_matrix(store, group.name, rounded.matrix)
    asked = max((plans[site.node].narrow for site in group.sites), key=len)
    several = narrow_widths(group.sites[0].matrix(), rounded.matrix, asked)
    for site in group.sites:
        narrow = several if plans[site.node].narrow else ONE_WIDTH
        activation = activations[site.node]
        corrected = site.with_bias_added(rounded.corrections.get(site.node))
        replace_node(store, corrected, weights, group.bits, activation, narrow)
        widths = ", ".join(map(str, (group.bits, *narrow.bits)))
        yield Edit(site.label, f"{widths} bits, {group.method}{activation.described}")
    for site in group.sites:
        remove_if_unread(site.weight)


def _excluded(site: WeightedNode, context: Context) -> bool:
    return context.excludes(site.label) or context.excludes(str(site.output.name))


def _wider(groups: Iterable[WeightGroup], plans: Mapping[ir.Node, Plan]) -> Iterator[Skip]:
    """A Skip for each node that is kept wider than the pass's own width, and why."""
    for group in groups:
        for site in group.sites:
            plan = plans[site.node]
            why = plan.why_wider if plan.bits == group.bits else "shares its matrix with a wider node"
            if why:
                yield Skip(site.label, SkipReason.KEPT_WIDER, f"{why}, {group.bits} bits")


def _finding(skips: Iterable[Skip]) -> dict[str, str]:
    """What a user who gave no task file should know of the model's speed."""
    count = sum(skip.reason is SkipReason.NO_CALIBRATION and skip.detail == STAYS_FLOAT for skip in skips)
    if not count:
        return {}
    return {
        "finding": f"Convolutions that keep float activations, smaller and no faster: {count}. A task file (-d) "
        "calibrates them, and they become faster too."
    }


class _Tally:
    """Adds up what was quantized for the report."""

    def __init__(self) -> None:
        self._nodes: dict[str, int] = {}
        self._errors: list[float] = []
        self._bits = self._weights = self._all_bits = self._all_weights = 0.0

    def count(self, rounded: Quantized) -> None:
        group, bits_per_weight = rounded.group, rounded.matrix.bits_per_weight
        key = f"nodes.{group.bits}-bit {group.method}"
        self._nodes[key] = self._nodes.get(key, 0) + len(group.sites)
        weights = group.sites[0].k * group.sites[0].n
        self._all_weights += weights
        self._all_bits += weights * bits_per_weight
        if any(site.kind != "gather" for site in group.sites):
            self._weights += weights
            self._bits += weights * bits_per_weight
        if rounded.error is not None:
            self._errors.append(rounded.error)

    def stats(self) -> dict[str, float | int | str]:
        stats: dict[str, float | int | str] = dict(sorted(self._nodes.items()))
        if self._weights:
            stats["bits_per_weight"] = round(self._bits / self._weights, 4)
        if self._all_weights:
            stats["bits_per_weight_with_embeddings"] = round(self._all_bits / self._all_weights, 4)
            stats["weights"] = int(self._all_weights)
        if self._errors:
            stats["output_error"] = round(sum(self._errors) / len(self._errors), 6)
        return stats
