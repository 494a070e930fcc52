# SPDX-License-Identifier: Apache-2.0
"""Remove-blocks: residual blocks, or their attention and feed-forward halves, leave the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.errors import UsageError
from edgefold.goals import parse_drop
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.depth.blocks import Part, Stack, find_stacks
from edgefold.passes.depth.budget import THIRD, Budget, ByCount, ByError, ByWork
from edgefold.passes.depth.candidates import Candidate, Move, Parts, candidates, check_numbers, moves
from edgefold.passes.depth.judges import Judge, RepairedError
from edgefold.passes.depth.metric_budget import ByMetric
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.depth.selection import Criterion, Selection, Selector
from edgefold.passes.depth.surgery import cut_out, removed_runs

_BUDGETS = ("blocks", "ratio", "flops", "max_error", "max_drop")

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class RemoveBlocks(Pass, frozen=True, kw_only=True):
    """Takes residual blocks, or halves of them, out of the model, and refits the layers behind the cut.

    What it does: finds the repeated residual blocks of the graph, numbered from 0 over the whole model; measures on
    calibration data what it costs to do without each choice of them; cuts the cheapest choice out, so that what read a
    block's end reads its start; and refits, by least squares, front to back, every layer whose inputs have changed:
    towards the original's stream where it adds to the stream, else towards what it gave in the original. The layer
    before a removed run aims at the stream behind the run.

    When it fires: on the blocks of any exporter's graph, residual convolutional stages among them, float or quantized;
    the refit is for float layers.

    When it does not: a block stays, and the report says why, where a value inside it is read outside or is an output of
    the model (as in exports with a key-value cache: export the model without the cache), where the stream has another
    shape behind it (downsampling blocks), and where ``keep`` or ``--exclude`` names it. Where the budget asks for less
    than one block, the model comes back as it was.

    Numerics: lossy. Without repair, removing a block equals setting what it adds to the stream to zero.

    Example: ``{pass: remove-blocks, blocks: 2}`` on an encoder of six blocks; ``edgefold inspect`` lists them.

    Attributes:
        blocks: how many go; a half counts half.
        ratio: share of all blocks that goes, rounded to the nearest number; a third where no budget is given.
        flops: share of the model's multiply-accumulates that stays, at most.
        max_error: instead, blocks go one by one while the outputs' error on the calibration data, before the
            repair, stays at most this. For a metric of classes (top1, top5, agreement, perplexity) the error is the
            mean Kullback-Leibler divergence from the original, in nats; else the squared difference over the energy of
            each output, added up over the outputs (0.01 is an error of a tenth of their size).
        max_drop: instead, blocks go one by one while the task's metric on the calibration data, once the rest is
            refitted, loses at most this: `1%` of the original's value, or `1pt`, a point, as ``--max-drop`` has it.
            Each half of the batches is judged after a refit on the other. The evaluation data are not looked at: give
            more samples where the drop is small, for 512 tell top1 to about a point.
        parts: `blocks`; `halves`, attention and feed-forward apart; `any`, a search step takes a half or a whole block.
        criterion: what is least, so that a part goes. `repaired`: the outputs' error once the rest is refitted, on
            batches that the refit has not seen; asked of the four choices that are least without a refit, or, of more
            than 300, of what `greedy`, both influences and `last` choose, and of two runs of parts that follow each
            other, for which a refit makes up best. `exhaustive`: the outputs' error without a
            refit, over all choices together. `greedy`: the same, one part after the other (SLEB). `block-influence`:
            one minus the cosine between the stream before and behind the part (ShortGPT). `macro-influence`: one minus
            the cosine between the last stream value with and without it, one after the other (FuseGPT). `gates`: values
            of gates learnt together under the budget (FoldGPT; needs torch, ``edgefold[heal]``). `last`, `random`:
            controls. `auto` is
            `repaired`; where nothing is refitted `exhaustive` up to 300 choices, else `greedy`, and `greedy` under
            ``max_error`` and ``max_drop``.
        keep: numbers of blocks that stay.
        repair: `least-squares`, or `none`.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    blocks: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ratio: Share | None = None
    flops: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_error: Annotated[float, msgspec.Meta(ge=0)] | None = None
    max_drop: str | None = None
    parts: Parts = "blocks"
    criterion: Criterion = "auto"
    keep: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    repair: Literal["least-squares", "none"] = "least-squares"

    def __post_init__(self) -> None:
        budgets = [name for name in _BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ValueError(f"{' and '.join(budgets)} both say how much goes; give one of them")
        if not self._amount and self.criterion in ("repaired", "exhaustive"):
            raise ValueError(f"{budgets[0]} goes block by block; take criterion greedy")
        if self.max_drop is not None:
            try:
                parse_drop(self.max_drop, "max_drop")
            except UsageError as error:
                raise ValueError(str(error)) from None

    @property
    def _amount(self) -> bool:
        """Whether the budget says how much goes, not how much may be lost."""
        return self.max_error is None and self.max_drop is None

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        stacks = find_stacks(model)
        if not stacks:
            return Notes(skips=(Skip("model", SkipReason.NO_BLOCKS),))
        check_numbers("remove-blocks: keep", self.keep, stacks)
        macs = context.macs(model) if context.macs else {}
        found, skips = candidates(stacks, self.parts, macs, keep=self.keep, excludes=context.excludes)
        uncut = Uncut(model.clone(), context.calibration) if context.calibration else None
        repaired = self._repaired_error(uncut, context) if self._amount else None
        selector = Selector.of(model, found, moves(found, self.parts), context, repaired)
        budget: Budget | Skip
        if self.max_drop is not None:
            budget = self._by_metric(uncut, context)
        else:
            budget = self._budget(found, stacks, macs, selector.output_error)
        if isinstance(budget, Skip):
            return Notes(skips=(budget, *skips))
        by_metric = budget if isinstance(budget, ByMetric) else None
        selection = selector.select(self.criterion, budget, *([by_metric.accepts] if by_metric else []))
        skips = [*selection.skips, *skips, *(self._refused(by_metric, found) if by_metric else [])]
        gone = [found[position] for position in sorted(selection.gone)]
        if not gone:
            return Notes(skips=(*skips, Skip("model", SkipReason.BELOW_THRESHOLD, "the budget lets no block go")))
        if self._amount and not budget.met(selection.gone):
            skips.append(Skip("model", SkipReason.INSEPARABLE, "less goes than was asked for: no rest is small enough"))
        edits = [Edit(one.name, f"{one.part.start.name} takes the place of {one.part.end.name}") for one in gone]
        table = _table(found, selection)
        mended = self._cut(model, [one.part for one in gone], uncut, context)
        stats = {**_stats(gone, selection, stacks), **mended.stats}
        if by_metric is not None:
            stats["calibration_drop"] = float(f"{by_metric.loss:.4g}")
        return Notes((*edits, *mended.edits), (*skips, *mended.skips), stats, table)

    def _budget(
        self, found: Sequence[Candidate], stacks: Sequence[Stack], macs: Mapping[str, int], error: Judge | None
    ) -> Budget | Skip:
        """How much is to go, or why that cannot be."""
        if self.max_error is not None:
            if error is None:
                return Skip("model", SkipReason.NO_CALIBRATION, "max-error is measured on calibration data")
            return ByError(error, self.max_error)
        budget: Budget
        if self.flops is not None:
            if not all(one.macs for one in found):
                return Skip("model", SkipReason.DYNAMIC_SHAPE, "multiply-accumulates are not known; give ratio")
            budget = ByWork(found, (1 - self.flops) * sum(macs.values()))
        else:
            budget = ByCount(found, self._size(sum(len(stack.blocks) for stack in stacks), found))
        if not budget.met(range(len(found))):
            why = f"all that can go together, {len(found)} {self.parts}, is less than what was asked for"
            return Skip("model", SkipReason.INSEPARABLE, why)
        return budget

    def _by_metric(self, uncut: Uncut | None, context: Context) -> ByMetric | Skip:
        if context.metric is None or uncut is None:
            why = "max_drop is measured by the task's metric on calibration data with labels"
            return Skip("model", SkipReason.NO_CALIBRATION, why)

        def without(gone: Move) -> list[ir.Model]:
            return [self._without(uncut, gone, context, half) for half in range(1 if self.repair == "none" else 2)]

        return ByMetric(parse_drop(str(self.max_drop), "max_drop"), context.metric, uncut.model, without)

    def _repaired_error(self, uncut: Uncut | None, context: Context) -> Judge | None:
        """Judges choices by their refit; None where nothing is refitted."""
        if self.repair == "none" or uncut is None or context.departure is None:
            return None
        return RepairedError(uncut.model, context.departure, lambda gone: self._without(uncut, gone, context, 0))

    def _without(self, uncut: Uncut, gone: Move, context: Context, half: int) -> ir.Model:
        """A copy without some candidates, the rest refitted on the even (0) or the odd batches."""
        copy = uncut.model.clone()
        there, _ = candidates(find_stacks(copy), self.parts, {}, keep=self.keep, excludes=context.excludes)
        self._cut(copy, [there[position].part for position in sorted(gone)], uncut, context, half)
        return copy

    def _refused(self, budget: ByMetric, found: Sequence[Candidate]) -> list[Skip]:
        """What would have gone next, and why it stays."""
        if budget.refused is None:
            return []
        gone, loss = budget.refused
        last = ", ".join(found[position].name for position in sorted(gone - budget.accepted))
        why = f"without it the metric on calibration data is {loss:.3g} worse in the unit of max_drop {self.max_drop}"
        return [Skip(last, SkipReason.BELOW_THRESHOLD, why)]

    def _size(self, blocks: int, found: Sequence[Candidate]) -> Fraction:
        """How many blocks go: the number that can be had of what there is nearest to the ratio."""
        if self.blocks is not None:
            return Fraction(self.blocks)
        step = min((one.size for one in found), default=Fraction(1))
        return step * round((THIRD if self.ratio is None else self.ratio) * blocks / step)

    def _cut(
        self, model: ir.Model, parts: Sequence[Part], uncut: Uncut | None, context: Context, half: int | None = None
    ) -> Notes:
        """Cuts parts out, and refits the rest on the even (0), the odd (1) or all batches."""
        targets = removed_runs(parts)
        cut_out(model, *parts)
        if self.repair == "none":
            return Notes()
        if uncut is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "nothing is refitted"),))
        return repair_depth(model, uncut, targets, half=half, scope="all", exclude=context.excludes)


def _stats(gone: Sequence[Candidate], selection: Selection, stacks: Sequence[Stack]) -> dict[str, float | int | str]:
    stats: dict[str, float | int | str] = {
        "blocks": sum(len(stack.blocks) for stack in stacks),
        "blocks_removed": float(sum(one.size for one in gone)),
        "weights_removed": sum(one.weights for one in gone),
        "criterion": selection.criterion,
    }
    if selection.error is not None:
        stats["error_before_repair"] = selection.error
    if selection.repaired:
        stats["choices_repaired"] = len(selection.repaired)
        stats["error_repaired"] = selection.repaired[selection.gone]
    return stats


def _table(found: Sequence[Candidate], selection: Selection) -> tuple[Mapping[str, Any], ...]:
    """A row a candidate."""
    return tuple(
        {
            "part": one.name,
            "from": one.part.start.name,
            "to": one.part.end.name,
            "weights": one.weights,
            "macs": one.macs,
            "loss": float(f"{loss:.4g}"),
            "removed": position in selection.gone,
        }
        for position, (one, loss) in enumerate(zip(found, selection.losses, strict=True))
    )
