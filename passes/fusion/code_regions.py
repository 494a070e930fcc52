# SPDX-License-Identifier: Apache-2.0
"""Which tensors between convolutions can be integers, so that nothing float is left inside a region.

What stays float may keep an addition, a gate or a carrier out of the region, and that others; so the whole is a fixed
point, reached from above. The first reason is the one that is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes.base import SkipReason
from edgefold.passes.fusion.carriers import carried_inputs
from edgefold.passes.fusion.channel_gates import find_gates, is_channel_mean
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain, code_format, conv_chain
from edgefold.passes.fusion.shapes import Shapes, known_rank, known_shape
from edgefold.passes.fusion.value_formats import Formats, Producers, StaysFloat, made_as_floats, value_formats

Calibrate = Callable[[Collection[ir.Value]], Mapping[ir.Value, CodeFormat]]


@dataclasses.dataclass(frozen=True)
class Regions:
    """What becomes integers.

    Attributes:
        producers: of codes; among the chains and means also those that stay at floats.
        formats: of every value that becomes codes.
        stays: why each of the other values that producers give stays float.
        refused: ShiftConvs that can be no part of a region, and why.
        floats: additions, ReLUs behind them, gates and means that could have been part of one, and why they are not.
    """

    producers: Producers
    formats: Mapping[ir.Value, CodeFormat]
    stays: Mapping[ir.Value, StaysFloat]
    refused: Mapping[ir.Node, str]
    floats: Mapping[ir.Node, StaysFloat]

    def ends(self, chain: ConvChain) -> str:
        """Why both ends of a chain are floats."""
        before = self.stays.get(chain.input) or made_as_floats(chain.input)
        behind = self.stays[chain.output]
        return f"its input {before.why}, and its result {behind.why or 'is an output of the model'}"

    def blocks(self) -> dict[ir.Value, ConvChain]:
        """The chains that gain something: more than one node, or codes at an end."""
        return {
            value: chain
            for value, chain in self.producers.chains.items()
            if len(chain.nodes) > 1 or value in self.formats or chain.input in self.formats
        }


def find_regions(
    graph: ir.Graph, shapes: Shapes, calibrate: Calibrate, apart: Collection[ir.Node] = (), *, rounding: bool = True
) -> Regions:
    """The convolutions of a graph with what each takes in, and the values between them that become codes.

    Args:
        graph: in topological order.
        shapes: of values by name; an addition whose operands' shapes are unknown stays float.
        calibrate: formats of values that additions and gates alone read, or whose readers want several; those it does
            not give stay float.
        apart: nodes to leave alone.
        rounding: whether additions and gates may read codes in place of floats, and convolutions codes of codes.
    """
    reads, refused = _code_readers(graph, apart)
    every = _producers(graph, reads, shapes, apart)
    floats = _left_alone(every, apart, rounding)
    producers = _without(every, floats, reads, shapes)
    calibrated = calibrate(_to_calibrate(graph, producers, several=rounding))
    while True:
        formats = value_formats(graph, producers, calibrated.get, several=rounding)
        refusals = {node: why for node, why in _refusals(producers, formats) if node not in floats}
        if not refusals:
            break
        floats |= refusals
        producers = _without(every, floats, reads, shapes)
    floats |= dict(_other_joins(graph, producers, shapes, floats))
    codes = {value: one for value, one in formats.items() if isinstance(one, CodeFormat)}
    stays = {value: one for value, one in formats.items() if isinstance(one, StaysFloat)}
    return Regions(producers, codes, stays, refused, floats)


def _to_calibrate(graph: ir.Graph, producers: Producers, *, several: bool) -> Collection[ir.Value]:
    """The values that need a format of their own; what is refused later makes no more of them."""
    found: dict[ir.Value, CodeFormat] = {}
    unknown = CodeFormat(scale=0.0, low=0, high=0)  # unlike any other, so that what it is carried to is found too
    value_formats(graph, producers, lambda value: found.setdefault(value, unknown), several=several)
    return found.keys()


def _code_readers(graph: ir.Graph, apart: Collection[ir.Node]) -> tuple[dict[ir.Node, CodeFormat], dict[ir.Node, str]]:
    """The ShiftConvs that can read codes, with their formats, and why others cannot."""
    reads: dict[ir.Node, CodeFormat] = {}
    refused: dict[ir.Node, str] = {}
    for node in graph:
        if node.op_type == "ShiftConv" and node.domain == "ai.edgefold" and node not in apart:
            found = code_format(node)
            if isinstance(found, CodeFormat):
                reads[node] = found
            else:
                refused[node] = found
    return reads, refused


def _chains(
    reads: Mapping[ir.Node, CodeFormat], shapes: Shapes, apart: Collection[ir.Node]
) -> dict[ir.Value, ConvChain]:
    """All chains. Of two convolutions whose sum is taken the later one takes the addition in."""
    chains: dict[ir.Value, ConvChain] = {}
    taken = set(apart)
    for conv, codes in reversed(list(reads.items())):
        chain = conv_chain(conv, codes, shapes, taken)
        if chain.add is not None:
            taken.add(chain.add)
        chains[chain.output] = chain
    return dict(reversed(list(chains.items())))


def _sums(chains: Mapping[ir.Value, ConvChain]) -> list[ir.Node]:
    return [chain.add for chain in chains.values() if chain.add is not None]


def _producers(
    graph: ir.Graph, reads: Mapping[ir.Node, CodeFormat], shapes: Shapes, apart: Collection[ir.Node]
) -> Producers:
    """All that may give codes, or read them as means; nothing without convolutions that read them."""
    if not reads:
        return Producers({}, {}, {}, ())
    carriers = {node.outputs[0]: node for node in graph if carried_inputs(node) and node not in apart}
    means = [node for node in graph if is_channel_mean(node, shapes)]
    chains = _chains(reads, shapes, ())
    # Where an image is no signal of a convolution it may be a sequence of tokens times a factor for each of them.
    gates = {
        value: gate
        for value, gate in find_gates(graph, shapes).items()
        if known_rank(gate.image, shapes) == 4 or gate.image in chains or gate.image in carriers
    }
    return Producers(chains, carriers, gates, means)


def _left_alone(every: Producers, apart: Collection[ir.Node], rounding: bool) -> dict[ir.Node, StaysFloat]:
    """The additions, ReLUs behind them, gates and means that are to stay as they are."""
    joins = [*_sums(every.chains), *(gate.node for gate in every.gates.values())]
    relus = [chain.relu for chain in every.chains.values() if chain.relu]
    asked = {} if rounding else dict.fromkeys(joins, StaysFloat(SkipReason.EXCLUDED, "residuals: float"))
    return asked | {node: StaysFloat(SkipReason.EXCLUDED) for node in (*joins, *relus, *every.means) if node in apart}


def _without(
    every: Producers, floats: Mapping[ir.Node, StaysFloat], reads: Mapping[ir.Node, CodeFormat], shapes: Shapes
) -> Producers:
    """All but what stays float; the convolution that took such an addition in ends before it."""
    carriers = {value: node for value, node in every.carriers.items() if node not in floats}
    gates = {value: gate for value, gate in every.gates.items() if gate.node not in floats}
    means = [node for node in every.means if node not in floats]
    return Producers(_chains(reads, shapes, floats), carriers, gates, means)


def _refusals(producers: Producers, formats: Formats) -> Iterator[tuple[ir.Node, StaysFloat]]:
    """The additions, gates, carriers and means that cannot work on codes, because of one of their values."""

    def stays_float(value: ir.Value) -> StaysFloat | None:
        one = formats.get(value, made_as_floats(value))
        return one if isinstance(one, StaysFloat) else None

    for chain in producers.chains.values():
        if chain.add and chain.residual and (why := stays_float(chain.residual)):
            yield chain.add, why.said_of("its residual")
        elif chain.relu and (why := stays_float(chain.output)):
            yield chain.relu, why.said_of("its result")
        elif chain.relu and not _none_negative(formats[chain.output]):
            yield chain.relu, StaysFloat(SkipReason.NOTHING_TO_GAIN, "its result is wanted in codes of both signs")
    for value, gate in producers.gates.items():
        if why := stays_float(gate.image):
            yield gate.node, why.said_of("its image")
        elif why := stays_float(value):
            yield gate.node, why.said_of("its product")
    for value, node in producers.carriers.items():
        reasons = filter(None, map(stays_float, carried_inputs(node)))
        if stays_float(value) is None and (why := next(reasons, None)):
            yield node, why.said_of("what it picks from")
    for node in producers.means:
        image = node.inputs[0]
        if image is not None and image in formats and (why := stays_float(image)):
            yield node, why.said_of("its image")


def _none_negative(codes: CodeFormat | StaysFloat) -> bool:
    """Whether codes end at 0, so that writing them is a ReLU."""
    return isinstance(codes, CodeFormat) and codes.low == 0


def _other_joins(
    graph: ir.Graph, producers: Producers, shapes: Shapes, floats: Collection[ir.Node]
) -> Iterator[tuple[ir.Node, StaysFloat]]:
    """The additions to what a convolution gives that none takes in, and products that might be gates."""
    taken = {*_sums(producers.chains), *floats}
    for node in graph:
        operands = [value for value in node.inputs if value is not None]
        if node.op_type not in ("Add", "Mul") or node in taken or any(trace_constant(value) for value in operands):
            continue
        if any(value in producers.chains for value in operands):
            known = [known_shape(value, shapes) for value in operands]
            if None in known:
                yield node, StaysFloat(SkipReason.DYNAMIC_SHAPE)
            elif node.op_type == "Add":
                alone = "no convolution gives its result to it alone"
                why = alone if known[0] == known[1] else "its operands differ in shape"
                yield node, StaysFloat(SkipReason.NOTHING_TO_GAIN, why)
