# SPDX-License-Identifier: Apache-2.0
"""Which tensors between convolutions can be integers, so that nothing float is left inside a region.

A tensor is written as codes where all that read it want the same codes: convolutions, in whose calibrated format they
would have quantized it; additions and gates of channels, which take any; means of channels, beside one of these; nodes
that carry elements on to such readers. Whatever else reads it needs floats. Each refusal may cause others, so the whole
is a fixed point, reached from above.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from edgefold.passes.fusion.carriers import carried_inputs
from edgefold.passes.fusion.channel_gates import ChannelGate, find_gates, is_channel_mean
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain, code_format, conv_chain
from edgefold.passes.fusion.shapes import Shapes

Calibrate = Callable[[Collection[ir.Value]], Mapping[ir.Value, CodeFormat]]


@dataclasses.dataclass(frozen=True)
class Regions:
    """What becomes integers.

    Attributes:
        chains: by the value that each gives.
        carriers: nodes that pick from codes, by the value that each gives.
        gates: products with a factor a channel, from codes to codes, by the value that each gives.
        formats: of every value that becomes codes.
        refused: ShiftConvs that can be no part of a region, and why.
    """

    chains: Mapping[ir.Value, ConvChain]
    carriers: Mapping[ir.Value, ir.Node]
    gates: Mapping[ir.Value, ChannelGate]
    formats: Mapping[ir.Value, CodeFormat]
    refused: Mapping[ir.Node, str]


def find_regions(
    graph: ir.Graph, shapes: Shapes, calibrate: Calibrate, apart: Collection[ir.Node] = (), *, rounding: bool = True
) -> Regions:
    """The convolutions of a graph with what each takes in, and the values between them that become codes.

    Args:
        graph: in topological order.
        shapes: of values by name; an addition whose operands' shapes are unknown stays float.
        calibrate: formats of values that additions and gates alone read; those it does not give stay float.
        apart: ShiftConvs to leave alone.
        rounding: whether additions and gates may read codes in place of floats.
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
    gates = find_gates(graph, shapes) if rounding else {}
    outside = {node for node in graph if node.op_type == "Add" and not rounding}
    free: list[ir.Value] = []  # what is refused later makes no more of them
    _formats(graph, Regions(_chains(reads, shapes, outside), carriers, gates, {}, refused), free.append)
    calibrated = calibrate(free) if free else {}
    while True:
        regions = Regions(_chains(reads, shapes, outside), carriers, gates, {}, refused)
        formats = _formats(graph, regions, calibrated.get)
        floating = {one.add for one in regions.chains.values() if one.residual and one.residual not in formats}
        mixed = [value for value, node in carriers.items() if value in formats and not _uniform(node, formats)]
        closed = [value for value, gate in gates.items() if not {value, gate.image} <= formats.keys()]
        if not floating and not mixed and not closed:
            kept = {value: node for value, node in carriers.items() if value in formats}
            return dataclasses.replace(regions, carriers=kept, formats=formats)
        outside.update(add for add in floating if add is not None)
        for value in mixed:
            del carriers[value]
        for value in closed:
            del gates[value]


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
    graph: ir.Graph, regions: Regions, calibrated: Callable[[ir.Value], CodeFormat | None]
) -> dict[ir.Value, CodeFormat]:
    """The format that every reader of a value wants, for the values that chains, carriers and gates give."""
    chains, carriers, gates = regions.chains, regions.carriers, regions.gates
    heads = {chain.conv: chain for chain in chains.values()}
    images = {(gate.node, gate.image) for gate in gates.values()}
    images |= {(chain.add, chain.residual) for chain in chains.values() if chain.add and chain.residual}
    formats: dict[ir.Value, CodeFormat] = {}
    free: list[ir.Node] = []  # carriers that additions and gates alone read: they pass on what they get
    for node in reversed(list(graph)):
        value = node.outputs[0]
        if value.is_graph_output() or not any(value in producers for producers in (chains, carriers, gates)):
            continue
        wanted: set[CodeFormat | None] = set()
        uses = [use for use in value.uses() if not is_channel_mean(use.node)]
        for use in uses:
            reader = use.node
            if reader in heads and use.idx == 0:
                wanted.add(heads[reader].reads)
            elif reader in free or (reader, value) in images:
                continue
            elif value in carried_inputs(reader) and reader.outputs[0] in carriers:
                wanted.add(formats.get(reader.outputs[0]))
            else:
                wanted.add(None)
        if not uses:
            continue
        if not wanted and value in carriers:
            free.append(node)
            continue
        one = next(iter(wanted)) if len(wanted) == 1 else None
        one = calibrated(value) if not wanted else one
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
