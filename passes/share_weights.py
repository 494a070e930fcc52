# SPDX-License-Identifier: Apache-2.0
"""Share weights: groups of consecutive blocks use one set of matrices, stored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Context, Effect, Notes, Pass, PreconditionError, Skip, SkipReason
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.sharing.choice import Choice, Chosen, choose
from edgefold.passes.depth.sharing.harm import Source
from edgefold.passes.depth.sharing.places import Modules, SharingStack, sharing_stacks
from edgefold.passes.depth.sharing.refit import MAX_ROWS, Evidence, refit_shared
from edgefold.passes.depth.sharing.tying import tie

Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Number = Annotated[int, msgspec.Meta(ge=0)]


class ShareWeights(Pass, frozen=True, kw_only=True):
    """Lets groups of consecutive blocks use one set of weight matrices (FoldGPT, arXiv 2407.00928).

    What it does: blocks of a stack (see ``edgefold inspect``) are put into groups, and all blocks of a group read the
    matrices of one of them, its source. Norms, biases and scales stay private to each block. Which groups, and which
    source, is found by dynamic programming over the error that each group alone makes at the model's outputs on
    calibration data. Then the shared matrices are solved anew for all their uses at once, with a bias for each
    (least squares on calibration data, no training), and so are the matrices of later blocks that share nothing.

    When it fires: on repeated residual blocks whose matrices are constants of the main graph, alike in shape and
    stored alike. The file shrinks, and so does the memory of ONNX Runtime from version 1.21 on; speed stays what it
    was, for each block still runs.

    When it does not: matrices that something outside of their block reads, that blocks share already or store in
    different ways are listed.

    Numerics: lossy. Follow it with ``heal``: shared weights lose much at once and regain most of it in training.

    Example: ``MatMul(x, h.1.w); MatMul(y, h.2.w)`` become ``MatMul(x, h.1.w); MatMul(y, h.1.w)``. One initializer is
    wired directly to many nodes: ``quantize`` packs it once and ``heal`` trains it once. Of other tools, ONNX Runtime
    and onnxsim keep the form; OnnxSlim copies a weight that it sees through Identity or Transpose, and the
    transformer optimizer of ONNX Runtime packs query, key and value into a copy for each block.

    Attributes:
        keep: of the bytes of the blocks' matrices, the fraction that is stored.
        groups: instead, blocks that share, by number over the whole model from 0, such as [[1, 2], [3, 4, 5]].
        private: blocks that keep their own weights; the first one differs most from the others.
        modules: of each block that share: `attention` or `feed-forward` halves only, or `all`.
        source: whose weights a group takes: of the `first` or `last` block, of the one with which the outputs move
            least (`best`), or their `mean`, which is no weight that was ever trained and mostly worse.
        refits: how often the shared matrices are solved anew, front to back; 0 leaves them as they were.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Fraction = 0.5
    groups: tuple[tuple[Number, ...], ...] = ()
    private: tuple[Number, ...] = (0,)
    modules: Modules = "all"
    source: Source = "best"
    refits: Number = 2

    def __post_init__(self) -> None:
        numbers = [number for group in self.groups for number in group]
        if len(set(numbers)) < len(numbers):
            raise ValueError("groups names a block twice; each belongs to one group")
        for group in self.groups:
            if len(group) < 2 or list(group) != list(range(group[0], group[0] + len(group))):
                raise ValueError(f"groups holds {list(group)}; a group is two or more consecutive blocks, ascending")

    def requires(self, model: ir.Model) -> None:
        if not find_stacks(model):
            raise PreconditionError("model", "it has no repeated residual blocks that could share weights")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1 and not self.groups:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: nothing is to be shared"),))
        stacks, skips = sharing_stacks(find_stacks(model), self.modules, context)
        if not stacks:
            return Notes(skips=tuple(skips))
        choice = Choice(self.keep, self.groups, self.private, self.source)
        chosen = choose(model, stacks, choice, context)
        original = model.clone()
        edits = [edit for stack, group in chosen.shared for edit in tie(model.graph, stack, group)]
        notes = Notes(tuple(edits), (*skips, *chosen.skips), _stats(stacks, chosen), chosen.table)
        return _with(notes, self._refit(model, original, stacks, chosen, context)) if edits and self.refits else notes

    def _refit(
        self, model: ir.Model, original: ir.Model, stacks: Sequence[SharingStack], chosen: Chosen, context: Context
    ) -> Notes:
        why = "the shared matrices stay those of one block"
        if context.calibration is None or context.probe is None:
            return Notes(skips=(Skip("model", SkipReason.NO_CALIBRATION, why),))
        changed, before = (context.calibration.through(one, max_rows=MAX_ROWS) for one in (model, original))
        groups = [group for _, group in chosen.shared]
        try:
            evidence = Evidence(changed, before, context.probe(original).shapes)
            return refit_shared(model, stacks, groups, evidence, self.refits)
        except ModelError as error:
            return Notes(skips=(Skip("model", SkipReason.FALLBACK, f"{error}: {why}"),))


def _with(first: Notes, second: Notes) -> Notes:
    return Notes(
        (*first.edits, *second.edits),
        (*first.skips, *second.skips),
        {**first.stats, **second.stats},
        first.table,
    )


def _stats(stacks: Sequence[SharingStack], chosen: Chosen) -> dict[str, float | int | str]:
    matrices = sum(len(stack.numbers) * stack.nbytes for stack in stacks)
    saved = sum((len(group.blocks) - 1) * stack.nbytes for stack, group in chosen.shared)
    return {
        "groups": " ".join("+".join(map(str, group.blocks)) for _, group in chosen.shared),
        "stored": round(1 - saved / matrices, 4),
    }
