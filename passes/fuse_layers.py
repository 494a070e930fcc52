# SPDX-License-Identifier: Apache-2.0
"""Fuse-layers: a removed block lives on in its neighbours, which learn how much of its weights to take in."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.passes.adapters import attach, fold
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, PreconditionError, Skip, SkipReason
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.budget import THIRD, ByCount
from edgefold.passes.depth.candidates import Candidate, candidates, check_numbers, moves
from edgefold.passes.depth.fusion import Fusion, numbered, plan_fusion
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.depth.selection import Selector
from edgefold.passes.depth.surgery import cut_out
from edgefold.passes.heal import Count, Distance, Heal, Positive

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class FuseLayers(Pass, frozen=True, kw_only=True):
    """Removes residual blocks one by one, each injected into its neighbours (FuseGPT, arXiv 2411.14507).

    What it does: finds the repeated residual blocks, takes out the one whose absence the stream feels least, and
    refits the layers behind the cut. Then every matrix W of the neighbours becomes
    ``W + B A + (P Q) * D`` with D the same matrix of the removed block, and A, B, P, Q, biases and scales are trained
    until the stream behind the neighbours is the original's. The sum is folded: a plain, shallower model. The next
    block is chosen in what has come out.

    When it fires: on blocks as `remove-blocks` finds them, with calibration data and torch (``edgefold[heal]``).

    When it does not: a block stays for the reasons of `remove-blocks`. Where the budget asks for less than one block,
    the model comes back as it was.

    Numerics: lossy.

    Example: ``{pass: fuse-layers, blocks: 2}``.

    Attributes:
        blocks: how many go.
        ratio: share of all blocks that goes, rounded to the nearest number; a third where no budget is given.
        criterion: `macro-influence`, one minus the cosine between the last stream value with and without the block;
            `greedy`, the outputs' squared error (see `remove-blocks`).
        neighbours: how many blocks take a removed one in.
        rank: of the four trained factors.
        distance: of the stream from the original's; see `heal`.
        keep: numbers of blocks that stay.
        repair: what precedes the training: `least-squares`, or `none` as in FuseGPT.
        steps: of the optimizer, for each removed block.
        learning_rate: relative to each tensor, at its highest; see `heal`.
        batch: samples a step.
        samples: of the calibration data; all where it is not given.
        threads: of torch and ONNX Runtime; 0 leaves the choice to them.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    blocks: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ratio: Share | None = None
    criterion: Literal["macro-influence", "greedy"] = "macro-influence"
    neighbours: Count = 3
    rank: Count = 16
    distance: Distance = "error+cosine"
    keep: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    repair: Literal["least-squares", "none"] = "least-squares"
    steps: Count = 200
    learning_rate: Positive = 1e-2
    batch: Count = 16
    samples: Count | None = None
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.blocks is not None and self.ratio is not None:
            raise ValueError("blocks and ratio both say how much goes; give one of them")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        stacks = find_stacks(model)
        found = numbered(stacks)
        count = (
            round((THIRD if self.ratio is None else self.ratio) * len(found)) if self.blocks is None else self.blocks
        )
        if not found or not count:
            reason = SkipReason.BELOW_THRESHOLD if found else SkipReason.NO_BLOCKS
            return Notes(skips=(Skip("model", reason),))
        check_numbers("fuse-layers: keep", self.keep, stacks)
        if context.heal is None or context.calibration is None or context.perturb is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, "the neighbours are trained on it"),))
        run = _Run(self, model.clone(), context, {str(found[number][1].end.name) for number in self.keep})
        try:
            for _ in range(count):
                if not run.fuse_one():
                    break
        except PreconditionError as error:  # nothing of a model is left half fused
            return Notes(skips=(Skip("model", SkipReason.NOT_APPLICABLE, str(error)),))
        if run.edits:
            model.graph = run.model.graph
        stats = {"blocks": len(found), "blocks_fused": len(run.edits)}
        return Notes(tuple(run.edits), tuple(dict.fromkeys(run.skips)), stats, tuple(run.rows))

    def training(self, fusion: Fusion, target: str, factors: tuple[str, ...]) -> Heal:
        """How the neighbours learn: only the factors and vectors, towards one tensor."""
        return Heal(
            loss=("pairs",),
            pairs=((fusion.group_end, target),),
            distance=self.distance,
            train=(*factors, *fusion.vectors),
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch=self.batch,
            samples=self.samples,
            patience=0,
            threads=self.threads,
        )


class _Run:
    """A model on its way: one block less with each fusion."""

    def __init__(self, options: FuseLayers, model: ir.Model, context: Context, kept: set[str]) -> None:
        self.options, self.model, self.context = options, model, context
        self.original = model.clone()
        self.kept = kept  # names of the ends of blocks that stay: numbers change with every cut
        self.stands_for: dict[str, str] = {}  # stream values, by name -> those of the original that they should equal
        self.edits: list[Edit] = []
        self.skips: list[Skip] = []
        self.rows: list[dict[str, float | int | str]] = []

    def fuse_one(self) -> bool:
        """Remove the block that is missed least; False where none can go."""
        stacks = find_stacks(self.model)
        blocks = numbered(stacks)
        keep = [number for number, (_, block) in enumerate(blocks) if block.end.name in self.kept]
        found, skips = candidates(stacks, "blocks", {}, keep=keep, excludes=self.context.excludes)
        self.skips += skips
        if not found:
            self.skips.append(Skip("model", SkipReason.INSEPARABLE, "less goes than was asked for"))
            return False
        selector = Selector.of(self.model, found, moves(found, "blocks"), self.context)
        selection = selector.select(self.options.criterion, ByCount(found, Fraction(1)))
        (position,) = selection.gone
        stack, removed = blocks[found[position].block]
        fusion = plan_fusion(stack, removed, self.options.neighbours, self.options.rank)
        if not (fusion.donors or fusion.vectors):
            raise PreconditionError("model", f"the neighbours of {fusion.end} have no float32 weights to train")
        cut_out(self.model, removed)
        self.stands_for[fusion.start] = self.stands_for.pop(fusion.end, fusion.end)
        self._note(found[position], fusion, self._train(fusion))
        return True

    def _train(self, fusion: Fusion) -> dict[str, float | int | str]:
        context, options = self.context, self.options
        assert context.heal is not None, "rewrite looked"
        assert context.calibration is not None, "rewrite looked"
        if options.repair == "least-squares":
            aims = dict(self.stands_for)
            uncut = Uncut(self.original, context.calibration)
            repair_depth(self.model, uncut, aims, scope="all", exclude=context.excludes)
        adapters = attach(self.model, fusion.donors, options.rank, context.seed)
        factors = tuple(name for adapter in adapters for name in adapter.trained)
        target = self.stands_for.get(fusion.group_end, fusion.group_end)
        stats = context.heal(self.model, options.training(fusion, target, factors), self.original)
        fold(self.model, adapters)
        return dict(stats)

    def _note(self, gone: Candidate, fusion: Fusion, stats: dict[str, float | int | str]) -> None:
        self.edits.append(Edit(fusion.end, f"fused into {len(fusion.donors)} matrices of its neighbours"))
        self.rows.append(
            {
                "block": fusion.end,
                "weights": gone.weights,
                "compared_at": fusion.group_end,
                "error_before_training": stats["held_out_loss_before"],
                "error_after_training": stats["held_out_loss_after"],
                "best_step": stats["best_step"],
            }
        )
