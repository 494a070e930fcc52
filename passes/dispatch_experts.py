# SPDX-License-Identifier: Apache-2.0
"""Dispatch-experts: every mixture-of-experts layer in one form, each expert on the tokens that are routed to it."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from edgefold.passes.base import Context, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.experts.conversion import to_dispatch


class DispatchExperts(Pass, frozen=True, kw_only=True):
    """Brings mixture-of-experts layers into a form in which an expert sees the tokens routed to it, and no others.

    What it does: finds the layers in whatever form an exporter gave them (an expert after the other on masked or on
    all tokens, stacked weights in Einsum or batched products, weights gathered for every token, ONNX Runtime's MoE and
    QMoE), and writes each as Gather, the expert's products, and ScatterND per expert. The router stays as it is; so do
    experts that all tokens go through. Calibration, quantization, low rank and healing then take experts for the
    ordinary products they are. What is not computed any more: the exporter's dense forms run every expert on all
    tokens, or fetch whole matrices for every token.

    When it fires: where one TopK or ArgMax routes tokens through feed-forward bodies, and a numpy model of what was
    read gives the numbers of the layer, run on its own in ONNX Runtime on 1, 7 and 64 random tokens and on tokens of
    the calibration data, up to 1e-4 of the largest (1e-2 in float16). Layers in float16 are then computed in float32,
    which ONNX Runtime's ScatterND asks for; their weights stay float16 in the file.

    When it does not: fewer experts in the graph than the router chooses between (an exporter that followed one batch);
    a layer whose numbers are not those of what was read; experts in bfloat16; experts inside If, Loop or Scan.

    Numerics: reassociated. The products are the same, added up in another order.

    Example: ``{pass: dispatch-experts}``.
    """

    effect: ClassVar[Effect] = Effect.REASSOCIATED

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        if context.probe is None or context.compute is None:
            return Notes(skips=(Skip("model", SkipReason.DYNAMIC_SHAPE, "the model could not be run"),))
        edits, skips = to_dispatch(model, context)
        return Notes(tuple(edits), tuple(skips), {"layers": len(edits)})
