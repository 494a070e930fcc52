# SPDX-License-Identifier: Apache-2.0
"""One-node models of the domain ai.edgefold, with no function body: only the library can run them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from oracle import NO_SHIFTS, Weights

DOMAIN = "ai.edgefold"


def model(op: str, tensors: dict[str, np.ndarray], x: tuple[int, list], y_shape: list, **attributes: int) -> bytes:
    """Serialized model: graph input `x` (type, shape), initializers `tensors`, float output `y`."""
    node = helper.make_node(op, ["x", *tensors], ["y"], name="node", domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return bytes(proto.SerializeToString())


def weight_tensors(weights: Weights) -> dict[str, np.ndarray]:
    names = ("codes", "selectors", "table", "scales")
    return {name: getattr(weights, name) for name in names}


def matmul(
    weights: Weights,
    bias: np.ndarray,
    x_scale: float,
    low: int,
    high: int,
    rank: int = 2,
    shifts: np.ndarray = NO_SHIFTS,
    **more: int,
) -> bytes:
    operands = {"bias": bias, "x_scale": np.array([x_scale], np.float32), "x_shifts": shifts}
    tensors = weight_tensors(weights) | operands
    attributes = {"k": weights.k, "bits": weights.bits, "activation_low": low, "activation_high": high, "layout": 1}
    free = [f"d{i}" for i in range(rank - 1)]
    x = (TensorProto.FLOAT, [*free, weights.k])
    return model("ShiftMatMul", tensors, x, [*free, weights.n], **(attributes | more))


def gather(weights: Weights, rank: int = 2, ids: int = TensorProto.INT64, **more: int) -> bytes:
    attributes = {"k": weights.k, "bits": weights.bits, "layout": 1} | more
    free = [f"d{i}" for i in range(rank)]
    return model("ShiftGather", weight_tensors(weights), (ids, free), [*free, weights.k], **attributes)


def check(proto: bytes) -> onnx.ModelProto:
    return onnx.load_from_string(proto)
