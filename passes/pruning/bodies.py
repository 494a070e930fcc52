# SPDX-License-Identifier: Apache-2.0
"""Bodies of If, Loop and Scan brought into the form that lets every other module take their nodes for the main graph's.

Names are unique throughout the model, stored tensors lie in the main graph, from where bodies read them like any outer
value, and what a Loop hands on unchanged (Keras does so with its weights) is read from outside as well.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgefold.passes._loop_states import drop_constant_states
from edgefold.passes._names import name_apart
from edgefold.passes.pruning.groups import Trace, runs_of


def runs_inside(model: ir.Model, trace: Trace) -> dict[str, int]:
    """How often each node in a body ran in the traced run."""
    counted = (
        (inner, trace.shapes.get(runs_of(str(node.name), attribute.name), (0,)))
        for node in model.graph.all_nodes()
        for attribute in node.attributes.values()
        if attribute.type == ir.AttributeType.GRAPH
        for inner in attribute.as_graph()
    )
    return {str(inner.name): runs[0] for inner, runs in counted}


def open_bodies(model: ir.Model) -> None:
    """Makes names unique, moves stored tensors out of bodies, and takes unchanging states out of Loops; in place."""
    name_apart(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    drop_constant_states(model)
