# SPDX-License-Identifier: Apache-2.0
"""Layers written out in standard operators, with their experts in loops, stacked or gathered."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.experts.recognition.bodies import find_bodies
from edgefold.passes.experts.recognition.candidates import gates_before, joins, logits_of
from edgefold.passes.experts.recognition.matrices import Weights
from edgefold.passes.experts.recognition.proposal import Proposal, Reading, with_tokens
from edgefold.passes.experts.recognition.routed_bodies import RoutedBodies, routed_bodies
from edgefold.passes.pruning.groups import Trace


def propose(graph: ir.Graph, trace: Trace, known: Collection[ir.Node] = ()) -> list[Proposal | Skip]:
    """What may be a layer, and what looks like one that lacks something.

    Args:
        graph: the main graph.
        trace: of the model.
        known: nodes of layers that are not to be found again.
    """
    weights = Weights(trace)
    bodies = [body for body in find_bodies(graph, weights) if body.nodes[-1] not in known]
    return [_proposal(graph, routed, weights, trace) for routed in routed_bodies(graph, bodies, trace)]


def _proposal(graph: ir.Graph, routed: RoutedBodies, weights: Weights, trace: Trace) -> Proposal | Skip:
    if routed.count != routed.columns:
        why = f"{routed.count} of {routed.columns} experts: export it again with all of them"
        return Skip(routed.name, SkipReason.INCOMPLETE_TRACE, why)
    activation = routed.bodies[0].activation
    if any(body.activation != activation for body in routed.bodies):
        return Skip(routed.name, SkipReason.NOT_UNDERSTOOD, "its experts have different activations")
    outputs = with_tokens(list(joins(graph, routed.bodies)), routed.bodies[0].sources, trace)
    gates = list(gates_before(graph, routed, trace, list(outputs)))
    if not outputs or not gates:
        return Skip(routed.name, SkipReason.NOT_UNDERSTOOD, "no value has the shape of its output, or of its gates")
    experts = tuple(expert for body in routed.bodies for expert in body.experts())
    readings = tuple(Reading(activation, one) for one in gates)
    logits = logits_of(routed, weights)
    return Proposal(routed.name, routed.form, routed.root, outputs, experts, readings, logits, routed.top)
