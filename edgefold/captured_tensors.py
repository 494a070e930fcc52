# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a model are given, and give, when it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.exposed_tensors import Exposed
from edgefold.float_caches import native_run
from edgefold.passes._subgraphs import bodies, nodes_of
from edgefold.probing_bodies import TURNED, flippable, turn
from edgefold.session import LITTLE_MEMORY, make_session

log = logging.getLogger("edgefold")

Feeds = Mapping[str, np.ndarray]
CAPTURE_BYTES = 256 << 20  # captured tensors held at a time


def runs_of_nodes(model: ir.Model, nodes: Sequence[ir.Node], feeds: Feeds) -> Iterator[tuple[ir.Node, Feeds]]:
    """Nodes with what they are given when the model runs; those in bodies that do not run are left out.

    Branches that are not taken are, where the model allows it, in a second run with all conditions turned round.
    """
    inside = [node for node in nodes if node.graph is not model.graph]
    for chunk, captured in captured_in_chunks(
        model, [node for node in nodes if node.graph is model.graph], feeds, outputs=False
    ):
        yield from ((node, {name: captured[name] for name in input_names(node)}) for node in chunk)
    reached: set[ir.Node] = set()
    for node, data in _runs_inside(model, inside, feeds):
        reached.add(node)
        yield node, data
    left, turned = [node for node in inside if node not in reached], model.clone()
    branches = [str(node.name) for node in flippable(turned)]
    if left and branches:
        turn(turned.graph, branches)
        yield from _runs_inside(turned, left, {**feeds, TURNED: np.ones(len(branches), bool)})


def _runs_inside(model: ir.Model, nodes: Sequence[ir.Node], feeds: Feeds) -> Iterator[tuple[ir.Node, Feeds]]:
    """Likewise for nodes in bodies, whose tensors cannot all be seen; those that can are found by halving.

    Several inputs of a node in a Loop are left out: joined over the iterations, they need not fit each other.
    """
    looped = {one for node in nodes_of(model.graph) if node.op_type in ("Loop", "Scan") for one in _inner(node)}
    nodes = [node for node in nodes if len(input_names(node)) == 1 or str(node.name) not in looped]
    left = list(nodes)
    try:
        for chunk, captured in captured_in_chunks(model, nodes, feeds):
            left = left[len(chunk) :]
            for node in chunk:  # what it reads may be there, and of no use to it, where its body does not run
                if {*input_names(node), str(node.outputs[0].name)} <= captured.keys():
                    yield node, {name: captured[name] for name in input_names(node)}
    except ModelError as error:
        log.debug("nodes in bodies that cannot be seen: %s", error)
        if len(nodes) > 1:
            yield from _runs_inside(model, left[: -(-len(left) // 2)], feeds)
            yield from _runs_inside(model, left[-(-len(left) // 2) :], feeds)


def _inner(loop: ir.Node) -> Iterator[str]:
    yield from (str(node.name) for body in bodies(loop) for node in body.all_nodes())


def input_names(node: ir.Node) -> list[str]:
    """The node's inputs that are no constants, each once."""
    return list(dict.fromkeys(str(one.name) for one in node.inputs if one is not None and one.const_value is None))


def captured_in_chunks(
    model: ir.Model, nodes: Sequence[ir.Node], feeds: Feeds, *, outputs: bool = True
) -> Iterator[tuple[list[ir.Node], dict[str, np.ndarray]]]:
    """Runs of nodes with their inputs (and outputs), in chunks of bounded memory."""
    size = max(1, len(nodes))
    start = 0
    while start < len(nodes):
        chunk = list(nodes[start : start + size])
        read = {name for node in chunk for name in input_names(node)}
        wanted = sorted(read | ({str(node.outputs[0].name) for node in chunk} if outputs else set()))
        captured = capture(model, wanted, feeds)
        total = sum(array.nbytes for array in captured.values())
        if total > CAPTURE_BYTES and len(chunk) > 1:
            size = max(1, len(chunk) * CAPTURE_BYTES // total)
            continue
        yield chunk, captured
        start += len(chunk)


def capture(model: ir.Model, names: Sequence[str], feeds: Feeds) -> dict[str, np.ndarray]:
    """Values of the named tensors (graph inputs included) in one run, without those of bodies that did not run.

    Raises:
        ModelError: a tensor that cannot be seen, or the model does not run on these feeds.
    """
    given = {name: feeds[name] for name in names if name in feeds}
    if len(given) == len(names):
        return given
    exposed = Exposed(model, [name for name in names if name not in given])
    session = make_session(exposed.model, config=LITTLE_MEMORY)
    try:
        arrays = native_run(session)(exposed.outputs, feeds)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:300]}") from error
    return {**given, **exposed.read(arrays)}
