# SPDX-License-Identifier: Apache-2.0
"""A copy of a model without some of its blocks, repaired, beside the original block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._layer_inputs import Rows
from edgefold.passes.base import Calibrates, Notes
from edgefold.passes.depth.blocks import Block, find_stacks
from edgefold.passes.depth.elastic import Form
from edgefold.passes.depth.repair import repair_depth
from edgefold.passes.depth.surgery import cut_out, followed, removed_runs

_JUDGED_ROWS = 4096  # of the outputs, which may be as wide as a vocabulary
_TINY = 1e-30


class Truncated:
    """A model without some blocks.

    Args:
        original: stays as it is.
        removed: numbers of its blocks; with none it is the model at its full depth.

    Attributes:
        model: the copy.
    """

    def __init__(self, original: ir.Model, removed: Collection[int]) -> None:
        self.model = original.clone()
        self._removed = frozenset(removed)
        self._blocks = blocks_of(self.model)
        gone = [self._blocks[number] for number in sorted(removed)]
        before = {block.end: block.start for block in gone}
        self._targets = removed_runs(gone)
        self._starts = [followed(block.start, before) for block in self._blocks]
        cut_out(self.model, *gone)

    def repair(self, original: ir.Model, calibration: Calibrates, exclude: Callable[[str], bool]) -> Notes:
        """Refits what writes to the stream; the block before a removed run aims at the stream behind the run."""
        return repair_depth(self.model, original, calibration, self._targets, exclude=exclude)

    def held_out_errors(
        self, original: ir.Model, calibration: Calibrates, exclude: Callable[[str], bool]
    ) -> tuple[float, float] | None:
        """The error of the outputs on odd batches as it is, and after a refit on the even ones, which it does not keep.

        None where there is one batch only.
        """
        fitted = self.model.clone()
        repair_depth(fitted, original, calibration.through(fitted, half=0), self._targets, exclude=exclude)
        unseen = [calibration.through(model, half=1) for model in (original, self.model, fitted)]
        requests = [Rows(str(value.name)) for value in original.graph.outputs]
        wanted, *found = (one.rows(requests, _JUDGED_ROWS) for one in unseen)
        if not wanted:
            return None
        before, after = (sum(_relative(one[request], wanted[request]) for request in requests) for one in found)
        return before, after

    def form(self, number: int) -> Form | None:
        """How a block of the original runs here; None where it does not."""
        if number in self._removed:
            return None
        return Form(self.model, self._starts[number], self._blocks[number].end)

    def value(self, name: str) -> Form | None:
        """How a value outside the blocks is made here; None where nothing needs it here."""
        value = self._values.get(name)
        return None if value is None else Form(self.model, None, value)

    @functools.cached_property
    def _values(self) -> Mapping[str, ir.Value]:
        return ir.convenience.create_value_mapping(self.model.graph, include_subgraphs=False)


def _relative(got: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Squared error over energy."""
    return float(np.square(got - wanted).sum() / max(float(np.square(wanted).sum()), _TINY))


def blocks_of(model: ir.Model) -> Sequence[Block]:
    """The blocks of a model by number, over all its stacks."""
    return [block for stack in find_stacks(model) for block in stack.blocks]
