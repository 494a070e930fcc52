# SPDX-License-Identifier: Apache-2.0
"""A name of its own for every node: users, reports, overrides and traces tell nodes apart by nothing else."""

from __future__ import annotations

import onnx_ir as ir


def name_nodes(model: ir.Model) -> None:
    """Names the nodes of the main graph and of all bodies apart, in place; what already has a name of its own keeps it.

    ONNX asks for no names. A node without one is called after its first output; of several with one name all but the
    first get a number.
    """
    nodes = list(model.graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for node in nodes:
        wanted = node.name or next((value.name for value in node.outputs if value.name), node.op_type)
        if not node.name or node.name in seen:
            node.name = _free(wanted, taken)
            taken.add(node.name)
        seen.add(node.name)


def _free(name: str, taken: set[str]) -> str:
    fresh, number = name, 1
    while fresh in taken:
        fresh, number = f"{name}_{number}", number + 1
    return fresh
