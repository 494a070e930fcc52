# SPDX-License-Identifier: Apache-2.0
"""A copy of a model without some of its blocks, repaired, beside the original block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import onnx_ir as ir

from edgefold.passes.base import Notes
from edgefold.passes.depth.blocks import Block, find_stacks
from edgefold.passes.depth.elastic import Form
from edgefold.passes.depth.repair import Uncut, repair_depth
from edgefold.passes.depth.surgery import cut_out, followed, removed_runs


class Truncated:
    """A model without some blocks.

    Args:
        original: stays as it is.
        removed: numbers of its blocks; with none it is the model at its full depth.

    Attributes:
        model: the copy.
        removed: as given.
    """

    def __init__(self, original: ir.Model, removed: Collection[int]) -> None:
        self.model = original.clone()
        self.removed = frozenset(removed)
        self._blocks = blocks_of(self.model)
        gone = [self._blocks[number] for number in sorted(removed)]
        before = {block.end: block.start for block in gone}
        self._targets = removed_runs(gone)
        self._starts = [followed(block.start, before) for block in self._blocks]
        cut_out(self.model, *gone)

    def repair(self, uncut: Uncut, exclude: Callable[[str], bool], half: int | None = None) -> Notes:
        """Refits what writes to the stream; the block before a removed run aims at the stream behind the run."""
        return repair_depth(self.model, uncut, self._targets, half=half, exclude=exclude)

    def form(self, number: int) -> Form | None:
        """How a block of the original runs here; None where it does not."""
        if number in self.removed:
            return None
        return Form(self.model, self._starts[number], self._blocks[number].end)

    def value(self, name: str) -> Form | None:
        """How a value outside the blocks is made here; None where nothing needs it here."""
        value = self._values.get(name)
        return None if value is None else Form(self.model, None, value)

    @functools.cached_property
    def _values(self) -> Mapping[str, ir.Value]:
        return ir.convenience.create_value_mapping(self.model.graph, include_subgraphs=False)


def blocks_of(model: ir.Model) -> Sequence[Block]:
    """The blocks of a model by number, over all its stacks."""
    return [block for stack in find_stacks(model) for block in stack.blocks]
