# SPDX-License-Identifier: Apache-2.0
"""The kind ``conv-region``: quantized convolutions that hand integers to each other, channel-last.

Every ShiftConv quantizes the floats it reads and gives floats. Where all readers of a tensor want the same codes its
producer writes those, with bias, activation and residual addition in the same kernel; where a region meets the rest of
the graph the first and the last convolution change type and layout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Calibrates, Context, Notes, Skip, SkipReason
from edgefold.passes.fusion.code_regions import Regions, find_regions
from edgefold.passes.fusion.conv_chains import CodeFormat, ConvChain
from edgefold.passes.fusion.cost import Device, Move, Plan, decide
from edgefold.passes.fusion.paddings import take_in_paddings
from edgefold.passes.fusion.region_writer import RegionWriter
from edgefold.passes.fusion.shapes import Shapes, known_shape, run_shapes
from edgefold.passes.fusion.signals import is_of_signals


def fuse_conv_regions(
    model: ir.Model, context: Context, device: Device, *, residuals: Literal["codes", "float"] = "codes"
) -> Notes:
    """Joins the ShiftConvs of the main graph, in place; additions and gates too, unless residuals are to stay float.

    Numerics: bit-equal to the separate nodes, but for two things: a residual is added, and a channel multiplied, as
    codes times their scale, and an activation function that is no clipping is that of the kernels, which may round a
    code the other way.
    """
    graph = model.graph
    graph.sort()
    excluded = [node for node in graph if context.excludes(node_label(node))]
    edits = take_in_paddings(graph, excluded)
    calibrate = functools.partial(_calibrated, context.calibration)
    shapes = run_shapes(model, context)
    regions = find_regions(graph, shapes, calibrate, excluded, rounding=residuals == "codes")
    made = regions.producers
    blocks = {value: chain for value, chain in regions.blocks().items() if _pays(chain, regions, shapes, device)}
    skips = tuple(_skips(regions, blocks, excluded))
    writer = RegionWriter(graph, regions)
    for node in list(graph):
        value = node.outputs[0]
        if value in blocks:
            edits.append(writer.write_block(blocks[value]))
        elif value in regions.formats and value in made.carriers:
            edits.append(writer.write_carrier(node))
        elif value in made.gates:
            edits.append(writer.write_gate(made.gates[value]))
        elif node.op_type == "DepthToSpace" and writer.lies_last(node.inputs[0]):
            edits.append(writer.write_spread(node))
        elif node in made.means and node.inputs[0] in regions.formats:
            edits.append(writer.write_mean(node))
    writer.remove_replaced()
    stats = {
        "conv-region.blocks": len(blocks),
        "conv-region.integer_tensors": len(regions.formats),
        "conv-region.gates": len(made.gates),
    }
    return Notes(tuple(edits), skips, stats)


def _pays(chain: ConvChain, regions: Regions, shapes: Shapes, device: Device) -> bool:
    """Whether a block gains something: one of signals, float at both ends, has two nodes more that change the rank."""
    size = known_shape(chain.output, shapes)
    if not is_of_signals(chain.conv) or size is None or {chain.input, chain.output} & regions.formats.keys():
        return True
    passed = 8 * math.prod(int(str(one)) for one in size)  # float32, written and read
    count = len(chain.nodes)
    unfused = Plan(count, (Move("between", (count - 1) * passed, passed),))
    return decide(unfused, Plan(3, ()), device).fuse


def _skips(regions: Regions, blocks: Mapping[ir.Value, ConvChain], excluded: Collection[ir.Node]) -> Iterator[Skip]:
    """What stays float, or as it is, and why."""
    for node in excluded:
        if node.op_type == "ShiftConv":
            yield Skip(node_label(node), SkipReason.EXCLUDED)
    for node, why in regions.refused.items():
        yield Skip(node_label(node), SkipReason.NOTHING_TO_GAIN, why)
    for value, chain in regions.producers.chains.items():
        if value not in blocks:
            yield Skip(node_label(chain.conv), SkipReason.NOTHING_TO_GAIN, regions.ends(chain))
    for node, found in regions.floats.items():
        yield Skip(node_label(node), found.reason, found.why)


def _calibrated(calibration: Calibrates | None, values: Collection[ir.Value]) -> dict[ir.Value, CodeFormat]:
    """The 8-bit formats of values that no convolution reads, from their ranges over the calibration data."""
    if calibration is None or not values:
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
