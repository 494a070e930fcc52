# SPDX-License-Identifier: Apache-2.0
"""Which tensors between convolutions can be integers, so that nothing float is left inside a region.

A tensor is written as codes where all that read it want the same codes: convolutions, in whose calibrated format they
would have quantized it; additions, which take any; nodes that carry elements on to such readers. Whatever else reads it
needs floats. Each refusal may cause others, so the whole is a fixed point, reached from above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from edgefold.passes.fusion.carriers import carried_inputs
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain, code_format, conv_chain
from edgefold.passes.fusion.shapes import Shapes

Calibrate = Callable[[ir.Value], CodeFormat | None]


@dataclasses.dataclass(frozen=True)
class Regions:
    """What becomes integers.

    Attributes:
        chains: by the value that each gives.
        carriers: nodes that work on codes, by the value that each gives.
        formats: of every value that becomes codes.
        refused: ShiftConvs that can be no part of a region, and why.
    """

    chains: Mapping[ir.Value, ConvChain]
    carriers: Mapping[ir.Value, ir.Node]
    formats: Mapping[ir.Value, CodeFormat]
    refused: Mapping[ir.Node, str]


def find_regions(
    graph: ir.Graph, shapes: Shapes, calibrate: Calibrate, apart: Collection[ir.Node] = (), *, additions: bool = True
) -> Regions:
    """The convolutions of a graph with what each takes in, and the values between them that become codes.

    Args:
        graph: in topological order.
        shapes: of values by name; an addition whose operands' shapes are unknown stays float.
        calibrate: the format of a value that additions alone read, or None where it is to stay float.
        apart: ShiftConvs to leave alone.
        additions: whether convolutions take in the additions of residuals, which are then codes.
    """
    reads: dict[ir.Node, CodeFormat] = {}
    refused: dict[ir.Node, str] = {}
    for node in graph:
        if node.op_type == "ShiftConv" and node.domain == "ai.edgefold" and node not in apart:
            found = code_format(node)
            if isinstance(found, CodeFormat):
                reads[node] = found
            else:
                refused[node] = found
    carriers = {node.outputs[0]: node for node in graph if carried_inputs(node)}
    outside = {node for node in graph if node.op_type == "Add" and not additions}
    while True:
        chains = _chains(reads, shapes, outside)
        formats = _formats(graph, chains, carriers, calibrate)
        floating = {chain.add for chain in chains.values() if chain.residual and chain.residual not in formats}
        mixed = [value for value, node in carriers.items() if value in formats and not _uniform(node, formats)]
        if not floating and not mixed:
            kept = {value: node for value, node in carriers.items() if value in formats}
            return Regions(chains, kept, formats, refused)
        outside.update(add for add in floating if add is not None)
        for value in mixed:
            del carriers[value]


def _chains(reads: Mapping[ir.Node, CodeFormat], shapes: Shapes, outside: set[ir.Node]) -> dict[ir.Value, ConvChain]:
    """All chains. Of two convolutions whose sum is taken the later one takes the addition in."""
    chains: dict[ir.Value, ConvChain] = {}
    taken = set(outside)
    for conv, codes in reversed(list(reads.items())):
        chain = conv_chain(conv, codes, shapes, taken)
        if chain.add is not None:
            taken.add(chain.add)
        chains[chain.output] = chain
    return dict(reversed(list(chains.items())))


def _formats(
    graph: ir.Graph, chains: Mapping[ir.Value, ConvChain], carriers: Mapping[ir.Value, ir.Node], calibrate: Calibrate
) -> dict[ir.Value, CodeFormat]:
    """The format that every reader of a value wants, for the values that chains and carriers give."""
    heads = {chain.conv: chain for chain in chains.values()}
    additions = {chain.add: chain for chain in chains.values() if chain.add is not None}
    formats: dict[ir.Value, CodeFormat] = {}
    free: list[ir.Node] = []  # carriers that additions alone read: they pass on what they get
    for node in reversed(list(graph)):
        value = node.outputs[0]
        if (value not in chains and value not in carriers) or value.is_graph_output():
            continue
        wanted: set[CodeFormat | None] = set()
        for use in value.uses():
            reader = use.node
            if reader in heads and use.idx == 0:
                wanted.add(heads[reader].reads)
            elif reader in free or (reader in additions and additions[reader].residual is value):
                continue
            elif value in carried_inputs(reader) and reader.outputs[0] in carriers:
                wanted.add(formats.get(reader.outputs[0]))
            else:
                wanted.add(None)
        if not wanted and value in carriers:
            free.append(node)
            continue
        one = next(iter(wanted)) if len(wanted) == 1 else None
        one = calibrate(value) if not wanted else one
        if one is not None:
            formats[value] = one
    for node in reversed(free):
        given = {formats.get(value) for value in carried_inputs(node)}
        one = given.pop() if len(given) == 1 else None
        if one is not None:
            formats[node.outputs[0]] = one
    return formats


def _uniform(node: ir.Node, formats: Mapping[ir.Value, CodeFormat]) -> bool:
    """Whether all that a carrier picks from are codes of the format that it gives."""
    return all(formats.get(value) == formats[node.outputs[0]] for value in carried_inputs(node))
