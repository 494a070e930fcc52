# SPDX-License-Identifier: Apache-2.0
"""How every bench opens a graph in ONNX Runtime, so that all contenders run under the same options."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import helper

from edgefold.runtime import ops_library


def open_graph(graph: onnx.GraphProto, threads: int) -> ort.InferenceSession:
    """A session of opset 21 with the operators of EdgeFold and of ONNX Runtime."""
    domains = {"": 21, "ai.edgefold": 1, "com.microsoft": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return open_model(helper.make_model(graph, opset_imports=opsets, ir_version=10), threads)


def open_model(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    """A session of a model, with the operators of EdgeFold."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads of the contender that ran last would else spin through the next one's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    options.register_custom_ops_library(str(ops_library()))
    return ort.InferenceSession(model.SerializeToString(), options)


def quantized_dynamically(graph: onnx.GraphProto) -> onnx.ModelProto:
    """What ONNX Runtime's quantize_dynamic makes of a graph where it may quantize products of two activations."""
    from onnxruntime.quantization import quantize_dynamic

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("float.onnx", "int8.onnx")]
        onnx.save(model, paths[0])
        quantize_dynamic(*paths, op_types_to_quantize=["MatMul"], extra_options={"MatMulConstBOnly": False})
        return onnx.load(paths[1])
