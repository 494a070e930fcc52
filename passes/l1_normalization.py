# SPDX-License-Identifier: Apache-2.0
"""L1-normalization: deviations become means of magnitudes, which integers compute without squares and roots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import remove_if_unread, trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.normalization.l1_fit import fit_layers
from edgefold.passes.normalization.l1_nodes import L1Node, code_outputs, l1_nodes
from edgefold.passes.normalization.recognition import Normalization, normalization

GAUSSIAN = math.sqrt(2 / math.pi)
"""Mean absolute deviation of a Gaussian by its standard deviation."""


class L1Normalization(Pass, frozen=True, kw_only=True):
    """Replaces layer normalizations by their L1 form, an integer pipeline that also quantizes what it writes.

    What it does: ``(x - mean) / sqrt(mean((x - mean)^2) + e) * gamma + beta`` over the last axis becomes
    L1LayerNormalization, which divides by mean|x - mean| (Wu et al., arXiv 1802.09769, section 3). The ratio of the two
    deviations depends on the distribution, so it is fitted by least squares on calibration data, layer after layer on
    the inputs that the changed model has, and goes into gamma and beta. Where all that quantized matrix products ask
    of the output is static codes of one scale, the operator writes these codes; other readers dequantize them.

    When it fires: on LayerNormalization, RMSNormalization (whose L1 form divides by mean|x|), and both written out with
    ReduceMean, Sub, Pow or Mul, Sqrt, Div. The codes need ``quantize`` with static activations before; on a model with
    L1 normalizations the pass does that part alone.

    When it does not: batch normalization, whose statistics are constants at inference: there is nothing to gain.
    Instance and group normalization, other axes, statistics that are read elsewhere. Each is a skip with its reason.

    Numerics: lossy.

    Example: ``LayerNormalization(x, gamma, beta)`` becomes ``L1LayerNormalization(x, y.gamma, y.beta,
    edgefold.zero_shift)``.

    Attributes:
        fit: `layer`, one factor a layer; `channel`, a factor and an offset for each channel. Without calibration data
            the factor of Gaussian rows is taken.
        codes: whether outputs become codes where that can be.
    """

    effect: ClassVar[Effect] = Effect.LOSSY

    fit: Literal["layer", "channel"] = "channel"
    codes: bool = True

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from edgefold.ops import add_functions  # onnxscript takes a second to import

        graph = model.graph
        store = InitializerStore(graph)
        found, skips = _find(model, context)
        replaced = [_replace(graph, store, one) for one in found]
        edits = [Edit(node.label, "L1 form") for node in replaced]
        add_functions(model)
        stats: dict[str, float | int | str] = {}
        if context.calibration is None:
            skips += [Skip(one.label, SkipReason.NO_CALIBRATION, "the factor of Gaussian rows") for one in replaced]
        elif replaced:
            stats |= fit_layers(replaced, model, context.calibration, per_channel=self.fit == "channel")
        if self.codes:
            fused, refused = code_outputs(graph, store, [one for one in l1_nodes(graph) if _allowed(one, context)])
            edits += fused
            skips += refused
        return Notes(tuple(edits), tuple(skips), stats)


def _allowed(node: L1Node, context: Context) -> bool:
    return not context.excludes(node.label)


def _find(model: ir.Model, context: Context) -> tuple[list[Normalization], list[Skip]]:
    """The normalizations of the main graph, and a Skip for each that is left alone."""
    found: list[Normalization] = []
    skips: list[Skip] = []
    for node in model.graph:
        one = normalization(node)
        if isinstance(one, Skip):
            skips.append(one)
        elif one is not None and _excluded(one, context):
            skips.append(Skip(one.label, SkipReason.EXCLUDED))
        elif one is not None:
            found.append(one)
    skips += [Skip(label, SkipReason.SUBGRAPH) for label in _inside_bodies(model)]
    return found, skips


def _inside_bodies(model: ir.Model) -> Iterator[str]:
    bodies = [node for node in model.graph.all_nodes() if node.graph is not model.graph]
    bodies += [node for function in model.functions.values() if function.domain != "ai.edgefold" for node in function]
    return (node_label(node) for node in bodies if isinstance(normalization(node), Normalization))


def _excluded(one: Normalization, context: Context) -> bool:
    return any(context.excludes(node_label(node)) for node in one.nodes) or context.excludes(str(one.output.name))


def _replace(graph: ir.Graph, store: InitializerStore, one: Normalization) -> L1Node:
    """Puts the operator in the place of the nodes; those of them that others read stay."""
    name = str(one.output.name)
    gamma = store.add_own(f"{name}.gamma", one.gamma * np.float32(GAUSSIAN))
    beta = store.add_own(f"{name}.beta", one.beta)
    node = L1Node.make(
        one.label, one.x, gamma, beta, store, epsilon=math.sqrt(one.epsilon) * GAUSSIAN, centred=one.centred
    )
    node.output.shape = one.output.shape
    node.node.metadata_props.update(
        {"edgefold.pass": "l1-normalization", "edgefold.from": ",".join(node_label(old) for old in one.nodes)}
    )
    constants = [trace_constant(value) for old in one.nodes for value in old.inputs]
    ir.convenience.replace_nodes_and_values(
        graph, one.nodes[-1], _unread(one.nodes), [node.node], [one.output], [node.output]
    )
    for constant in constants:
        if constant is not None:
            remove_if_unread(constant)
    return node


def _unread(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """The nodes that only feed one another, last first; the last one's output is replaced."""
    gone = [nodes[-1]]
    for node in reversed(nodes[:-1]):
        value = node.outputs[0]
        if not value.is_graph_output() and all(use.node in gone for use in value.uses()):
            gone.append(node)
    return gone
