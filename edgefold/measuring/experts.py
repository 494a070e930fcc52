# SPDX-License-Identifier: Apache-2.0
"""The mixture-of-experts layers of a model: how many experts, how wide, how they are chosen, in which form."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefold.measuring.text_table import count_text

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgefold.passes.experts.activation import Expression
    from edgefold.passes.experts.dispatch import Expert


@dataclass(frozen=True)
class ExpertsRow:
    """A mixture-of-experts layer.

    Attributes:
        name: its name.
        form: how the experts stand in the graph.
        experts: how many.
        top: how many a token goes to; None where the gates were not looked into.
        inputs, width: elements of a token, and hidden units of an expert.
        activation: its name, `other` without one; `gated` follows where a second product is multiplied in.
        gates: what they are of the router's logits; None as for `top`.
        weights: elements of all experts' matrices; None where they are packed.
    """

    name: str
    form: str
    experts: int
    top: int | None
    inputs: int | None
    width: int | None
    activation: str
    gates: str | None
    weights: int | None

    def to_text(self) -> str:
        """The layer in a line."""
        sizes = "" if self.inputs is None else f" of {self.inputs} to {self.width} ({self.activation})"
        chosen = "" if self.top is None else f", top {self.top} ({self.gates})"
        weights = "" if self.weights is None else f", {count_text(self.weights)} weights"
        return f"{self.name}: {self.experts} experts{sizes}{chosen}{weights}; {self.form}"


def list_experts(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[ExpertsRow, ...], list[str]]:
    """The layers of a model, and a line for each that is not understood.

    Args:
        model: not changed. It is run only if it may have layers that are not in dispatch form.
        shapes: of its inputs.
    """
    from edgefold.errors import ModelError
    from edgefold.passes.base import Context
    from edgefold.passes.experts.dispatched import find_dispatched
    from edgefold.passes.experts.recognition.layers import find_layers
    from edgefold.probing import probe
    from edgefold.session import compute

    rows = []
    for dispatched in find_dispatched(model):
        packed = any(one.packed for one in (*dispatched.experts[0].inputs, dispatched.experts[0].down))
        members = () if packed else tuple(expert.value() for expert in dispatched.experts)
        count = len(dispatched.experts)
        rows.append(_row(dispatched.name, "dispatch form", count, members, dispatched.activation, None, None))
    try:
        layers, skips = find_layers(
            model, Context(probe=functools.partial(probe, shapes=dict(shapes)), compute=compute)
        )
    except ModelError as error:
        return tuple(rows), [f"Mixture-of-experts layers were not looked for: {error}"]
    for one in layers:
        members, gates = one.experts, str(one.semantics)
        rows.append(_row(one.name, one.form, len(members), members, one.activation, one.top, gates))
    return tuple(rows), [f"Not understood as a mixture-of-experts layer: {skip}" for skip in skips]


def experts_text(rows: Sequence[ExpertsRow]) -> list[str]:
    """What a page about the model says of its mixture-of-experts layers."""
    return [row.to_text() for row in rows]


def _row(
    name: str,
    form: str,
    count: int,
    members: Sequence[Expert],
    activation: Expression,
    top: int | None,
    gates: str | None,
) -> ExpertsRow:
    from edgefold.passes.experts.activation import name_of, operands

    shown = f"{name_of(activation) or 'other'}{', gated' if len(operands(activation)) == 2 else ''}"
    if not members:
        return ExpertsRow(name, form, count, top, None, None, shown, gates, None)
    inputs, width = members[0].inputs[0].weight.shape
    weights = sum(one.weight.size for expert in members for one in (*expert.inputs, expert.down))
    return ExpertsRow(name, form, count, top, inputs, width, shown, gates, weights)
