# SPDX-License-Identifier: Apache-2.0
"""ShiftMoE: the library equals the composition of ShiftMatMul in every bit, and its body in stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import moe_oracle
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from moe_oracle import GELU, GPT_OSS, RELU, SILU, Layer, random_gates, random_layer, shift_moe

from edgefold.errors import EdgefoldError
from edgefold.runtime import ops_library

FUNCTIONS = {"relu": RELU, "silu": SILU, "gelu": GELU, "gpt-oss": GPT_OSS}


def session(model: onnx.ModelProto, threads: int = 1, *, library: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library:
        try:
            options.register_custom_ops_library(str(ops_library()))
        except EdgefoldError as missing:
            pytest.skip(str(missing))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(one: ort.InferenceSession, x: np.ndarray, gates: np.ndarray) -> np.ndarray:
    return np.asarray(one.run(None, {"x": x, "gates": gates})[0])


def kernel_activation(layer: Layer) -> Callable[[np.ndarray], np.ndarray]:
    """The layer's activation by the kernel that the library chooses."""
    kernels = pytest.importorskip("edgefold._kernels", reason="the compiled module edgefold._kernels is not built")
    [chosen] = [row for row in kernels.families()["activation"] if row.chosen()]
    kind, alpha, beta = (layer.attributes[name] for name in ("function", "alpha", "beta"))
    return lambda x: np.asarray(chosen(x, kind, alpha, beta)) if x.size else x


