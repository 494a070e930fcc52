# SPDX-License-Identifier: Apache-2.0
"""In which codes the values of a region are written, or why they stay float.

All that read a value must want codes: convolutions, in whose calibrated format they would have quantized it; additions
and gates of channels, which take any; means of channels, beside one of these; nodes that carry elements on to such
readers. Whatever else reads it needs floats. Where readers want several formats (a skip connection of a U-Net is read
by a convolution and, beside larger numbers, by a concatenation) the value is written in one, and a table takes its
codes to the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import SkipReason
from edgefold.passes.fusion.carriers import carried_inputs
from edgefold.passes.fusion.channel_gates import ChannelGate
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain


@dataclasses.dataclass(frozen=True)
class StaysFloat:
    """Why a value is not written as codes, or why a node does not work on codes."""

    reason: SkipReason
    why: str = ""

    def said_of(self, what: str) -> StaysFloat:
        """The reason for a node, of which the value is its image, its residual or whatever ``what`` calls it."""
        return StaysFloat(self.reason, f"{what} {self.why}".rstrip())


Formats = Mapping[ir.Value, CodeFormat | StaysFloat]

_UNCALIBRATED = StaysFloat(SkipReason.NO_CALIBRATION, "is read by no convolution that has a scale for it")
_CLOSE = (0.95, 1.5)  # scales over the one of a value's own range: what clips hardly, and rounds hardly more


@dataclasses.dataclass(frozen=True)
class Producers:
    """What can give codes, by the value that it gives, and the means that can read them.

    Attributes:
        chains: convolutions.
        carriers: nodes that pick from codes.
        gates: products with a factor a channel, from codes to codes.
        means: of channels.
    """

    chains: Mapping[ir.Value, ConvChain]
    carriers: Mapping[ir.Value, ir.Node]
    gates: Mapping[ir.Value, ChannelGate]
    means: Collection[ir.Node]

    def __contains__(self, value: ir.Value) -> bool:
        return value in self.chains or value in self.carriers or value in self.gates


def value_formats(
    graph: ir.Graph,
    producers: Producers,
    calibrated: Callable[[ir.Value], CodeFormat | None],
    *,
    several: bool = True,
) -> Formats:
    """Of every value that a producer gives.

    Args:
        graph: in topological order.
        producers: of codes.
        calibrated: the format of a value's own range, for values of whose readers none, or several, want one.
        several: whether a value may have readers that want other codes than it is written in.
    """
    return _Formats(producers, calibrated, several).of(graph)


def made_as_floats(value: ir.Value) -> StaysFloat:
    """Why a value that no producer gives is float."""
    node = value.producer()
    return _floats(f"is made as floats by {_named(node)}" if node else "is an input or a constant of the model")


class _Formats:
    """Goes from the readers to what they read; carriers whose readers take any codes pass on what they get."""

    def __init__(
        self, producers: Producers, calibrated: Callable[[ir.Value], CodeFormat | None], several: bool
    ) -> None:
        self._producers = producers
        self._calibrated = calibrated
        self._several = several
        self._heads = {chain.conv: chain.reads for chain in producers.chains.values()}
        self._takes_any = {(mean, mean.inputs[0]) for mean in producers.means}
        self._takes_any |= {(gate.node, gate.image) for gate in producers.gates.values()}
        self._takes_any |= {(one.add, one.residual) for one in producers.chains.values() if one.add and one.residual}
        self._formats: dict[ir.Value, CodeFormat | StaysFloat] = {}
        self._free: list[ir.Node] = []

    def of(self, graph: ir.Graph) -> Formats:
        for node in reversed(list(graph)):
            value = node.outputs[0]
            if value in self._producers:
                wanted = self._wanted(value)
                if wanted is None and value in self._producers.carriers:
                    self._free.append(node)
                else:
                    self._formats[value] = wanted or self._calibrated(value) or _UNCALIBRATED
        for node in reversed(self._free):
            self._formats[node.outputs[0]] = self._carried(node)
        return self._formats

    def _carried(self, node: ir.Node) -> CodeFormat | StaysFloat:
        """What a carrier gives whose readers take any codes."""
        given = [self._formats.get(value) for value in carried_inputs(node)]
        codes = {one for one in given if isinstance(one, CodeFormat)}
        if len(codes) < len(set(given)):
            return _floats("is picked from values of which some are floats")
        return self._common(node.outputs[0], codes)

    def _wanted(self, value: ir.Value) -> CodeFormat | StaysFloat | None:
        """What suits all readers of a value; None where they take any codes."""
        if value.is_graph_output():
            return StaysFloat(SkipReason.GRAPH_OUTPUT)
        if all(use.node in self._producers.means for use in value.uses()):
            return _floats("is read by nothing that wants codes")  # which would round what nothing else rounds
        codes: set[CodeFormat] = set()
        for use in value.uses():
            wish = self._wish(value, use.node, use.idx)
            if isinstance(wish, StaysFloat):
                return wish
            if wish is not None:
                codes.add(wish)
        return self._common(value, codes) if codes else None

    def _common(self, value: ir.Value, codes: Collection[CodeFormat]) -> CodeFormat | StaysFloat:
        """Of several formats the finest that holds the value's own range, or else that of this range."""
        if len(codes) == 1:
            return next(iter(codes))
        if not self._several:
            return _floats("is wanted in codes of several scales")
        own = self._calibrated(value)
        if own is None:
            return StaysFloat(SkipReason.NO_CALIBRATION, "is wanted in codes of several scales")
        least, most = (own.scale * factor for factor in _CLOSE)
        close = [one for one in codes if (one.low, one.high) == (own.low, own.high) and least <= one.scale <= most]
        return min(close, key=lambda one: one.scale, default=own)

    def _wish(self, value: ir.Value, reader: ir.Node, index: int) -> CodeFormat | StaysFloat | None:
        if reader in self._heads and index == 0:
            return self._heads[reader]
        if reader in self._free or (reader, value) in self._takes_any:
            return None
        if value in carried_inputs(reader) and reader.outputs[0] in self._producers.carriers:
            carried = self._formats.get(reader.outputs[0])
            if isinstance(carried, CodeFormat):
                return carried
        return _floats(f"is read as floats by {_named(reader)}")


def _floats(why: str) -> StaysFloat:
    return StaysFloat(SkipReason.NOTHING_TO_GAIN, why)


def _named(node: ir.Node) -> str:
    return f"{node_label(node)} ({node.op_type})"
