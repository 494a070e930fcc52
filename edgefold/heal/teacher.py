# SPDX-License-Identifier: Apache-2.0
"""What the original says about the training data: its outputs and hidden tensors, from ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.session import make_session, run

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.heal.samples import Samples

Array = np.ndarray[Any, Any]
CACHE_BYTES = 2 << 30


class Teacher:
    """Runs the original, whatever its operators, and remembers what does not change from epoch to epoch.

    Args:
        model: read once, never changed.
        names: tensors to give: outputs, or tensors of the main graph; without any the model is never run.
        threads: of ONNX Runtime; 0 leaves the choice to it.
    """

    def __init__(self, model: ir.Model, names: Sequence[str], threads: int = 0) -> None:
        self.model, self.names = model, list(names)
        self._session = make_session(_giving(model, self.names), threads=threads) if names else None
        self._kept: dict[str, Array] = {}
        self._place = np.zeros(0, np.intp)  # of each row in what is kept

    def __call__(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """The named tensors for some inputs [rows, ...]: all, or those of ``names``. No more is computed."""
        if self._session is None:
            return {}
        names = self.names if names is None else list(names)
        inputs = {one.name for one in self._session.get_inputs()}
        used = {name: value for name, value in feeds.items() if name in inputs}
        return dict(zip(names, run(self._session, names, used), strict=True))

    def remember(self, samples: Samples, size: int) -> None:
        """Compute the tensors of all samples once, ``size`` at a time, unless together they are too large to keep."""
        rows = np.concatenate([samples.training, samples.held_out])
        first = self(samples.take(rows[:size]))
        per_row = sum(value.nbytes for value in first.values()) / min(size, len(rows))
        if per_row * len(rows) > CACHE_BYTES:
            return
        blocks = [first, *(self(samples.take(rows[start : start + size])) for start in range(size, len(rows), size))]
        self._kept = {name: np.concatenate([block[name] for block in blocks]) for name in self.names}
        self._place = np.zeros(len(samples), np.intp)
        self._place[rows] = np.arange(len(rows))

    def of(self, samples: Samples, rows: Array) -> dict[str, Array]:
        """The tensors of some rows as they are, unchanged by any augmentation."""
        if not self._kept:
            return self(samples.take(rows))
        return {name: value[self._place[rows]] for name, value in self._kept.items()}


def _giving(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of the model (sharing its tensors) whose outputs are the named tensors."""
    copy = model.clone()
    graph = copy.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    by_name = {value.name: value for value in values}
    graph.outputs.clear()
    graph.outputs.extend(by_name[name] for name in names)
    return copy
