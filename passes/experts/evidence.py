# SPDX-License-Identifier: Apache-2.0
"""What one layer reads and should give, on calibration rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from edgefold.passes._layer_inputs import Rows
from edgefold.passes._refittable import summed_with
from edgefold.passes.base import Calibrates
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.dispatched import DispatchedLayer

_TINY = 1e-30

MAX_ROWS = 32768
"""Tokens that a layer is fitted on: for top 2 of 8 some fifty for each hidden unit of the smallest experts in use."""
MAX_BYTES = 512 << 20
"""Of the rows of one layer, inputs and outputs."""
CHOICE_ROWS = 8192
"""Tokens that experts are told apart by; each of them runs on all of these."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Rows of one layer.

    Attributes:
        x: [rows, d], the tokens as the changed model gives them.
        gates: [rows, E], of the same tokens.
        wanted: [rows, n], what the layer should give.
    """

    x: Array
    gates: Array
    wanted: Array

    def halves(self) -> tuple[Evidence, Evidence]:
        """The first and the second half of the rows, which are of different batches."""
        middle = len(self.x) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Evidence:
        return Evidence(self.x[rows], self.gates[rows], self.wanted[rows])


@dataclasses.dataclass(frozen=True)
class Observer:
    """Sees layers of a model that changes from front to back, and what they gave in the original.

    Attributes:
        changed: statistics of the model.
        original: of the model before.
    """

    changed: Calibrates
    original: Calibrates

    def evidence(self, layer: DispatchedLayer) -> Evidence:
        """Rows of a layer, as many as it is fitted on.

        Raises:
            ModelError: a tensor cannot be observed, or activations are not finite.
        """
        return Evidence(self.see(layer, layer.x), self.see(layer, layer.gates), self._wanted(layer))

    def before(self, layer: DispatchedLayer) -> Evidence:
        """Rows of the layer in the original, as many as its experts are told apart by; raises as `evidence`."""
        requests = [Rows(str(value.name)) for value in (layer.x, layer.gates, layer.output)]
        found = self.original.rows(requests, CHOICE_ROWS)
        return Evidence(*(found[request][0] for request in requests))

    def share(self, layer: DispatchedLayer) -> float:
        """The energy of the layer's output over that of the stream that it is added to, in the original; 1 where it is
        added to nothing. Layers behind read the stream: by this the relative errors of two layers are compared.
        """
        total, _ = summed_with(_unfolded(layer.output)) or (None, None)
        if total is None:
            return 1.0
        own, stream = (_rows(self.original, value, CHOICE_ROWS) for value in (layer.output, total))
        energies = [float(np.square(rows, dtype=np.float64).sum()) for rows in (own, stream)]
        return energies[0] / max(energies[1], _TINY)

    def see(self, layer: DispatchedLayer, value: ir.Value) -> Array:
        """Another value of the changed model on the same rows as the evidence of a layer."""
        return _rows(self.changed, value, _limit(layer))

    def _wanted(self, layer: DispatchedLayer) -> Array:
        """What the layer gave; where it is added to a residual stream, what the stream was less what it has become, so
        that the layer also makes up for earlier ones.
        """
        total, other = summed_with(_unfolded(layer.output)) or (None, None)
        if total is not None and other is not None:
            stream, rest = _rows(self.original, total, _limit(layer)), self.see(layer, other)
            if stream.shape == rest.shape:
                return np.asarray(stream - rest)
        return _rows(self.original, layer.output, _limit(layer))


def _rows(source: Calibrates, value: ir.Value, limit: int) -> Array:
    request = Rows(str(value.name))
    found: Array = source.rows([request], limit)[request][0]
    return found.astype(np.float32, copy=False)


def _limit(layer: DispatchedLayer) -> int:
    """How many rows the layer is fitted on."""
    weight = layer.experts[0].value().down.weight
    return int(min(MAX_ROWS, MAX_BYTES // (8 * max(1, weight.shape[1]))))


def _unfolded(output: ir.Value) -> ir.Value:
    """The output with the axes of the layer's input, where it had more than two, and in its type."""
    while len(uses := list(output.uses())) == 1 and uses[0].idx == 0 and not output.is_graph_output():
        if uses[0].node.op_type not in ("Reshape", "Cast"):
            break
        output = uses[0].node.outputs[0]
    return output
