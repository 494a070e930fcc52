# SPDX-License-Identifier: Apache-2.0
"""One linear layer as a model: what works on it and what does not, once a test has changed one thing."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

K, N = 64, 48


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((K, N)).astype(np.float32)


def linear(weight: np.ndarray | None = None, opset: int = 21) -> onnx.ModelProto:
    """y = x . w, on which everything works; the tests break it in one place."""
    weight = weights() if weight is None else weight
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", N])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


UNSHAPED = """<ir_version: 8, opset_import: ["" : OPSET]>
g (float[n, 64] x, int64[r] shape) => (float y) { h = MatMul (x, w) y = Reshape (h, shape) }"""


def unshaped(opset: int, port: str) -> onnx.ModelProto:
    """A model in which an input or output is of unknown rank."""
    plain = onnx.parser.parse_model(UNSHAPED.replace("OPSET", str(opset)))
    plain.graph.initializer.append(numpy_helper.from_array(weights()[:, :32], "w"))
    for value in (*plain.graph.input, *plain.graph.output):
        if value.name == port:
            value.type.tensor_type.ClearField("shape")
    return plain
