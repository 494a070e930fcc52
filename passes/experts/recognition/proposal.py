# SPDX-License-Identifier: Apache-2.0
"""What may be a mixture-of-experts layer: the ways to read it, one of which has to give its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgefold.passes.experts.activation import Expression
from edgefold.passes.experts.dispatch import Expert
from edgefold.passes.experts.recognition.gates import Gates
from edgefold.passes.pruning.groups import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a layer whose weights are known.

    Attributes:
        activation: over each expert's `inputs`.
        gates: of each token for each expert.
    """

    activation: Expression
    gates: Gates


@dataclasses.dataclass(frozen=True, eq=False)
class Proposal:
    """What may be a layer.

    Attributes:
        name: for reports and new nodes.
        form: how its experts stand in the graph.
        root: where the tokens enter.
        outputs: the values that may be its output, each with the tokens in the same shape; the likeliest first.
        experts: in the order of the gates.
        readings: the likeliest first.
        logits: of the router, [..., E].
        top: experts that a token goes to.
    """

    name: str
    form: str
    root: ir.Value
    outputs: Mapping[ir.Value, ir.Value]
    experts: tuple[Expert, ...]
    readings: tuple[Reading, ...]
    logits: ir.Value
    top: int

    @property
    def observed(self) -> list[ir.Value]:
        """The values that have to be known to judge it."""
        gates = (value for reading in self.readings for value in reading.gates.values)
        return list(dict.fromkeys([*self.outputs, *gates, self.logits]))


def with_tokens(outputs: Sequence[ir.Value], sources: Sequence[ir.Value], trace: Trace) -> dict[ir.Value, ir.Value]:
    """Values with the tokens of the same shape, those that have such tokens."""
    found = {}
    for output in outputs:
        shape = trace.shapes.get(str(output.name))
        x = next((value for value in sources if trace.shapes.get(str(value.name)) == shape), None)
        if x is not None:
            found[output] = x
    return found
