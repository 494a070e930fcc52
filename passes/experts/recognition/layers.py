# SPDX-License-Identifier: Apache-2.0
"""Finds mixture-of-experts layers in any form that exporters give them.

The structure of the graph proposes what the experts of a layer are, and several values that may be its output and its
gates. Arithmetic decides: the layer is run on its own, and what was read of it has to give the same numbers, else it is
left alone.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.experts.activation import Expression
from edgefold.passes.experts.dispatch import Array, Expert
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.recognition import graph_forms, microsoft
from edgefold.passes.experts.recognition.certificate import (
    TOLERANCES,
    Block,
    Run,
    UncutError,
    difference,
    expert_outputs,
    mixture,
)
from edgefold.passes.experts.recognition.gates import Gates, Semantics, semantics
from edgefold.passes.experts.recognition.proposal import Proposal, Reading
from edgefold.passes.pruning.groups import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer that was understood, and that computes what was understood.

    Attributes:
        name: for reports and new nodes.
        form: how its experts stand in the graph.
        x, output: of the same shape.
        rank: of both.
        experts: in the order of the gates.
        activation: over each expert's `inputs`.
        gates: of each token for each expert.
        top: experts that a token goes to.
        semantics: of the gates.
        error: the largest difference that was seen, as a share of the largest output.
    """

    name: str
    form: str
    x: ir.Value
    output: ir.Value
    rank: int
    experts: tuple[Expert, ...]
    activation: Expression
    gates: Gates
    top: int
    semantics: Semantics
    error: float


def find_layers(model: ir.Model, context: Context) -> tuple[list[Layer], list[Skip]]:
    """The layers of a model's main graph that are not in dispatch form, and what was left alone with the reason.

    Args:
        model: not changed.
        context: `probe` and `compute` are needed, `calibration` adds real tokens to the random ones.
    """
    if context.probe is None or context.compute is None or not may_have_layers(model):
        return [], []
    trace = context.probe(model)
    known = {node for layer in find_dispatched(model) for node in layer.nodes}
    proposals = [*graph_forms.propose(model.graph, trace, known), *microsoft.propose(model.graph, trace)]
    found = [one if isinstance(one, Skip) else _decide(model, one, trace, context) for one in proposals]
    return [one for one in found if isinstance(one, Layer)], [one for one in found if isinstance(one, Skip)]


def may_have_layers(model: ir.Model) -> bool:
    """Whether a look for layers is worth the runs that it takes."""
    return any(node.op_type in ("TopK", "ArgMax", *microsoft.OPERATORS) for node in model.graph)


def _decide(model: ir.Model, proposal: Proposal, trace: Trace, context: Context) -> Layer | Skip:
    """The layer that a proposal is, by what it computes."""
    if context.excludes(proposal.name):
        return Skip(proposal.name, SkipReason.EXCLUDED)
    dtype = proposal.experts[0].down.weight.dtype
    if dtype not in TOLERANCES:
        return Skip(proposal.name, SkipReason.DTYPE, f"{dtype}; only float32 and float16 are known")
    try:
        runs = list(Block.cut(model, proposal.root, proposal.observed, trace).runs(context))
    except UncutError as refusal:
        return Skip(proposal.name, SkipReason.INSEPARABLE, str(refusal))
    reading, output = _closest(proposal, runs[0])
    pairs = ((run.found[str(output.name)], _expected(proposal, reading, run)) for run in runs)
    error = max(difference(*pair) for pair in pairs)
    if error > TOLERANCES[dtype]:
        why = f"what was read of it differs by {error:.1g} of its largest output"
        return Skip(proposal.name, SkipReason.NOT_UNDERSTOOD, why)
    logits = runs[-1].found[str(proposal.logits.name)].reshape(-1, len(proposal.experts))
    return Layer(
        name=proposal.name,
        form=proposal.form,
        x=proposal.outputs[output],
        output=output,
        rank=len(trace.shapes[str(output.name)]),
        experts=proposal.experts,
        activation=reading.activation,
        gates=reading.gates,
        top=proposal.top,
        semantics=semantics(logits, reading.gates.dense(runs[-1].found, len(proposal.experts))),
        error=error,
    )


def _closest(proposal: Proposal, run: Run) -> tuple[Reading, ir.Value]:
    """The reading and the output that agree best; of equally good ones the first."""
    given: dict[Expression, Array] = {}
    errors: dict[tuple[Reading, ir.Value], float] = {}
    for reading in proposal.readings:
        if reading.activation not in given:
            given[reading.activation] = expert_outputs(run.x, proposal.experts, reading.activation)
        expected = mixture(given[reading.activation], reading.gates.dense(run.found, len(proposal.experts)))
        for output in proposal.outputs:
            errors[reading, output] = difference(run.found[str(output.name)], expected)
    return min(errors, key=errors.__getitem__)


def _expected(proposal: Proposal, reading: Reading, run: Run) -> Array:
    """What the layer should give by a reading, [T, d]."""
    gates = reading.gates.dense(run.found, len(proposal.experts))
    return mixture(expert_outputs(run.x, proposal.experts, reading.activation), gates)
