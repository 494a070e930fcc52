# SPDX-License-Identifier: Apache-2.0
"""Zeros that a node puts in front of a convolution, and outputs that one cuts off behind it, become its padding.

So are causal convolutions written: zeros are put before the first sample by a Pad, or by the convolution at both ends,
and then the outputs that saw samples to come are cut off (arXiv 1803.01271). The code of zero is 0 in every format.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit

_MOST = 1 << 16  # what the kernels allow
_GEOMETRY = ("kernel_shape", "dilations", "strides")


def take_in_paddings(graph: ir.Graph, apart: Collection[ir.Node]) -> list[Edit]:
    """Lets the ShiftConvs of a graph do what a Pad before or a Slice behind them does, in place; exact.

    Args:
        graph: sorted.
        apart: nodes to leave alone.
    """
    edits = []
    for node in list(graph):
        if node in apart or node.domain not in ("", "ai.onnx"):
            continue
        convs = _padded(node, apart) if node.op_type == "Pad" else _cut(node, apart) if node.op_type == "Slice" else []
        edits += [Edit(node_label(conv), f"takes {node_label(node)} ({node.op_type}) in as padding") for conv in convs]
        if convs:
            graph.remove(node, safe=True)
    return edits


def _padded(pad: ir.Node, apart: Collection[ir.Node]) -> list[ir.Node]:
    """The convolutions that took a Pad in: all that read it, or none."""
    value, source = pad.outputs[0], pad.inputs[0]
    convs = [use.node for use in value.uses() if use.idx == 0 and _is_conv(use.node, pad, apart)]
    if not convs or len(convs) != len(list(value.uses())) or value.is_graph_output() or source is None:
        return []
    wanted = [_with_zeros(pad, _pads(conv)) for conv in convs]
    if any(pads is None or max(pads) > _MOST for pads in wanted):
        return []
    for conv, pads in zip(convs, wanted, strict=True):
        conv.attributes["pads"] = ir.AttrInt64s("pads", pads or [])
        conv.replace_input_with(0, source)
    return convs


def _with_zeros(pad: ir.Node, pads: list[int]) -> list[int] | None:
    """Padding of a convolution with that of the Pad before it; None where it is anything but zeros around images."""
    amounts = small_constant(pad.inputs[1])
    filler = pad.inputs[2] if len(pad.inputs) > 2 else None
    zero = small_constant(filler) if filler is not None else np.zeros(1)
    if pad.attributes.get_string("mode", "constant") != "constant" or zero is None or zero.any() or amounts is None:
        return None
    dims = len(pads) // 2
    given = pad.inputs[3] if len(pad.inputs) > 3 else None
    axes = small_constant(given) if given is not None else np.arange(dims + 2)
    if axes is None or len(amounts) != 2 * len(axes) or (amounts < 0).any():
        return None
    found = list(pads)
    for axis, begin, end in zip(axes % (dims + 2), *amounts.reshape(2, -1), strict=True):
        if axis >= 2:
            found[axis - 2] += int(begin)
            found[axis - 2 + dims] += int(end)
        elif begin or end:
            return None
    return found


def _cut(node: ir.Node, apart: Collection[ir.Node]) -> list[ir.Node]:
    """The convolution that took a Slice in, or none.

    Its window is to begin with as much padding as it reaches back, so that there are outputs whatever is cut off.
    """
    value = node.inputs[0]
    conv = value.producer() if value is not None else None
    if value is None or conv is None or not _is_conv(conv, node, apart):
        return []
    if len(list(value.uses())) != 1 or value.is_graph_output():
        return []
    pads, operands = _pads(conv), [small_constant(one) for one in node.inputs[1:]]
    if len(operands) < 3 or any(one is None or one.size != 1 for one in operands):
        return []
    start, end, axis, *step = (int(one.item()) for one in operands if one is not None)
    dims = len(pads) // 2
    place = axis % (dims + 2) - 2
    kernel, dilation, stride = (conv.attributes.get_ints(one, ())[place] for one in _GEOMETRY)
    reach = (kernel - 1) * dilation
    if place < 0 or stride != 1 or (start, step) not in ((0, []), (0, [1])):
        return []
    if not 0 < -end <= pads[dims + place] or pads[place] < reach:
        return []
    pads[dims + place] += end
    conv.attributes["pads"] = ir.AttrInt64s("pads", pads)
    output = node.outputs[0]
    name, output.name = output.name, f"{output.name}.cut"
    ir.convenience.replace_all_uses_with([output], [value], replace_graph_outputs=True)
    value.name, value.shape, value.type = name, output.shape, output.type or value.type
    return [conv]


def _pads(conv: ir.Node) -> list[int]:
    return list(conv.attributes.get_ints("pads", ()))


def _is_conv(node: ir.Node, beside: ir.Node, apart: Collection[ir.Node]) -> bool:
    """Whether a node is a ShiftConv of the same graph as the one beside it."""
    is_conv = node.op_type == "ShiftConv" and node.domain == "ai.edgefold"
    return is_conv and node.graph is beside.graph and node not in apart
