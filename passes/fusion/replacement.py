# SPDX-License-Identifier: Apache-2.0
"""One fused operator in the place of the nodes that it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label

_MAKER = "fuse-blocks"


def put_in_place(
    op_type: str,
    nodes: Sequence[ir.Node],
    inputs: Sequence[ir.Value | None],
    attributes: Iterable[ir.Attr],
    label: str,
) -> None:
    """Replaces nodes by an operator of ``ai.edgefold`` that gives what the last of them gave.

    Args:
        op_type: of the operator.
        nodes: of one graph, in its order; where they are fused ones themselves, those that they stand for are named.
        inputs: of the operator.
        attributes: of the operator.
        label: its name.
    """
    graph, old = nodes[-1].graph, nodes[-1].outputs[0]
    assert graph is not None
    output = ir.Value(name=f"{old.name}.fused", type=old.type or ir.TensorType(ir.DataType.FLOAT), shape=old.shape)
    node = ir.Node("ai.edgefold", op_type, inputs, attributes, outputs=[output], name=label)
    node.metadata_props.update({"edgefold.pass": _MAKER, "edgefold.from": ",".join(map(_source, nodes))})
    ir.convenience.replace_nodes_and_values(graph, nodes[-1], nodes[::-1], [node], [old], [output])


def _source(node: ir.Node) -> str:
    known = node.metadata_props
    return known["edgefold.from"] if known.get("edgefold.pass") == _MAKER else node_label(node)