@pytest.mark.parametrize("method", ["shift", "lut"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_equals_the_composition_of_its_products(gated: bool, function: str, method: str) -> None:
    rng = np.random.default_rng(0)
    for bits, size, top in [(4, (4, 40, 50), 2), (3, (3, 33, 17), 1), (8, (5, 64, 96), 4)]:
        layer = random_layer(rng, size, bits=bits, method=method, gated=gated, **FUNCTIONS[function])
        one = session(moe_oracle.model(layer))
        for tokens in (0, 1, 7, 64):
            x = rng.standard_normal((tokens, size[1])).astype(np.float32)
            gates = random_gates(rng, tokens, size[0], top)
            expected = shift_moe(layer, x, gates, kernel_activation(layer))
            np.testing.assert_array_equal(run(one, x, gates), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(("gated", "biased"), [(True, True), (True, False), (False, True)])
def test_the_body_in_stock_runtime_agrees(function: str, gated: bool, biased: bool) -> None:
    """Up to the activation: a last bit there may turn one code of the hidden row."""
    rng = np.random.default_rng(1)
    for method, size, top in [("shift", (4, 40, 50), 2), ("lut", (3, 33, 17), 1)]:
        layer = random_layer(rng, size, method=method, gated=gated, biased=biased, **FUNCTIONS[function])
        model = moe_oracle.model(layer, body=True)
        onnx.checker.check_model(model)
        ours, stock = session(model), session(model, library=False)
        largest_weight = 127 * max(weights.scales.max() for weights in layer.down)
        for tokens in (0, 1, 7, 64):
            x = rng.standard_normal((tokens, size[1])).astype(np.float32)
            gates = random_gates(rng, tokens, size[0], top)
            y = run(ours, x, gates)
            if function == "relu":
                np.testing.assert_array_equal(run(stock, x, gates), y)
            else:
                step = 40 / 127  # of a hidden row, whose values are well below 40
                np.testing.assert_allclose(run(stock, x, gates), y, rtol=0, atol=top * step * largest_weight)
                np.testing.assert_allclose(np.median(run(stock, x, gates) - y) if tokens else 0, 0, atol=1e-5)


def test_threads_do_not_change_a_bit() -> None:
    rng = np.random.default_rng(2)
    layer = random_layer(rng, (6, 64, 200))
    x, gates = rng.standard_normal((300, 64)).astype(np.float32), random_gates(rng, 300, 6, 2)
    model = moe_oracle.model(layer)
    expected = shift_moe(layer, x, gates, kernel_activation(layer))
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(run(session(model, threads), x, gates), expected)


def test_tokens_of_no_expert_give_zeros_and_of_all_experts_their_sum() -> None:
    rng = np.random.default_rng(3)
    layer = random_layer(rng, (3, 32, 48))
    x = rng.standard_normal((5, 32)).astype(np.float32)
    one = session(moe_oracle.model(layer))
    np.testing.assert_array_equal(run(one, x, np.zeros((5, 3), np.float32)), np.zeros_like(x))
    gates = rng.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(one, x, gates), shift_moe(layer, x, gates, kernel_activation(layer)))


def test_more_tokens_of_one_expert_than_a_tile_holds() -> None:
    rng = np.random.default_rng(4)
    layer = random_layer(rng, (2, 32, 40))
    x, gates = rng.standard_normal((259, 32)).astype(np.float32), np.zeros((259, 2), np.float32)
    gates[:, 0] = 1
    gates[::100, 1] = 0.5
    expected = shift_moe(layer, x, gates, kernel_activation(layer))
    np.testing.assert_array_equal(run(session(moe_oracle.model(layer)), x, gates), expected)


def test_x_may_have_more_axes_and_its_shape_is_inferred() -> None:
    rng = np.random.default_rng(5)
    layer = random_layer(rng, (3, 32, 40))
    x, gates = rng.standard_normal((2, 3, 32)).astype(np.float32), random_gates(rng, 6, 3, 2)
    model = moe_oracle.model(layer, rank=3)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    one = session(model)
    assert one.get_outputs()[0].shape == ["d0", "d1", 32]
    flat = session(moe_oracle.model(layer))
    np.testing.assert_array_equal(run(one, x, gates), run(flat, x.reshape(6, 32), gates).reshape(x.shape))


GOOD = random_layer(np.random.default_rng(0), (3, 40, 20))
TENSORS = moe_oracle.tensors(GOOD)
BROKEN: dict[str, tuple[dict[str, np.ndarray], dict[str, Any], str]] = {
    "layout": ({}, {"layout": 2}, "attribute 'layout' is 2"),
    "bits": ({}, {"bits": 9}, "attribute 'bits' is 9"),
    "bits-other": ({}, {"bits": 5}, r"table has shape \[3,5,16\]; expected \[3,5,32\]"),
    "k-other": ({}, {"k": 44}, r"codes has shape"),
    "k-deep": ({}, {"k": 65537}, "attribute 'k' is 65537"),
    "hidden-other": ({}, {"hidden": 60}, "codes has shape"),
    "gated": ({}, {"gated": 2}, "attribute 'gated' is 2"),
    "function": ({}, {"function": 9}, "attribute 'function' is 9"),
    "limit": ({}, {"limit": -1.0}, "attribute 'limit' is -1"),
    "an-expert-less": ({"down_codes": TENSORS["down_codes"][:2]}, {}, r"codes has shape \[2,.*expected \[3,"),
    "codes-flat": ({"gate_codes": TENSORS["gate_codes"][0]}, {}, "codes has shape"),
    "selectors-beyond": ({"up_selectors": TENSORS["up_selectors"] | 0xFF}, {}, "a selector names a table beyond"),
    "table-flat": ({"up_table": TENSORS["up_table"][0]}, {}, r"table must have shape \[experts, tables, 16\]"),
    "table-minus-128": ({"up_table": np.full_like(TENSORS["up_table"], -128)}, {}, "table holds -128"),
    "scales-flat": ({"down_scales": TENSORS["down_scales"][0]}, {}, r"scales must have shape \[experts, N\]"),
    "bias-other": ({"down_bias": TENSORS["down_bias"][:2]}, {}, r"bias has shape \[2,40\]; expected \[3,40\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_node_is_refused_at_load(case: str) -> None:
    replaced, attributes, message = BROKEN[case]
    layer = Layer(GOOD.gate, GOOD.up, GOOD.down, GOOD.biases, GOOD.attributes | attributes)
    model = moe_oracle.model(layer, **replaced)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=message):
        session(model)


def test_stacks_that_do_not_fit_each_other_are_refused() -> None:
    other = random_layer(np.random.default_rng(1), (3, 40, 24))
    mixed = Layer(GOOD.gate, other.up, GOOD.down, GOOD.biases | {"up": other.biases["up"]}, GOOD.attributes)
    with pytest.raises(Exception, match=r"gate and up must be \[experts, 40, 20\]"):
        session(moe_oracle.model(mixed))


def test_inputs_of_another_shape_are_refused() -> None:
    model = moe_oracle.model(GOOD)
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    one = session(model)
    x = np.zeros((4, 40), np.float32)
    with pytest.raises(Exception, match=r"x has shape \[4,41\]; expected \[..., 40\]"):
        run(one, np.zeros((4, 41), np.float32), np.zeros((4, 3), np.float32))
    for wrong in (np.zeros((4, 2), np.float32), np.zeros((3, 3), np.float32), np.zeros(12, np.float32)):
        with pytest.raises(Exception, match=r"gates has shape .*; expected \[4,3\]"):
            run(one, x, wrong)
