# SPDX-License-Identifier: Apache-2.0
"""The outputs of one node on known inputs, by ONNX's own reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Runs a deterministic node of the standard domain.

    Args:
        node: not changed.
        inputs: one array an input of the node; None where the node leaves an optional input out.
        opset: version of the standard domain, 1 to the newest that onnx knows.
    """
    feeds = {str(value.name): array for value, array in zip(node.inputs, inputs, strict=True) if value is not None}
    graph = onnx.GraphProto(
        name=node.name or node.op_type,
        node=[ir.to_proto(node)],
        input=[onnx.ValueInfoProto(name=name) for name in feeds],
        output=[onnx.ValueInfoProto(name=value.name) for value in node.outputs],
    )
    return list(ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds))
