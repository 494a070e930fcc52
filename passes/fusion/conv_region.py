# SPDX-License-Identifier: Apache-2.0
"""The kind ``conv-region``: quantized convolutions that hand integers to each other, channel-last.

Every ShiftConv quantizes the floats it reads and gives floats. Where all readers of a tensor want the same codes its
producer writes those, with bias, activation and residual addition in the same kernel; where a region meets the rest of
the graph the first and the last convolution change type and layout.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Calibrates, Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.channel_gates import ChannelGate
from edgefold.passes.fusion.code_regions import Regions, find_regions
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain
from edgefold.passes.fusion.cost import Device
from edgefold.passes.fusion.shapes import run_shapes

_FIRST_TO_LAST = (0, 2, 3, 1)
_LAST_TO_FIRST = (0, 3, 1, 2)
_AS_IT_IS = (0, 1, 2, 3)
# Attributes that a FusedConvBlock has from its ShiftConv.
_KEPT = (
    "kernel_shape",
    "strides",
    "pads",
    "dilations",
    "group",
    "k",
    "bits",
    "layout",
    "activation_low",
    "activation_high",
    "narrow_bits",
    "narrow_scales",
)


def fuse_conv_regions(
    model: ir.Model, context: Context, _device: Device, *, residuals: Literal["codes", "float"] = "codes"
) -> Notes:
    """Joins the ShiftConvs of the main graph, in place; additions and gates too, unless residuals are to stay float.

    Numerics: bit-equal to the separate nodes, but for two things: a residual is added, and a channel multiplied, as
    codes times their scale, and an activation function that is no clipping is that of the kernels, which may round a
    code the other way.
    """
    graph = model.graph
    graph.sort()
    excluded = [node for node in graph if context.excludes(node_label(node))]
    calibrate = functools.partial(_calibrated, context.calibration)
    shapes = run_shapes(model, context)
    regions = find_regions(graph, shapes, calibrate, excluded, rounding=residuals == "codes")
    made, blocks = regions.producers, regions.blocks()
    skips = tuple(_skips(regions, excluded))
    writer = _Writer(graph, regions)
    edits = []
    for node in list(graph):
        value = node.outputs[0]
        if value in blocks:
            edits.append(writer.write_block(blocks[value]))
        elif value in regions.formats and value in made.carriers:
            edits.append(writer.write_carrier(node))
        elif value in made.gates:
            edits.append(writer.write_gate(made.gates[value]))
        elif node in made.means and node.inputs[0] in regions.formats:
            edits.append(writer.write_mean(node))
    writer.remove_replaced()
    stats = {
        "conv-region.blocks": len(blocks),
        "conv-region.integer_tensors": len(regions.formats),
        "conv-region.gates": len(made.gates),
    }
    return Notes(tuple(edits), skips, stats)


def _skips(regions: Regions, excluded: Collection[ir.Node]) -> Iterator[Skip]:
    """What stays float, or as it is, and why."""
    for node in excluded:
        if node.op_type == "ShiftConv":
            yield Skip(node_label(node), SkipReason.EXCLUDED)
    for node, why in regions.refused.items():
        yield Skip(node_label(node), SkipReason.NOTHING_TO_GAIN, why)
    blocks = regions.blocks()
    for value, chain in regions.producers.chains.items():
        if value not in blocks:
            yield Skip(node_label(chain.conv), SkipReason.NOTHING_TO_GAIN, "its neighbours take no integers")
    for node, found in regions.floats.items():
        yield Skip(node_label(node), found.reason, found.why)


def _calibrated(calibration: Calibrates | None, values: Collection[ir.Value]) -> dict[ir.Value, CodeFormat]:
    """The 8-bit formats of values that no convolution reads, from their ranges over the calibration data."""
    if calibration is None:
        return {}
    try:
        observed = calibration.ranges([str(value.name) for value in values])
    except (ModelError, KeyError):
        return {}
    formats = {}
    for value in values:
        low, high, scale = observed[str(value.name)].byte_codes()
        formats[value] = CodeFormat(scale, low, high)
    return formats


@dataclasses.dataclass
class _Layouts:
    """A tensor of codes as it was made, and, once something asks for it, in the other layout."""

    first: ir.Value | None = None
    last: ir.Value | None = None


class _Writer:
    """Writes blocks and carriers in the place of the nodes they replace."""

    def __init__(self, graph: ir.Graph, regions: Regions) -> None:
        self._graph = graph
        self._regions = regions
        self._store = InitializerStore(graph)
        self._codes: dict[ir.Value, _Layouts] = {}
        self._replaced: list[ir.Node] = []

    def write_block(self, chain: ConvChain) -> Edit:
        """Puts a FusedConvBlock behind the last node of the chain."""
        place = chain.nodes[-1]
        x_codes = chain.input in self._regions.formats
        to = self._regions.formats.get(chain.output)
        residual, scale = self._residual(chain, place)
        attributes: dict[str, Any] = {
            "x_codes": int(x_codes),
            "x_perm": _LAST_TO_FIRST if x_codes else _AS_IT_IS,
            "function": int(chain.activation.kind),
            "alpha": chain.activation.alpha,
            "beta": chain.activation.beta,
            "residual_at": chain.residual_at,
            "residual_dtype": int(residual.dtype or ir.DataType.UINT8),
            "y_low": to.low if to else 0,
            "y_high": to.high if to else 0,
            "y_dtype": int(to.dtype if to else ir.DataType.FLOAT),
            "y_perm": _FIRST_TO_LAST if to else _AS_IT_IS,
        }
        x = self._channel_last(chain.input, place) if x_codes else chain.input
        node = ir.Node(
            "ai.edgefold",
            "FusedConvBlock",
            [x, *chain.conv.inputs[1:8], residual, scale, self._scale(to)],
            [
                *(chain.conv.attributes[name] for name in _KEPT if name in chain.conv.attributes),
                *ir.convenience.convert_attributes(attributes),
            ],
            outputs=[self._output(chain.output, to)],
            name=node_label(chain.conv),
        )
        self._mark(node, chain.nodes)
        self._place(node, place, chain.output, to)
        self._replaced += chain.nodes
        joined = ", ".join(one.op_type for one in chain.nodes[1:])
        return Edit(node_label(chain.conv), "FusedConvBlock" + (f" with {joined}" if joined else ""))

    def write_carrier(self, node: ir.Node) -> Edit:
        """Lets a node that picks elements pick from codes."""
        value = node.outputs[0]
        to = self._regions.formats[value]
        attributes = dict(node.attributes)
        inputs: list[ir.Value | None]
        if node.op_type == "Concat":
            inputs = [self._channel_last(one, node) for one in node.inputs if one is not None]
            attributes["axis"] = ir.AttrInt64("axis", 3)
        else:
            data = node.inputs[0]
            assert data is not None
            inputs = [self._channel_first(data, node), *self._indices(node)]
        output = ir.Value(name=f"{value.name}.codes", type=ir.TensorType(to.dtype))
        carrier = ir.Node(node.domain, node.op_type, inputs, attributes.values(), outputs=[output], name=node.name)
        self._mark(carrier, [node])
        self._graph.insert_before(node, carrier)
        self._codes[value] = _Layouts(last=output) if node.op_type == "Concat" else _Layouts(first=output)
        self._replaced.append(node)
        return Edit(node_label(node), "works on integers")

    def write_gate(self, found: ChannelGate) -> Edit:
        """Multiplies channels of codes."""
        value = found.node.outputs[0]
        to = self._regions.formats[value]
        inputs = [self._channel_last(found.image, found.node), found.gate]
        inputs += [self._scale(self._regions.formats[found.image]), self._scale(to)]
        attributes = ir.convenience.convert_attributes({"y_low": to.low, "y_high": to.high, "y_dtype": int(to.dtype)})
        outputs = [self._output(value, to)]
        node = ir.Node("ai.edgefold", "CodeGate", inputs, attributes, outputs=outputs, name=node_label(found.node))
        return self._replace(found.node, node, to)

    def write_mean(self, old: ir.Node) -> Edit:
        """Takes the means of channels from codes."""
        image = old.inputs[0]
        assert image is not None
        inputs = [self._channel_last(image, old), self._scale(self._regions.formats[image])]
        outputs = [self._output(old.outputs[0], None)]
        node = ir.Node("ai.edgefold", "CodeMean", inputs, outputs=outputs, name=node_label(old))
        return self._replace(old, node, None)

    def _replace(self, old: ir.Node, node: ir.Node, to: CodeFormat | None) -> Edit:
        self._mark(node, [old])
        self._place(node, old, old.outputs[0], to)
        self._replaced.append(old)
        return Edit(node_label(old), node.op_type)

    def remove_replaced(self) -> None:
        """Removes what the new nodes stand for, readers first."""
        self._graph.remove(self._replaced, safe=True)

    def _indices(self, node: ir.Node) -> list[ir.Value | None]:
        """The operands of a carrier behind its data; the filler of a Pad is a zero of the codes' own type."""
        rest = list(node.inputs[1:])
        if node.op_type == "Pad" and len(rest) > 1:
            rest[1] = None
        return rest

    def _residual(self, chain: ConvChain, place: ir.Node) -> tuple[ir.Value, ir.Value]:
        """The tensor to add and its scale; zeros and 1 where there is none."""
        if chain.residual is None:
            return self._store.add("edgefold.no_residual", np.zeros((1, 1, 1, 1), np.uint8)), self._scale(None)
        return self._channel_last(chain.residual, place), self._scale(self._regions.formats[chain.residual])

    def _scale(self, codes: CodeFormat | None) -> ir.Value:
        return self._store.add("edgefold.code_scale", np.array([codes.scale if codes else 1.0], np.float32))

    def _output(self, value: ir.Value, to: CodeFormat | None) -> ir.Value:
        if to is None:
            return ir.Value(name=f"{value.name}.fused", type=value.type or ir.TensorType(ir.DataType.FLOAT))
        return ir.Value(name=f"{value.name}.codes", type=ir.TensorType(to.dtype))

    def _place(self, node: ir.Node, place: ir.Node, value: ir.Value, to: CodeFormat | None) -> None:
        """Inserts a block; a float output takes over the name and the readers of what it replaces."""
        self._graph.insert_before(place, node)
        if to is not None:
            self._codes[value] = _Layouts(last=node.outputs[0])
            return
        ir.convenience.replace_all_uses_with([value], [node.outputs[0]], replace_graph_outputs=True)
        name, value.name = value.name, f"{value.name}.replaced"
        node.outputs[0].name, node.outputs[0].shape = name, value.shape

    def _channel_last(self, value: ir.Value, place: ir.Node) -> ir.Value:
        layouts = self._codes[value]
        if layouts.last is None:
            assert layouts.first is not None
            layouts.last = self._transpose(layouts.first, _FIRST_TO_LAST, place)
        return layouts.last

    def _channel_first(self, value: ir.Value, place: ir.Node) -> ir.Value:
        layouts = self._codes[value]
        if layouts.first is None:
            assert layouts.last is not None
            layouts.first = self._transpose(layouts.last, _LAST_TO_FIRST, place)
        return layouts.first

    def _transpose(self, value: ir.Value, order: Sequence[int], place: ir.Node) -> ir.Value:
        output = ir.Value(name=f"{value.name}.{'last' if order == _FIRST_TO_LAST else 'first'}", type=value.type)
        attributes = ir.convenience.convert_attributes({"perm": list(order)})
        node = ir.Node("", "Transpose", [value], attributes, outputs=[output], name=f"{output.name}/transpose")
        self._graph.insert_before(place, node)
        return output

    def _mark(self, node: ir.Node, old: Sequence[ir.Node]) -> None:
        names = ",".join(str(one.name or one.outputs[0].name) for one in old)
        node.metadata_props.update({"edgefold.pass": "fuse-blocks", "edgefold.from": names})
