# SPDX-License-Identifier: Apache-2.0
"""L1LayerNormalization: kernel and function body against numpy, and the integers against real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgefold.errors import EdgefoldError
from edgefold.ops import DOMAIN, function_protos
from edgefold.runtime import ops_library

Array = np.ndarray[Any, Any]
ZERO = np.zeros(1, np.uint8)


def oracle(
    x: Array, gamma: Array, beta: Array, shifts: Array = ZERO, *, epsilon: float = 0.0, centred: int = 1, high: int = 0
) -> Array:
    """The operator in numpy, float32 where the contract says float."""
    one, columns = np.float32(1), np.float32(x.shape[-1])
    if x.dtype == np.int8:
        factor, levels = np.float32(128), x.astype(np.int64) * 128
    else:
        absmax = np.abs(x).max(axis=-1, keepdims=True)
        present = absmax > np.float32(1e-30)
        factor = np.where(present, np.float32(16383) / np.where(present, absmax, one), 0 * one)
        levels = np.rint(x * factor).astype(np.int64)
    mean = np.rint(levels.sum(axis=-1, keepdims=True).astype(np.float32) / columns).astype(np.int64)
    differences = levels - mean * centred
    deviation = np.abs(differences).sum(axis=-1, keepdims=True)
    assert deviation.max(initial=0) < 2**31
    divisor = np.maximum(deviation.astype(np.float32), columns * (np.float32(epsilon) * factor))
    scale = np.where(divisor > 0, columns / np.where(divisor > 0, divisor, one), 0 * one)
    y: Array = differences.astype(np.float32) * (scale * gamma) + beta
    return y if high == 0 else (np.clip(np.rint(y), -high, high).astype(np.int8) << shifts).astype(np.int8)


def model(x: Array, gamma: Array, beta: Array, shifts: Array, opset: int = 21, **attributes: Any) -> onnx.ModelProto:
    """A model of one node with its function, for inputs of the type and rank of x."""
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    y_type = TensorProto.INT8 if attributes["activation_high"] else TensorProto.FLOAT
    attributes = {"x_codes": int(element == TensorProto.INT8), "y_dtype": y_type} | attributes
    node = helper.make_node(
        "L1LayerNormalization", ["x", "gamma", "beta", "shifts"], ["y"], domain=DOMAIN, **attributes
    )
    shape = [*(f"d{i}" for i in range(x.ndim - 1)), x.shape[-1]]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", y_type, shape)],
        [numpy_helper.from_array(v, n) for n, v in {"gamma": gamma, "beta": beta, "shifts": shifts}.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    functions = function_protos(opset, ["L1LayerNormalization"])
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)


def run(proto: onnx.ModelProto, x: Array, *, library: bool) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if library:
        try:
            options.register_custom_ops_library(str(ops_library()))
        except EdgefoldError as missing:
            pytest.skip(str(missing))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def parameters(columns: int, size: float = 30.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(columns)
    return tuple((rng.standard_normal(columns) * size).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def rows(columns: int, dtype: type) -> Array:
    """Rows of several sizes, among them a constant one, one of zeros, and one with an outlier."""
    x = np.random.default_rng(columns).standard_normal((2, 4, columns)) * 20
    x[0, 0], x[0, 1] = 0, 3
    x[0, 2, columns // 2] = 127
    return np.clip(np.rint(x), -128, 127).astype(np.int8) if dtype is np.int8 else x.astype(np.float32)


FORMS = [
    pytest.param({"high": 0}, id="float"),
    pytest.param({"high": 0, "centred": 0}, id="float, not centred"),
    pytest.param({"high": 127, "epsilon": 5.0}, id="codes, epsilon"),
    pytest.param({"high": 127, "centred": 0}, id="codes, not centred"),
    pytest.param({"high": 7}, id="4-bit codes, shifted"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
@pytest.mark.parametrize("library", [False, True], ids=["body", "kernel"])
def test_equals_numpy_in_every_bit(library: bool, dtype: type, form: dict[str, Any]) -> None:
    for columns in (1, 7, 33, 64, 100):
        x, (gamma, beta) = rows(columns, dtype), parameters(columns)
        shifts = np.arange(columns, dtype=np.uint8) % 5 if form["high"] == 7 else ZERO
        want = oracle(x, gamma, beta, shifts, **form)
        settled = {"epsilon": 0.0, "centred": 1} | form
        high = settled.pop("high")
        got = run(model(x, gamma, beta, shifts, activation_high=high, **settled), x, library=library)
        np.testing.assert_array_equal(got, want, strict=True)


@pytest.mark.parametrize("opset", [21, 26])
@pytest.mark.parametrize("library", [False, True], ids=["body", "kernel"])
def test_a_constant_row_gives_beta(library: bool, opset: int) -> None:
    gamma, beta = parameters(40)
    x = np.array([[0.0], [-3.25], [1e-38], [7e37]], np.float32).repeat(40, axis=1)
    proto = model(x, gamma, beta, ZERO, opset, epsilon=0.0, centred=1, activation_high=0)
    np.testing.assert_array_equal(run(proto, x, library=library), np.broadcast_to(beta, x.shape))


def real_form(x: Array, gamma: Array, beta: Array) -> Array:
    """The L1 form in float64."""
    centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(centred / np.abs(centred).mean(axis=-1, keepdims=True) * gamma + beta)


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 4096), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 3.0]))
def test_codes_are_within_one_of_the_real_form(columns: int, seed: int, tail: float) -> None:
    """8-bit codes of x are an exact input; the output's largest code stands for 6 deviations."""
    rng = np.random.default_rng(seed)
    gamma, beta = (rng.uniform(-1, 1, columns).astype(np.float32) * 127 / 6 for _ in range(2))
    x = np.clip(np.rint(rng.standard_normal((3, columns)) ** tail * 12), -127, 127).astype(np.int8)
    x[:, :2] = 5, -9
    got = oracle(x, gamma, beta, high=127).astype(int)
    want = np.clip(np.rint(real_form(x, gamma, beta)), -127, 127)
    assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_rows_do_not_overflow(value: int) -> None:
    gamma, beta = np.ones(65535, np.float32), np.zeros(65535, np.float32)
    x = np.full((1, 65535), value, np.int8)
    x[0, ::2] = -1 - value
    got = run(model(x, gamma, beta, ZERO, epsilon=0.0, centred=1, activation_high=0), x, library=True)
    np.testing.assert_array_equal(got, oracle(x, gamma, beta), strict=True)
    assert np.abs(got).max() < 1.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": np.ones(3, np.float32)}, r"gamma and beta must have one shape \[D\]"),
        ({"shifts": np.zeros(2, np.uint8)}, r"shifts must have shape \[4\] or \[1\]"),
        ({"shifts": np.full(1, 5, np.uint8)}, "code 7 shifted by 5 does not fit int8"),
        ({"gamma": np.array([1, np.inf, 1, 1], np.float32)}, "gamma or beta is not finite"),
        ({"x": np.ones((2, 5), np.float32)}, r"x has shape \[2,5\]; expected \[..., 4\]"),
        ({"epsilon": -1.0}, "attribute 'epsilon' is -1; expected at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"gamma": np.ones(4, np.float32), "beta": np.ones(4, np.float32), "shifts": ZERO, "epsilon": 0.0} | change
    x = given.pop("x", np.ones((2, 4), np.float32))
    with pytest.raises(Exception, match=message):
        run(model(x, **given, centred=1, activation_high=7), x, library=True)
