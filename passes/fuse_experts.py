# SPDX-License-Identifier: Apache-2.0
"""Fuse-experts: a mixture-of-experts layer as one node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.conversion import remove_unread, to_dispatch
from edgefold.passes.experts.dispatched import DispatchedLayer, find_dispatched
from edgefold.passes.experts.packed import CannotFuseError, shift_moe
from edgefold.passes.experts.qmoe import qmoe, version_of, why_not

Write = Callable[[ir.Graph, DispatchedLayer, ir.Value], list[ir.Node]]
"""From a graph, a layer in it and its gates to the nodes that compute it, the last of which gives the output."""


class FuseExperts(Pass, frozen=True, kw_only=True):
    """Puts one node in the place of a mixture-of-experts layer.

    What it does: with ``form: shift``, the integer weights of a layer that `dispatch-experts` and `quantize` have gone
    over are stacked, and one ``ShiftMoE`` reads them: a token's row is quantized once for all its experts, an expert's
    weights are read once for all its tokens, and there is one node to start instead of a dozen an expert. With ``form:
    qmoe``, float experts become the 4-bit codes (blocks of 32, rounded to nearest) of ONNX Runtime's own QMoE, for
    runtimes without the EdgeFold library; layers that are not in dispatch form are brought into it first.

    When it fires: experts of one shape and one activation: ReLU, SiLU, GELU (both forms) or none, alone or times a
    second product, or the clamped SwiGLU of gpt-oss. ``shift`` asks for one width of weights, dynamic 8-bit activations
    and biases within the products. ``qmoe`` asks for SwiGLU, or ReLU, SiLU or none alone, and widths of 64 or more that
    32 divides.

    When it does not: quantized products for ``qmoe``; float or factored ones for ``shift``; experts of unequal widths.
    A ``runtime``, the oldest version of ONNX Runtime that is to run the model, whose QMoE is wrong is refused: before
    1.26, and 1.27.0, which can hang.

    Numerics: ``shift`` computes what the products did, with an activation function of its own whose last bits may
    differ and then turn a code of the hidden row, one of 255. ``qmoe`` rounds weights, and from runtime 1.31 on rows
    too, to 8 bits. Both are measured, as lossy passes are.

    Example: ``{pass: fuse-experts}``.
    """

    form: Literal["shift", "qmoe"] = "shift"
    runtime: str = "1.31"
    effect: ClassVar[Effect] = Effect.LOSSY

    def __post_init__(self) -> None:
        try:
            reason = why_not(version_of(self.runtime)) if self.form == "qmoe" else ""
        except ValueError:
            reason = "no version of ONNX Runtime; expected one such as 1.31"
        if reason:
            raise ValueError(f"runtime {self.runtime}: {reason}")

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        from edgefold.ops import add_functions  # onnxscript takes a second to import

        skips: list[Skip] = []
        write: Write = shift_moe
        if self.form == "qmoe":
            write = functools.partial(qmoe, version=version_of(self.runtime))
            if context.probe is not None and context.compute is not None:
                skips += to_dispatch(model, context)[1]
        edits = []
        for layer in find_dispatched(model):
            if context.excludes(layer.name):
                skips.append(Skip(layer.name, SkipReason.EXCLUDED))
                continue
            try:
                operator = _replace(model.graph, layer, write)
            except CannotFuseError as error:
                skips.append(Skip(layer.name, error.reason, str(error)))
                continue
            edits.append(Edit(layer.name, f"{len(layer.experts)} experts: one {operator}"))
        if edits and self.form == "qmoe":
            model.graph.opset_imports.setdefault("com.microsoft", 1)
        add_functions(model)
        return Notes(tuple(edits), tuple(skips), {"layers": len(edits)})


def _replace(graph: ir.Graph, layer: DispatchedLayer, write: Write) -> str:
    """Puts what `write` makes in the place of a layer, and says which operator that is."""
    order = _gates_in_order(layer)
    gates = order[-1].outputs[0] if order else layer.gates
    last = layer.nodes[-1]
    nodes = [*order, *write(graph, layer, gates)]
    made_of = ",".join(str(expert.scatter.name) for expert in layer.experts)
    for node in nodes:
        node.metadata_props.update({"edgefold.pass": "fuse-experts", "edgefold.from": made_of})
        node.outputs[0].name = f"{node.name}/fused"
    output = nodes[-1].outputs[0]
    output.shape, output.type = layer.output.shape, layer.output.type
    graph.insert_after(last, nodes)
    layer.output.replace_all_uses_with(output, replace_graph_outputs=True)
    name = str(layer.output.name)
    remove_unread(graph, [last])
    output.name = name
    return nodes[-1].op_type


def _gates_in_order(layer: DispatchedLayer) -> list[ir.Node]:
    """What picks the columns of the layer's experts, in their order, from its gates; nothing where they are that."""
    indices = [expert.index for expert in layer.experts]
    shape = layer.gates.shape
    if shape is not None and shape[-1] == len(indices) and indices == list(range(len(indices))):
        return []
    numbers = ir.tensor(np.array(indices, np.int64))
    columns = ir.node("Constant", [], {"value": numbers}, name=f"{layer.name}/columns")
    picked = ir.node("Gather", [layer.gates, columns.outputs[0]], {"axis": 1}, name=f"{layer.name}/gates.columns")
    return [columns, picked]
