# SPDX-License-Identifier: Apache-2.0
"""Writes the operators of a region of codes in the place of the nodes that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit
from edgefold.passes.fusion.carriers import carried_inputs
from edgefold.passes.fusion.channel_gates import ChannelGate
from edgefold.passes.fusion.code_lookups import code_lookup, recoding
from edgefold.passes.fusion.code_regions import Regions
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain
from edgefold.passes.fusion.pixel_moves import moves_pixels, pixel_moves
from edgefold.passes.fusion.signals import HEIGHT, WIDTH, image_attributes, is_of_signals

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


@dataclasses.dataclass
class _Layouts:
    """An image as it was made, and, once something asks for it, in the other layout.

    Attributes:
        is_signal: whether it has one spatial dimension: [B, 1, L, C] channel-last, but [B, C, L] channel-first.
    """

    is_signal: bool
    first: ir.Value | None = None
    last: ir.Value | None = None


class RegionWriter:
    """Writes blocks and carriers in the place of the nodes they replace."""

    def __init__(self, graph: ir.Graph, regions: Regions) -> None:
        self._graph = graph
        self._regions = regions
        self._store = InitializerStore(graph)
        self._images: dict[ir.Value, _Layouts] = {}
        self._looked_up: dict[tuple[ir.Value, CodeFormat], _Layouts] = {}
        self._rows: dict[ir.Value, ir.Value] = {}
        self._replaced: list[ir.Node] = []

    def write_block(self, chain: ConvChain) -> Edit:
        """Puts a FusedConvBlock behind the last node of the chain."""
        place = chain.nodes[-1]
        x_codes = chain.input in self._regions.formats
        to = self._regions.formats.get(chain.output)
        y_last = to is not None or _is_spread(chain.output)
        is_signal = is_of_signals(chain.conv)
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
            "y_perm": _FIRST_TO_LAST if y_last else _AS_IT_IS,
        }
        if x_codes:
            x = self._channel_last(chain.input, place, chain.reads)
        else:
            x = self._as_image(chain.input, is_signal, place)
        node = ir.Node(
            "ai.edgefold",
            "FusedConvBlock",
            [x, *chain.conv.inputs[1:8], residual, scale, self._scale(to)],
            [
                *(one for one in image_attributes(chain.conv) if one.name in _KEPT),
                *ir.convenience.convert_attributes(attributes),
            ],
            outputs=[self._output(chain.output, to)],
            name=node_label(chain.conv),
        )
        self._mark(node, chain.nodes)
        self._place(node, place, chain.output, to, is_signal)
        self._replaced += chain.nodes
        joined = ", ".join(one.op_type for one in chain.nodes[1:])
        return Edit(node_label(chain.conv), "FusedConvBlock" + (f" with {joined}" if joined else ""))

    def write_carrier(self, node: ir.Node) -> Edit:
        """Lets a node that picks elements pick from codes."""
        value = node.outputs[0]
        is_signal = self._images[carried_inputs(node)[0]].is_signal
        if moves_pixels(node, is_signal):
            self._images[value] = _Layouts(is_signal, last=self._moved(node))
            return Edit(node_label(node), "works on integers")
        to = self._regions.formats[value]
        attributes = dict(node.attributes)
        inputs: list[ir.Value | None]
        if node.op_type == "Concat":
            inputs = [self._channel_last(one, node, to) for one in node.inputs if one is not None]
            attributes["axis"] = ir.AttrInt64("axis", 3)
        else:
            data = node.inputs[0]
            assert data is not None
            inputs = [self._channel_first(data, node, to), *self._indices(node)]
        output = ir.Value(name=f"{value.name}.codes", type=ir.TensorType(to.dtype))
        carrier = ir.Node(node.domain, node.op_type, inputs, attributes.values(), outputs=[output], name=node.name)
        self._mark(carrier, [node])
        self._graph.insert_before(node, carrier)
        order = "last" if node.op_type == "Concat" else "first"
        self._images[value] = _Layouts(is_signal, **{order: output})
        self._replaced.append(node)
        return Edit(node_label(node), "works on integers")

    def write_spread(self, node: ir.Node) -> Edit:
        """Spreads the channels of floats that a block gives channel-last."""
        value = self._moved(node)
        self._images[node.outputs[0]] = _Layouts(is_signal=False, last=value)
        self._take_over(node.outputs[0], self._channel_first(node.outputs[0], node))
        return Edit(node_label(node), "works channel-last")

    def lies_last(self, value: ir.Value | None) -> bool:
        """Whether an image was written channel-last."""
        return value in self._images and self._images[value].last is not None

    def _moved(self, node: ir.Node) -> ir.Value:
        """Repeats or rearranges pixels; what comes of them, channel-last."""
        value, data = node.outputs[0], node.inputs[0]
        assert data is not None
        to = self._regions.formats.get(value)
        made = pixel_moves(node, self._channel_last(data, node, to), self._images[data].is_signal, self._store)
        for number, one in enumerate(made):
            one.name = f"{node_label(node)}/{number}"
            one.outputs[0].name = f"{value.name}.moved.{number}"
            self._mark(one, [node])
            self._graph.insert_before(node, one)
        self._replaced.append(node)
        made[-1].outputs[0].type = ir.TensorType(to.dtype) if to else value.type
        if to is not None:
            made[-1].outputs[0].name = f"{value.name}.codes"
        return made[-1].outputs[0]

    def write_gate(self, found: ChannelGate) -> Edit:
        """Multiplies channels of codes."""
        value = found.node.outputs[0]
        to = self._regions.formats[value]
        is_signal = self._images[found.image].is_signal
        gate = self._ranked("Unsqueeze", found.gate, WIDTH, found.node) if is_signal else found.gate
        inputs = [self._channel_last(found.image, found.node), gate]
        inputs += [self._scale(self._regions.formats[found.image]), self._scale(to)]
        attributes = ir.convenience.convert_attributes({"y_low": to.low, "y_high": to.high, "y_dtype": int(to.dtype)})
        outputs = [self._output(value, to)]
        node = ir.Node("ai.edgefold", "CodeGate", inputs, attributes, outputs=outputs, name=node_label(found.node))
        return self._replace(found.node, node, to, is_signal)

    def write_mean(self, old: ir.Node) -> Edit:
        """Takes the means of channels from codes."""
        image = old.inputs[0]
        assert image is not None
        inputs = [self._channel_last(image, old), self._scale(self._regions.formats[image])]
        outputs = [self._output(old.outputs[0], None)]
        node = ir.Node("ai.edgefold", "CodeMean", inputs, outputs=outputs, name=node_label(old))
        return self._replace(old, node, None, self._images[image].is_signal)

    def _replace(self, old: ir.Node, node: ir.Node, to: CodeFormat | None, is_signal: bool) -> Edit:
        self._mark(node, [old])
        self._place(node, old, old.outputs[0], to, is_signal)
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

    def _place(self, node: ir.Node, place: ir.Node, value: ir.Value, to: CodeFormat | None, is_signal: bool) -> None:
        """Inserts a block; a float output takes over the name and the readers of what it replaces."""
        self._graph.insert_before(place, node)
        if to is not None or _is_spread(value):
            self._images[value] = _Layouts(is_signal, last=node.outputs[0])
        elif is_signal:
            self._take_over(value, self._ranked("Squeeze", node.outputs[0], HEIGHT, place))
        else:
            self._take_over(value, node.outputs[0])

    def _as_image(self, value: ir.Value, is_signal: bool, place: ir.Node) -> ir.Value:
        """A tensor channel-first, a signal as an image of one row."""
        if not is_signal:
            return value
        if value not in self._rows:
            self._rows[value] = self._ranked("Unsqueeze", value, HEIGHT, place)
        return self._rows[value]

    def _take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Gives a value the readers and the name of another one."""
        ir.convenience.replace_all_uses_with([old], [new], replace_graph_outputs=True)
        name, old.name = old.name, f"{old.name}.replaced"
        new.name, new.shape = name, old.shape

    def _channel_last(self, value: ir.Value, place: ir.Node, codes: CodeFormat | None = None) -> ir.Value:
        """An image for a node at this place, in these codes if they are given; else in those it was written in."""
        layouts = self._layouts(value, place, codes)
        if layouts.last is None:
            assert layouts.first is not None
            first = self._as_image(layouts.first, layouts.is_signal, place)
            layouts.last = self._transpose(first, _FIRST_TO_LAST, place)
        return layouts.last

    def _channel_first(self, value: ir.Value, place: ir.Node, codes: CodeFormat | None = None) -> ir.Value:
        layouts = self._layouts(value, place, codes)
        if layouts.first is None:
            assert layouts.last is not None
            first = self._transpose(layouts.last, _LAST_TO_FIRST, place)
            layouts.first = self._ranked("Squeeze", first, HEIGHT, place) if layouts.is_signal else first
        return layouts.first

    def _layouts(self, value: ir.Value, place: ir.Node, codes: CodeFormat | None) -> _Layouts:
        """An image in the codes that a reader wants, which a table makes of those it was written in."""
        written = self._regions.formats.get(value)
        if written is None or codes is None or codes == written:
            return self._images[value]
        if (value, codes) not in self._looked_up:
            image = self._images[value]
            order = "first" if image.last is None else "last"
            source = image.first if image.last is None else image.last
            assert source is not None
            name = f"{value.name}.codes_{len(self._looked_up)}"
            node = code_lookup(source, recoding(written, codes), name, self._store)
            self._graph.insert_before(place, node)
            self._looked_up[value, codes] = _Layouts(image.is_signal, **{order: node.outputs[0]})
        return self._looked_up[value, codes]

    def _transpose(self, value: ir.Value, order: Sequence[int], place: ir.Node) -> ir.Value:
        output = ir.Value(name=f"{value.name}.{'last' if order == _FIRST_TO_LAST else 'first'}", type=value.type)
        attributes = ir.convenience.convert_attributes({"perm": list(order)})
        node = ir.Node("", "Transpose", [value], attributes, outputs=[output], name=f"{output.name}/transpose")
        self._graph.insert_before(place, node)
        return output

    def _ranked(self, op_type: str, value: ir.Value, axis: int, place: ir.Node) -> ir.Value:
        """A value with an axis of one element more or less."""
        name = f"{value.name}.{'image' if op_type == 'Unsqueeze' else 'signal'}"
        axes = self._store.add("edgefold.axis", np.array([axis], np.int64))
        node = ir.node(op_type, [value, axes], outputs=[ir.Value(name=name, type=value.type)], name=f"{name}/{op_type}")
        self._graph.insert_before(place, node)
        return node.outputs[0]

    def _mark(self, node: ir.Node, old: Sequence[ir.Node]) -> None:
        names = ",".join(str(one.name or one.outputs[0].name) for one in old)
        node.metadata_props.update({"edgefold.pass": "fuse-blocks", "edgefold.from": names})


def _is_spread(value: ir.Value) -> bool:
    """Whether a DepthToSpace alone reads a value, which then had better lie channel-last."""
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output() and uses[0].node.graph is value.graph
    return alone and uses[0].node.op_type == "DepthToSpace" and uses[0].node.domain in ("", "ai.onnx")
