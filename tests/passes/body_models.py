# SPDX-License-Identifier: Apache-2.0
"""Models with weights inside If and Loop, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from graphs import Array, weights

from edgefold.nodewise import PORTABLE_TOLERANCE
from edgefold.passes import Context, Notes
from edgefold.passes._names import name_apart
from edgefold.passes.quantize import Quantize
from edgefold.verification import check_onnx, run_model

NESTED = """g (float[N, 64] x, int64 trips, bool c) => (float[N, 64] y) {
    yes = Constant<value = bool {1}>()
    [loop] y = Loop(trips, yes, x) <body = l (int64 i, bool go, float[N, 64] s) => (bool on, float[N, 64] next) {
        on = Identity(go)
        [inner] h = If(c) <
            then_branch = a () => (float[N, 64] p) { [n] p = MatMul(s, w) },
            else_branch = b () => (float[N, 64] q) { [n] q1 = MatMul(s, w) q = Neg(q1) }
        >
        next = Tanh(h)
    }>
}"""
W, V = weights(64, 48), weights(64, 48, seed=1)
X = weights(5, 64, seed=2)
EIGHT_BITS = 0.04
"""Of the outputs in root mean square. Codes of rows are off by 1/127 of the largest element over the root of 12, and
that is 2 to 4 times their root mean square: 0.5 to 1 % a layer, those of weights less; errors of the at most eight
layers on a path add up as squares do."""


def quantized(model: ir.Model, context: Context | None = None, **options: object) -> tuple[ir.Model, Notes]:
    """A copy with 8-bit weights, checked."""
    after = model.clone()
    name_apart(after)
    notes = Quantize(**{"weights": 8, "method": "shift", **options}).rewrite(after, context or Context())
    check_onnx(after)
    return after, notes


def assert_close(before: ir.Model, after: ir.Model, data: Mapping[str, Array]) -> None:
    """The library gives what the float model gives, and stock ONNX Runtime what the library gives."""
    wanted, ours = run_model(before, data, library=False), run_model(after, data)
    stock = run_model(after, data, library=False)
    for name, value in wanted.items():
        scale = np.abs(value).max()
        assert np.linalg.norm(ours[name] - value) < EIGHT_BITS * np.linalg.norm(value)
        np.testing.assert_allclose(stock[name], ours[name], atol=PORTABLE_TOLERANCE * scale, rtol=0)


def operators(model: ir.Model) -> dict[str, int]:
    """How many nodes of `ai.edgefold` there are of each type, and products left in float."""
    found: dict[str, int] = {}
    for node in model.graph.all_nodes():
        if node.domain == "ai.edgefold" or node.op_type in ("Conv", "Gather", "Gemm", "MatMul"):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def stored(model: ir.Model) -> list[str]:
    """The names of the stored tensors of all graphs."""
    return sorted(name for one in model.graphs() for name in one.initializers)
