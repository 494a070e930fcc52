# SPDX-License-Identifier: Apache-2.0
"""Names that tell all nodes and all values of a model apart: reports, overrides, calibration and traces know no others.

ONNX asks for no names of nodes, and lets bodies side by side use one name twice. A node in a body is called after that,
as ``if_0/else_branch:MatMul_3``.
"""

from __future__ import annotations

import fnmatch
import re

import onnx_ir as ir

from edgefold.passes._subgraphs import named_bodies

_IN_BODY = re.compile(r"/(?:then_branch|else_branch|body):")


def name_apart(model: ir.Model) -> None:
    """Names the nodes and the values of the main graph and of all bodies apart, in place.

    A node of the main graph that has a name of its own keeps it; one in a body gets those of the nodes around it and of
    their attributes in front. A node without one is called after its first output; of several with one name all but the
    first get a number, and so do values, those of the main graph last.
    """
    _name_nodes(model.graph, "", {node.name for node in model.graph if node.name}, set())
    owned = [value for graph in model.graphs() for value in _own_values(graph) if value.name]
    taken, seen = {value.name for value in owned}, set[str]()
    for value in owned:
        assert value.name is not None
        if value.name in seen:
            value.name = _free(value.name, taken)
        seen.add(value.name)


def matches(name: str, pattern: str) -> bool:
    """Whether a glob means the node of that name, by the whole of it or by what it is called within its body."""
    return any(fnmatch.fnmatchcase(one, pattern) for one in {name, _IN_BODY.split(name)[-1]})


def _name_nodes(graph: ir.Graph, place: str, taken: set[str | None], seen: set[str]) -> None:
    for node in graph:
        wanted = node.name or next((value.name for value in node.outputs if value.name), node.op_type)
        if not wanted.startswith(place):
            wanted = place + wanted
        if wanted != node.name or wanted in seen:
            node.name = _free(wanted, taken)
        seen.add(str(node.name))
        for attribute, body in named_bodies(node):
            _name_nodes(body, f"{node.name}/{attribute}:", taken, seen)


def _own_values(graph: ir.Graph) -> list[ir.Value]:
    """What a graph names, each once."""
    produced = (value for node in graph for value in node.outputs)
    return list(dict.fromkeys((*graph.inputs, *graph.initializers.values(), *produced)))


def _free(name: str, taken: set[str | None]) -> str:
    """The name with a number behind it where another has it; taken from now on."""
    fresh, number = name, 1
    while fresh in taken:
        fresh, number = f"{name}_{number}", number + 1
    taken.add(fresh)
    return fresh
