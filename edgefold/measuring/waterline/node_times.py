# SPDX-License-Identifier: Apache-2.0
"""Times of the nodes that ONNX Runtime really runs: those of the graph it optimized, from its own profile."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgefold.session import OPTIMIZED, make_session, run

Shape = tuple[int, ...]
_SUFFIX = "_kernel_time"
_FEWEST, _MOST = 3, 200  # runs that count; ONNX Runtime stops to write events at a million


@dataclass(frozen=True)
class RunNode:
    """A node of the optimized graph.

    Attributes:
        node: it, as ONNX Runtime wrote it.
        seconds: the lower quartile of its runs, without the first.
        inputs, outputs: shapes of those that are present; weights that its kernel has packed are absent.
        activation_bytes: of its inputs and outputs that are no constants.
        weights: the tensors among its inputs.
    """

    node: onnx.NodeProto
    seconds: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    activation_bytes: int
    weights: tuple[onnx.TensorProto, ...]

    @property
    def name(self) -> str:
        """Its name."""
        return self.node.name

    @property
    def operator(self) -> str:
        """Its type, with the domain where it is not ONNX's own."""
        domain = self.node.domain
        return self.node.op_type if domain in ("", "ai.onnx") else f"{domain}.{self.node.op_type}"

    @property
    def weight_bytes(self) -> int:
        """Bytes of its constant inputs as they are stored."""
        return sum(element_bytes(tensor.dims, tensor.data_type) for tensor in self.weights)


def run_nodes(model: ir.Model, feeds: Mapping[str, np.ndarray[Any, Any]], seconds: float) -> list[RunNode]:
    """Runs a model again and again, one thread, and reads the times of its nodes, in the order in which they run.

    Nodes inside the bodies of others are part of these.

    Args:
        model: its nodes need names of their own, by which the profile has their times.
        feeds: its inputs.
        seconds: budget; at least three runs are made beside the first, which does not count.

    Raises:
        ModelError: ONNX Runtime refuses the model or the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="edgefold-profile-") as name:
        folder = Path(name)
        session = make_session(model, threads=1, profile=folder)
        started = time.perf_counter()
        runs = 0
        while runs <= _FEWEST or (time.perf_counter() - started < seconds and runs < _MOST):
            run(session, None, feeds)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(folder / OPTIMIZED, load_external_data=False).graph
    return _collect(graph, [event for event in events if event.get("cat") == "Node"])


def element_bytes(shape: Iterable[int], data_type: int) -> int:
    """Bytes of a tensor of that shape and element type (a value of `onnx.TensorProto.DataType`); strings have none."""
    if data_type == onnx.TensorProto.STRING:
        return 0
    bits: int = ir.DataType(data_type).bitwidth
    return math.prod(shape) * bits // 8


def _collect(graph: onnx.GraphProto, events: list[dict[str, Any]]) -> list[RunNode]:
    """The main graph's nodes with their times; events of nodes inside bodies have other names."""
    nodes = {node.name: node for node in graph.node}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ran: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        name = event["name"].removesuffix(_SUFFIX)
        if name in nodes and event["name"].endswith(_SUFFIX):
            ran.setdefault(name, []).append(event)
    return [
        _run_node(nodes[name], its, [constants[one] for one in nodes[name].input if one in constants])
        for name, its in ran.items()
    ]


def _run_node(node: onnx.NodeProto, events: list[dict[str, Any]], weights: list[onnx.TensorProto]) -> RunNode:
    # The profile counts whole microseconds, so the shortest run of a small node would be none.
    seconds = float(np.quantile([event["dur"] for event in events[1:]], 0.25)) * 1e-6
    arguments = events[0]["args"]
    inputs, outputs = (
        tuple(tuple(shape) for one in arguments[key] for shape in one.values())
        for key in ("input_type_shape", "output_type_shape")
    )
    moved = int(arguments["activation_size"]) + int(arguments["output_size"])
    return RunNode(node, seconds, inputs, outputs, moved, tuple(weights))
