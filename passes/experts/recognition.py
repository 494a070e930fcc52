# SPDX-License-Identifier: Apache-2.0
"""Finds mixture-of-experts layers in any form that exporters give them.

Feed-forward bodies that the same choice routes tokens through are taken for the experts of one layer. Which value of
the graph is its output, and which are its gates, is tried out: the layer is run on its own, and what was understood of
it must give the same numbers, else it is left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.experts.activation import Expression
from edgefold.passes.experts.certificate import TOLERANCE, Block, Run, UncutError, difference, mixture
from edgefold.passes.experts.dispatch import Expert
from edgefold.passes.experts.gates import Gates, Semantics, semantics
from edgefold.passes.experts.matrices import Weights
from edgefold.passes.experts.proposals import CHOICES, Proposal, gates_before, joins, logits_of, propose
from edgefold.passes.pruning.groups import Trace


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer that was understood, and that computes what was understood.

    Attributes:
        name: for reports and new nodes.
        form: how its experts stand in the graph.
        x, output: of the same shape.
        gates: of each token for each expert.
        experts: in the order of the gates.
        activation: over each expert's `inputs`.
        top: experts that a token goes to.
        semantics: of the gates.
        error: the largest difference that was seen, as a share of the largest output.
    """

    name: str
    form: str
    x: ir.Value
    output: ir.Value
    gates: Gates
    experts: tuple[Expert, ...]
    activation: Expression
    top: int
    semantics: Semantics
    error: float


def find_layers(model: ir.Model, context: Context) -> tuple[list[Layer], list[Skip]]:
    """The layers of a model's main graph, in order, and what was left alone with the reason.

    Args:
        model: not changed.
        context: `probe` and `compute` are needed, `calibration` adds real tokens to the random ones.
    """
    if context.probe is None or context.compute is None or not _may_have_layers(model):
        return [], []
    trace = context.probe(model)
    layers: list[Layer] = []
    skips: list[Skip] = []
    for proposal in propose(model.graph, trace):
        found = _decide(model, proposal, trace, context)
        if isinstance(found, Layer):
            layers.append(found)
        else:
            skips.append(found)
    return layers, skips


def _may_have_layers(model: ir.Model) -> bool:
    return any(node.op_type in CHOICES for node in model.graph)


def _decide(model: ir.Model, proposal: Proposal, trace: Trace, context: Context) -> Layer | Skip:
    """The layer that a proposal is, by what it computes."""
    if context.excludes(proposal.name):
        return Skip(proposal.name, SkipReason.EXCLUDED)
    if proposal.count != proposal.columns:
        why = f"{proposal.count} of {proposal.columns} experts: export it again with all of them"
        return Skip(proposal.name, SkipReason.INCOMPLETE_TRACE, why)
    sources, activation = proposal.bodies[0].sources, proposal.bodies[0].activation
    if any(body.activation != activation for body in proposal.bodies):
        return Skip(proposal.name, SkipReason.NOT_UNDERSTOOD, "its experts have different activations")
    outputs = {value: x for value in joins(model.graph, proposal) if (x := _beside(value, sources, trace)) is not None}
    gates = list(gates_before(model.graph, proposal, trace, list(outputs)))
    if not outputs or not gates:
        return Skip(
            proposal.name, SkipReason.NOT_UNDERSTOOD, "no value of the graph has the shape of its output or gates"
        )
    logits = logits_of(proposal.choice, Weights(trace))
    try:
        wanted = [*outputs, *(value for one in gates for value in one.values), logits]
        runs = list(Block.cut(model, proposal.root, wanted, trace).runs(context))
    except UncutError as refusal:
        return Skip(proposal.name, SkipReason.INSEPARABLE, str(refusal))
    experts = tuple(expert for body in proposal.bodies for expert in body.experts())
    chosen, output, error = _closest(gates, list(outputs), runs, experts, activation)
    if error > TOLERANCE:
        why = f"what was read of it differs by {error:.1g} of its largest output"
        return Skip(proposal.name, SkipReason.NOT_UNDERSTOOD, why)
    scores = runs[-1].found[str(logits.name)].reshape(-1, len(experts))
    seen = semantics(scores, chosen.dense(runs[-1].found, len(experts)))
    x, top = outputs[output], proposal.top
    return Layer(proposal.name, proposal.form, x, output, chosen, experts, activation, top, seen, error)


def _closest(
    gates: Sequence[Gates],
    outputs: Sequence[ir.Value],
    runs: Sequence[Run],
    experts: Sequence[Expert],
    activation: Expression,
) -> tuple[Gates, ir.Value, float]:
    """The gates and the output that agree best in the first run, and their largest difference over all runs."""
    pairs = {}
    for number, one in enumerate(gates):
        expected = mixture(runs[0], one, experts, activation)
        pairs.update({(number, output): difference(runs[0].found[str(output.name)], expected) for output in outputs})
    number, output = min(pairs, key=pairs.__getitem__)
    found = ((run.found[str(output.name)], mixture(run, gates[number], experts, activation)) for run in runs)
    return gates[number], output, max(difference(*pair) for pair in found)


def _beside(output: ir.Value, sources: Sequence[ir.Value], trace: Trace) -> ir.Value | None:
    """The tokens in the shape of the output."""
    shape = trace.shapes.get(str(output.name))
    found = next((value for value in sources if trace.shapes.get(str(value.name)) == shape), None)
    if found is not None and found.shape is None and shape is not None:
        found.shape = ir.Shape([None] * len(shape))
    return found
