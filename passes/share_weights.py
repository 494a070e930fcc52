# SPDX-License-Identifier: Apache-2.0
"""Share weights: groups of consecutive blocks use one set of matrices, stored once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes.base import Context, Effect, Notes, Pass, PreconditionError, Skip, SkipReason
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.candidates import check_numbers
from edgefold.passes.depth.sharing.choice import Choice, Chosen, choose, parts
from edgefold.passes.depth.sharing.corrections import correct, correction_bytes
from edgefold.passes.depth.sharing.factoring import Bases, factor
from edgefold.passes.depth.sharing.grouping import Group
from edgefold.passes.depth.sharing.harm import Source
from edgefold.passes.depth.sharing.places import Modules, SharingStack, sharing_stacks
from edgefold.passes.depth.sharing.refit import MAX_ROWS, Evidence, refit_levels, shared_levels
from edgefold.passes.depth.sharing.tying import tie

# Options that only one form reads.
_ONLY_OF = {"source": "matrices", "scales": "matrices", "delta_rank": "matrices", "bases": "factors"}
_AS_SHARED = "the shared matrices stay those of one block"

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
        weights: names or globs of the matrices that share, or of the nodes that read them, as in `heal`'s ``train``;
            queries and keys of a language model are ``["*q_proj*", "*k_proj*"]``. All of ``modules`` where none is
            given. ``keep`` counts these only.
        source: whose weights a group takes: of the `first` or `last` block, of the one with which the outputs move
            least (`best`), or their `mean`, which is no weight that was ever trained: worse on a GPT and a ViT, better
            on MiniLM.
        refits: how often the shared matrices are solved anew, front to back; 0 leaves them as they were.
        scales: whether each use of a shared matrix has a scale of its own for each output.
        form: `matrices`, or `factors`: blocks in pairs (or ``groups``) share the first of two low-rank factors of each
            matrix and ``keep`` is what the factors store; this saves time too, and needs calibration data. `atoms`
            (MASA, arXiv 2508.04581): all blocks of a run (or ``groups``) mix their matrices from a few that they share,
            beside a low-rank product of their own. At half the bytes atoms lose more than factors, and each atom is a
            whole product more: take them only where blocks are known to be alike.
        bases: of `factors`: `shared`, or `own` for each block, or what is `best` for each matrix at the same bytes.
        delta_rank: each use of a shared matrix W becomes ``x W + (x A) B`` with private factors of this rank; their
            bytes count against ``keep``, their products cost time.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    keep: Fraction = 0.5
    groups: tuple[tuple[Number, ...], ...] = ()
    private: tuple[Number, ...] = (0,)
    modules: Modules = "all"
    weights: tuple[str, ...] = ()
    source: Source = "best"
    refits: Number = 2
    scales: bool = False
    delta_rank: Number = 0
    form: Literal["matrices", "factors", "atoms"] = "matrices"
    bases: Bases = "best"

    def __post_init__(self) -> None:
        numbers = [number for group in self.groups for number in group]
        if len(set(numbers)) < len(numbers):
            raise ValueError("groups names a block twice; each belongs to one group")
        for group in self.groups:
            if len(group) < 2 or list(group) != list(range(group[0], group[0] + len(group))):
                raise ValueError(f"groups holds {list(group)}; a group is two or more consecutive blocks, ascending")
        self._refuse_what_has_no_effect()

    def _refuse_what_has_no_effect(self) -> None:
        for name, form in _ONLY_OF.items():
            if self.given(name) and self.form != form:
                raise ValueError(f"form {self.form} has no use for {name}; leave it out, or take form {form}")
        if self.groups and self.given("private"):
            raise ValueError("groups and private both say which blocks share; give one of them")
        if self.groups and self.given("keep") and self.form == "matrices":
            raise ValueError("groups and keep both say how much is shared; give one of them")

    def requires(self, model: ir.Model) -> None:
        if not find_stacks(model):
            raise PreconditionError("model", "it has no repeated residual blocks that could share weights")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if self.keep == 1 and not self.groups:
            return Notes(skips=(Skip("model", SkipReason.NOTHING_TO_GAIN, "keep is 1: nothing is to be shared"),))
        found = find_stacks(model)
        check_numbers("share-weights: private", self.private, found)
        stacks, skips = sharing_stacks(found, self.modules, self.weights, context)
        if not stacks:
            return Notes(skips=tuple(skips))
        share = self._tie if self.form == "matrices" else self._factor
        return _joined(Notes(skips=tuple(skips)), share(model, stacks, context))

    def _tie(self, model: ir.Model, stacks: Sequence[SharingStack], context: Context) -> Notes:
        """One matrix for several blocks, then what makes up for it."""
        extra = {stack.first: correction_bytes(stack, self.delta_rank, self.scales) for stack in stacks}
        chosen = choose(model, stacks, Choice(self.keep, self.groups, self.private, self.source, extra), context)
        original = model.clone()
        edits = [edit for stack, group in chosen.shared for edit in tie(model.graph, stack, group)]
        notes = Notes(tuple(edits), chosen.skips, _stats(stacks, chosen), chosen.table)
        if not edits or not (self.refits or self.scales or self.delta_rank):
            return notes
        return _joined(notes, self._make_up(model, original, stacks, [group for _, group in chosen.shared], context))

    def _make_up(
        self,
        model: ir.Model,
        original: ir.Model,
        stacks: Sequence[SharingStack],
        groups: Sequence[Group],
        context: Context,
    ) -> Notes:
        """The refit of shared matrices, and what each use gets of its own."""
        evidence = _evidence(model, original, context)
        if isinstance(evidence, Skip):
            return Notes(skips=(evidence,))
        levels, skips = shared_levels(model.graph, stacks, groups)
        notes = Notes(skips=tuple(skips))
        try:
            if self.refits:
                notes = _joined(notes, refit_levels(model, levels, evidence, self.refits))
            if self.scales or self.delta_rank:
                notes = _joined(notes, correct(model.graph, levels, evidence, self.delta_rank, self.scales))
        except ModelError as error:
            notes = _joined(notes, Notes(skips=(Skip("model", SkipReason.FALLBACK, f"{error}: {_AS_SHARED}"),)))
        return notes

    def _factor(self, model: ir.Model, stacks: Sequence[SharingStack], context: Context) -> Notes:
        """One basis, or atoms, for several blocks, then a refit of what each block keeps."""
        original = model.clone()
        evidence = _evidence(model, original, context)
        if isinstance(evidence, Skip):
            return Notes(skips=(Skip("model", evidence.reason, f"{self.form} need calibration data"),))
        atoms = self.form == "atoms"
        groups = parts(stacks, self.groups, self.private, size=None if atoms else 2)
        factored = factor(model.graph, groups, self.keep, "atoms" if atoms else self.bases, evidence.original)
        if not factored.levels or not self.refits:
            return factored.notes
        return _joined(factored.notes, refit_levels(model, factored.levels, evidence, self.refits))


def _evidence(model: ir.Model, original: ir.Model, context: Context) -> Evidence | Skip:
    if context.calibration is None or context.probe is None:
        return Skip("model", SkipReason.NO_CALIBRATION, _AS_SHARED)
    try:
        shapes = context.probe(original).shapes
    except ModelError as error:
        return Skip("model", SkipReason.FALLBACK, f"{error}: {_AS_SHARED}")
    changed, before = (context.calibration.through(one, max_rows=MAX_ROWS) for one in (model, original))
    return Evidence(changed, before, shapes)


def _joined(first: Notes, second: Notes) -> Notes:
    return Notes(
        (*first.edits, *second.edits),
        (*first.skips, *second.skips),
        {**first.stats, **second.stats},
        (*first.table, *second.table),
    )


def _stats(stacks: Sequence[SharingStack], chosen: Chosen) -> dict[str, float | int | str]:
    matrices = sum(len(stack.numbers) * stack.nbytes for stack in stacks)
    saved = sum(len(group.blocks) * stack.nbytes - group.nbytes for stack, group in chosen.shared)
    return {
        "groups": " ".join("+".join(map(str, group.blocks)) for _, group in chosen.shared),
        "stored": round(1 - saved / matrices, 4),
    }
