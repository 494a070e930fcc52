# SPDX-License-Identifier: Apache-2.0
"""ShiftMatMul and ShiftConv of integers made by a quantizing producer (x_codes = 1): library, body and numpy agree."""

from __future__ import annotations

import conv_oracle
import numpy as np
import one_node
import onnx
import onnxruntime as ort
import pytest
from conv_oracle import Geometry
from onnx import TensorProto
from oracle import Weights, random_weights

from edgefold.ops import function_protos
from edgefold.runtime import ops_library

CODES = {"int8": (-127, 127, np.int8), "uint8": (0, 255, np.uint8)}
CONVOLUTIONS = {
    "padded": Geometry(19, 32, (3, 3), (7, 9), pads=(1, 1, 1, 1)),
    "pointwise": Geometry(32, 17, (1, 1), (5, 6)),
    "depthwise": Geometry(20, 20, (3, 3), (9, 9), pads=(1, 1, 1, 1), group=20),
    "few-columns": Geometry(24, 20, (3,), (9,), group=4),
}


def run(proto: bytes, x: np.ndarray, with_library: bool) -> np.ndarray:
    """With the library, or by the function body in stock ONNX Runtime; the input takes the type of x."""
    model = onnx.load_from_string(proto)
    model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if with_library:
        options.register_custom_ops_library(str(ops_library()))
    else:
        model.functions.extend(function_protos(21, [model.graph.node[0].op_type]))
    one = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(one.run(None, {"x": x})[0])


def scaled(sums: np.ndarray, weights: Weights, bias: np.ndarray, scale: float, rank: int = 0) -> np.ndarray:
    across = (-1, *[1] * rank)
    return sums.astype(np.float32) * (np.float32(scale) * weights.scales).reshape(across) + bias.reshape(across)


@pytest.mark.parametrize("with_library", [True, False], ids=["library", "body"])
@pytest.mark.parametrize("kind", CODES)
def test_products(kind: str, with_library: bool) -> None:
    rng = np.random.default_rng(0)
    low, high, dtype = CODES[kind]
    for m, k, n, method in [(1, 1, 1, "rtn"), (2, 70, 40, "lut"), (40, 128, 33, "shift"), (7, 131, 16, "lut")]:
        weights = random_weights(rng, k, n, 4, method)
        bias = rng.standard_normal(n).astype(np.float32)
        x = rng.integers(low, high + 1, (m, k)).astype(dtype)
        x[0] = high
        proto = one_node.matmul(weights, bias, 0.03, low, high, x_codes=1)
        expected = scaled(x.astype(np.int64) @ weights.integers, weights, bias, 0.03)
        np.testing.assert_array_equal(run(proto, x, with_library), expected)


@pytest.mark.parametrize("with_library", [True, False], ids=["library", "body"])
@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, kind: str, with_library: bool) -> None:
    rng = np.random.default_rng(1)
    low, high, dtype = CODES[kind]
    g = CONVOLUTIONS[name]
    weights = random_weights(rng, g.k, g.out_channels, 4, "shift")
    bias = rng.standard_normal(g.out_channels).astype(np.float32)
    x = rng.integers(low, high + 1, (2, g.in_channels, *g.size)).astype(dtype)
    y = run(conv_oracle.model(weights, bias, 0.03, low, high, g, x_codes=1), x, with_library)
    sums = conv_oracle.convolve(x.astype(np.int64), weights.integers, g)
    expected = scaled(sums, weights, bias, 0.03, len(g.size))
    if with_library:
        np.testing.assert_array_equal(y, expected)
    else:  # ONNX Runtime folds the scales into the weights of the body's Conv
        np.testing.assert_allclose(y, expected, rtol=0, atol=g.k * 2.0**-23 * np.abs(expected).max())


REFUSED = {
    "type": ((-127, 127), 0.03, {"x_codes": 1}, TensorProto.UINT8, "x has element type 2; expected 3"),
    "float": ((-127, 127), 0.03, {"x_codes": 1}, TensorProto.FLOAT, "x has element type 1; expected 3"),
    "unasked": ((-127, 127), 0.03, {}, TensorProto.INT8, "x has element type 3; expected 1"),
    "dynamic": ((-127, 127), 0.0, {"x_codes": 1}, TensorProto.INT8, "x_scale is 0; expected a positive number"),
    "float-activations": ((0, 0), 0.0, {"x_codes": 1}, TensorProto.UINT8, "'x_codes' is 1 where activation_high is 0"),
    "value": ((-127, 127), 0.03, {"x_codes": 2}, TensorProto.INT8, "'x_codes' is 2; expected 0 to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    (low, high), scale, attributes, dtype, message = REFUSED[case]
    weights = random_weights(np.random.default_rng(0), 8, 4, 4)
    proto = one_node.matmul(weights, np.zeros(1, np.float32), scale, low, high, **attributes)
    with pytest.raises(Exception, match=message):
        run(proto, np.ones((2, 8), onnx.helper.tensor_dtype_to_np_dtype(dtype)), with_library=True)
