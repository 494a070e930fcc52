# SPDX-License-Identifier: Apache-2.0
"""Small graphs as text, with seeded weights, and a run of them in stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

Array = npt.NDArray[Any]
HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'


def weights(*shape: int, seed: int = 0) -> Array:
    """Normal float32 weights."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def graph(text: str, initializers: Mapping[str, Array]) -> ir.Model:
    """A model from ONNX text without its header, and its initializers."""
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in initializers.items())
    return ir.from_proto(proto)


def nodes(model: ir.Model) -> list[str]:
    """The nodes of the main graph, each as ``y = Op(a, b)``."""
    return [
        f"{', '.join(str(v.name) for v in node.outputs)} = {node.op_type}"
        f"({', '.join('' if v is None else str(v.name) for v in node.inputs)})"
        for node in model.graph
    ]


def run(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    """Outputs of the model in stock ONNX Runtime, after the checker."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, dict(feeds))]
