# SPDX-License-Identifier: Apache-2.0
"""Which values are sequences or optional, which shape inference does not always say."""

from __future__ import annotations

import onnx_ir as ir

_MAKE_SEQUENCES = frozenset(
    ("Optional", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap",
     "SplitToSequence", "ZipMap")
)  # fmt: skip


def sequence_values(graph: ir.Graph) -> set[ir.Value]:
    """The values of a graph and of its bodies that hold no tensor, also those that a Loop or an If hands on."""
    found: set[ir.Value] = set()
    _collect(graph, found)
    return found


def _collect(graph: ir.Graph, found: set[ir.Value]) -> None:
    found.update(value for value in graph.inputs if isinstance(value.type, ir.SequenceType | ir.OptionalType))
    for node in graph:
        if node.op_type in _MAKE_SEQUENCES or (node.op_type == "Identity" and node.inputs[0] in found):
            found.update(node.outputs)
        elif node.op_type == "If":
            for name in ("then_branch", "else_branch"):
                body = node.attributes[name].as_graph()
                _collect(body, found)
                found.update(mine for mine, its in zip(node.outputs, body.outputs, strict=True) if its in found)
        elif node.op_type == "Loop":
            body = node.attributes["body"].as_graph()
            found.update(its for mine, its in zip(node.inputs[2:], body.inputs[2:], strict=True) if mine in found)
            _collect(body, found)
            found.update(mine for mine, its in zip(node.outputs, body.outputs[1:], strict=True) if its in found)
        elif node.op_type == "Scan":
            _collect(node.attributes["body"].as_graph(), found)
