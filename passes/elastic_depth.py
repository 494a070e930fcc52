# SPDX-License-Identifier: Apache-2.0
"""Elastic depth: one file that runs as many blocks as its caller asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.budget import ByCount
from edgefold.passes.depth.candidates import Candidate, Move, candidates, check_numbers, moves
from edgefold.passes.depth.elastic import ElasticGraph, Region
from edgefold.passes.depth.judges import RepairedError
from edgefold.passes.depth.repair import Uncut
from edgefold.passes.depth.selection import Criterion, Selection, Selector
from edgefold.passes.depth.truncation import Truncated, blocks_of

Count = Annotated[int, msgspec.Meta(ge=1)]


class ElasticDepth(Pass, frozen=True, kw_only=True):
    """Adds an optional input that says how many of the repeated blocks run, so that one file serves several latencies.

    What it does: for each of ``depths`` it chooses the blocks that can best be done without, as `remove-blocks` does,
    and refits what then writes to the residual stream, where a refit on half of the calibration batches lowers the
    error on the other half. Each block that some depth leaves out, or runs with weights of
    its own, is put into an ``If``. The input is an int64 scalar whose default is the full depth; a number in between
    runs as the next smaller depth. Weights are stored once, refitted ones once for each depth that has them.

    When it fires: on the blocks of any exporter's graph. After `quantize` the blocks run in integers, and only layers
    left in float are refitted; before it, they are refitted in float, and `quantize` packs what the branches read.
    `heal` comes before, since it would train the full depth only, and so do all passes that work on blocks.

    When it does not: a block runs at every depth, and the report says why, where it cannot be cut out or ``keep`` names
    it; a depth that would need more blocks to go is left out. Where no depth below the full one remains, the model
    comes back as it was.

    Numerics: exact at the full depth. At another one the file gives, to the last bit without the runtime's own
    optimizations, what the model truncated and refitted gives; the report has the errors of the outputs.

    Example: ``{pass: elastic-depth, depths: [3, 4]}`` on an encoder of six blocks, then
    ``edgefold eval ... --input depth=3``.

    Attributes:
        depths: numbers of blocks to run, over all stacks of the model; the full depth is always among them. Half and
            two thirds of the blocks where none is given.
        criterion: by which the blocks that go are chosen; see `remove-blocks`.
        keep: numbers of blocks that always run.
        repair: `least-squares`, or `none`, which stores no weight twice.
        input: name of the input.
    """

    effect: ClassVar[Effect] = Effect.EXACT

    depths: tuple[Count, ...] = ()
    criterion: Criterion = "auto"
    keep: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    repair: Literal["least-squares", "none"] = "least-squares"
    input: str = "depth"

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.input in ir.convenience.create_value_mapping(model.graph):
            why = f"it has a value `{self.input}` already; the option input names another"
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, why),))
        stacks = find_stacks(model)
        full = sum(len(stack.blocks) for stack in stacks)
        if not full:
            return Notes(skips=(Skip("model", SkipReason.NO_BLOCKS),))
        check_numbers("elastic-depth: keep", self.keep, stacks)
        for depth in self.depths:
            if depth > full:
                raise UsageError(f"elastic-depth: depths: {depth} is more than the {full} blocks that the model has")
        found, skips = candidates(stacks, "blocks", {}, keep=self.keep, excludes=context.excludes)
        asked = self.depths or (round(full / 2), round(full * 2 / 3))
        smaller = sorted(depth for depth in set(asked) if depth < full)
        possible = [depth for depth in smaller if full - depth <= len(found)]
        skips += [
            Skip(f"depth {depth}", SkipReason.INSEPARABLE, f"only {len(found)} of {full} blocks can go")
            for depth in smaller
            if depth not in possible
        ]
        if not possible:
            return Notes(skips=(*skips, Skip("model", SkipReason.NOTHING_TO_GAIN, f"all {full} blocks always run")))
        uncut = Uncut(model, context.calibration) if self.repair != "none" and context.calibration else None
        repaired = self._repaired_error(uncut, found, context)
        selector = Selector.of(model, found, moves(found, "blocks"), context, repaired)
        selections = [selector.select(self.criterion, ByCount(found, Fraction(full - depth))) for depth in possible]
        gone = [sorted(found[position].block for position in one.gone) for one in selections]
        truncated = [Truncated(model, numbers) for numbers in gone]
        skips += [skip for one in selections for skip in one.skips]
        skips += self._repair(uncut, repaired, dict(zip(possible, selections, strict=True)), truncated, context)
        elastic = _assembled(model, [*truncated, Truncated(model, ())], (*possible, full), self.input)
        table = _table(possible, gone, selections, self._errors(model, possible, context))
        edits = tuple(Edit(name, "runs by branches") for name in elastic.exchanged)
        stats = {"blocks": full, "weights_added": sum(_elements(value) for value in elastic.private)}
        return Notes(edits, tuple(dict.fromkeys(skips)), stats, table, (self.input,))

    def _repaired_error(
        self, uncut: Uncut | None, found: Sequence[Candidate], context: Context
    ) -> RepairedError | None:
        """Judges choices by their refit on the even batches; None where nothing is refitted."""
        if uncut is None or context.departure is None:
            return None

        def without(gone: Move) -> ir.Model:
            one = Truncated(uncut.model, [found[position].block for position in gone])
            one.repair(uncut, context.excludes, half=0)
            return one.model

        return RepairedError(uncut.model, context.departure, without)

    def _repair(
        self,
        uncut: Uncut | None,
        repaired: RepairedError | None,
        selections: Mapping[int, Selection],
        truncated: Sequence[Truncated],
        context: Context,
    ) -> list[Skip]:
        """Refits the depths that a refit on the even batches serves on the odd ones; the others stay."""
        if self.repair == "none":
            return []
        if uncut is None:
            return [Skip("model", SkipReason.NO_CALIBRATION, "no depth is refitted")]
        skips: list[Skip] = []
        before = [repaired.unseen(one.model) if repaired else None for one in truncated]
        after = [
            math.nan if repaired is None or plain is None else repaired(selection.gone)
            for selection, plain in zip(selections.values(), before, strict=True)
        ]
        for depth, one, plain, better in zip(selections, truncated, before, after, strict=True):
            if plain is not None and not better < plain:
                why = f"error of the outputs on data that a refit has not seen: {plain:.3g}, refitted {better:.3g}"
                skips.append(Skip(f"depth {depth}", SkipReason.FALLBACK, f"{why}; it keeps the weights as they are"))
            else:
                skips += one.repair(uncut, context.excludes).skips
        return skips

    def _errors(self, model: ir.Model, depths: Sequence[int], context: Context) -> list[float | None]:
        """Of the outputs at each depth, as `remove-blocks` measures them."""
        if context.perturb is None:
            return [None] * len(depths)
        return list(context.perturb(model, [{self.input: np.array(depth, np.int64)} for depth in depths]))


def _assembled(model: ir.Model, truncated: Sequence[Truncated], depths: Sequence[int], name: str) -> ElasticGraph:
    """Turns the model into the elastic one, in place; the last of its forms is the model itself."""
    blocks = blocks_of(model)
    regions = [
        Region(block.nodes, block.start, block.end, tuple(one.form(number) for one in truncated))
        for number, block in enumerate(blocks)
    ]
    inside = {node for block in blocks for node in block.nodes}
    for node in model.graph:  # a refit may have reached layers between the stacks
        if (
            node not in inside
            and len(node.outputs) == 1
            and any(value and value.is_initializer() for value in node.inputs)
        ):
            end = node.outputs[0]
            forms = [one.value(str(end.name)) or truncated[-1].value(str(end.name)) for one in truncated]
            regions.append(Region((node,), None, end, tuple(forms)))
    elastic = ElasticGraph(model, depths, name)
    for region in regions:
        elastic.exchange(region)
    return elastic


def _table(
    depths: Sequence[int],
    gone: Sequence[Sequence[int]],
    selections: Sequence[Selection],
    errors: Sequence[float | None],
) -> tuple[Mapping[str, Any], ...]:
    """A row a depth."""
    return tuple(
        {"depth": depth, "left_out": list(numbers), "error_before_repair": selection.error, "error": error}
        for depth, numbers, selection, error in zip(depths, gone, selections, errors, strict=True)
    )


def _elements(value: ir.Value) -> int:
    return 0 if value.const_value is None else math.prod(value.const_value.shape.numpy())
