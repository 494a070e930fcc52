# SPDX-License-Identifier: Apache-2.0
"""What quantize leaves alone, and the reason it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import graph, nodes, run, weights

from edgefold.passes import Context, SkipReason
from edgefold.passes.quantize import Quantize

W = weights(64, 48)
NAN = W.copy()
NAN[3, 4] = np.nan
SAFE = "g (float[N, 64] x) => (float[N, 48] y)"
SKIPS = {
    "activation times activation": (
        "g (float[N, 64] x, float[64, 48] w) => (float[N, 48] y) { [n] y = MatMul(x, w) }",
        {},
        SkipReason.NOT_CONSTANT,
    ),
    "double": (
        "g (double[N, 64] x) => (double[N, 48] y) { [n] y = MatMul(x, w) }",
        {"w": W.astype(np.float64)},
        SkipReason.DTYPE,
    ),
    "NaN": (f"{SAFE} {{ [n] y = MatMul(x, w) }}", {"w": NAN}, SkipReason.NOT_FINITE),
    "tiny": (
        "g (float[N, 3] x) => (float[N, 2] y) { [n] y = MatMul(x, w) }",
        {"w": weights(3, 2)},
        SkipReason.WOULD_GROW,
    ),
    "stack of matrices": (
        "g (float[2, N, 64] x) => (float[2, N, 48] y) { [n] y = MatMul(x, w) }",
        {"w": weights(2, 64, 48)},
        SkipReason.RANK,
    ),
    "transA": (
        "g (float[64, N] x) => (float[N, 48] y) { [n] y = Gemm<transA = 1>(x, w) }",
        {"w": W},
        SkipReason.ATTRIBUTE,
    ),
    "C of Gemm differs between rows": (
        "g (float[2, 64] x) => (float[2, 48] y) { [n] y = Gemm(x, w, c) }",
        {"w": W, "c": weights(2, 48)},
        SkipReason.ATTRIBUTE,
    ),
    "weights are a graph output": (
        "g (float[N, 64] x) => (float[N, 48] y, float[64, 48] v) { [n] y = MatMul(x, w)\n v = Identity(w) }",
        {"w": W},
        SkipReason.GRAPH_OUTPUT,
    ),
    "weights have another reader": (
        "g (float[N, 64] x) => (float[N, 48] y, float[64, 48] v) { [n] y = MatMul(x, w)\n v = Relu(w) }",
        {"w": W},
        SkipReason.SHARED_WEIGHT,
    ),
    "already quantized by ONNX Runtime's own operators": (
        "g (float[N, 64] x) => (float[N, 48] y) { s = Constant<value_float = 0.1>()\n"
        "[n] y = com.microsoft.MatMulNBits<K = 64, N = 48, bits = 4, block_size = 32>(x, q, s) }",
        {"q": np.ones((48, 2, 16), np.uint8)},
        SkipReason.ALREADY_QUANTIZED,
    ),
    "already quantized": (
        f"{SAFE} {{ s = Constant<value_float = 0.1>()\n z = Constant<value = int8 {{0}}>()\n"
        "[d] w = DequantizeLinear(q, s, z)\n [n] y = MatMul(x, w) }",
        {"q": np.ones((64, 48), np.int8)},
        SkipReason.ALREADY_QUANTIZED,
    ),
    "lookup along another axis": (
        "g (int64[N] x) => (float[64, N] y) { [n] y = Gather<axis = 1>(w, x) }",
        {"w": W},
        SkipReason.ATTRIBUTE,
    ),
    "padding depends on an unknown size": (
        "g (float[1, 16, H, 8] x) => (float[1, 32, A, B] y) "
        '{ [n] y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w) }',
        {"w": weights(32, 16, 3, 3)},
        SkipReason.DYNAMIC_SHAPE,
    ),
    "no packed form": (
        "g (float[1, 16, 5, 5] x) => (float[1, 32, A, B] y) { [n] y = ConvTranspose(x, w) }",
        {"w": weights(16, 32, 3, 3)},
        SkipReason.TARGET_LACKS_OP,
    ),
    "operator of another domain": (
        f"{SAFE} {{ [n] y = com.microsoft.FusedMatMul(x, w) }}",
        {"w": W},
        SkipReason.TARGET_LACKS_OP,
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_left_alone_with_its_reason(case: str) -> None:
    text, initializers, reason = SKIPS[case]
    model = graph(text, initializers)
    before = nodes(model)
    notes = Quantize(weights=8, method="shift").rewrite(model, Context())
    assert nodes(model) == before
    assert not notes.edits
    assert ("n", reason) in [(skip.node, skip.reason) for skip in notes.skips]


def test_nan_weights_are_named() -> None:
    notes = Quantize().rewrite(graph(f"{SAFE} {{ [n] y = MatMul(x, w) }}", {"w": NAN}), Context())
    assert str(notes.skips[0]) == "n: weight holds NaN or infinity (tensor w)"


@pytest.mark.parametrize("pattern", ["n", "*", "y"])
def test_excluded_by_node_or_output_name(pattern: str) -> None:
    model = graph(f"{SAFE} {{ [n] y = MatMul(x, w) }}", {"w": W})
    notes = Quantize().rewrite(model, Context(exclude=(pattern,)))
    assert not notes.edits
    assert [skip.reason for skip in notes.skips] == [SkipReason.EXCLUDED]


def test_without_calibration_convolutions_keep_float_activations_and_rounding_is_nearest() -> None:
    text = "g (float[1, 16, 9, 9] x) => (float[1, 32, 7, 7] y) { [n] y = Conv(x, w) }"
    model = graph(text, {"w": weights(32, 16, 3, 3)})
    notes = Quantize(weights=8, method="shift", rounding="gptq").rewrite(model, Context())
    assert [(skip.node, skip.reason) for skip in notes.skips] == [
        ("model", SkipReason.NO_CALIBRATION),
        ("n", SkipReason.NO_CALIBRATION),
    ]
    [node] = model.graph
    assert node.op_type == "FloatConv"
    run(model, {"x": weights(1, 16, 9, 9)})


def test_weights_listed_among_the_inputs_leave_the_inputs_too() -> None:
    model = graph(f"{SAFE} {{ [n] y = MatMul(x, w) }}", {"w": W})
    model.graph.inputs.append(model.graph.initializers["w"])
    notes = Quantize(weights=8, method="shift").rewrite(model, Context())
    assert notes.edits
    assert [value.name for value in model.graph.inputs] == ["x"]
    run(model, {"x": weights(2, 64)})


@pytest.mark.parametrize(("activations", "said"), [(8, True), ("float", False)])
def test_convolutions_without_calibration_are_said_to_be_no_faster(activations: Any, said: bool) -> None:
    text = "g (float[1, 8, 5, 5] x) => (float[1, 16, 5, 5] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    notes = Quantize(activations=activations).rewrite(graph(text, {"w": weights(16, 8, 3, 3)}), Context())
    assert ("no faster: 1. A task file" in str(notes.stats.get("finding"))) == said


def test_linear_layers_need_no_calibration() -> None:
    notes = Quantize().rewrite(graph(f"{SAFE} {{ y = MatMul(x, w) }}", {"w": W}), Context())
    assert "finding" not in notes.stats
