# SPDX-License-Identifier: Apache-2.0
"""The kind ``inverted-residual``: 1x1, depthwise and 1x1 blocks of a region, whose wide tensors never exist whole.

It joins the FusedConvBlocks that the kind ``conv-region`` has made, so that everything between them is codes already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.block_chains import (
    PIXELS_AT_ONCE,
    Y_SCALE,
    adds_only,
    channels,
    is_block,
    is_depthwise,
    is_pointwise,
    residual_at,
    sole_reader,
    weight_bytes,
)
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.replacement import put_in_place
from edgefold.passes.fusion.separate_blocks import separate_blocks
from edgefold.passes.fusion.shapes import Shapes, run_shapes

KIND = "inverted-residual"
_WEIGHTS = slice(1, 6)  # codes, selectors, table, scales, bias
_X_SCALE = 6
_GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")
_CODES = ("low", "high", "dtype")


@dataclasses.dataclass(frozen=True)
class InvertedResidual:
    """Three FusedConvBlocks of which each alone reads the one before.

    Attributes:
        adds: whether the input is added to the output.
    """

    expand: ir.Node
    depthwise: ir.Node
    project: ir.Node
    adds: bool

    @property
    def label(self) -> str:
        return node_label(self.depthwise)

    @property
    def nodes(self) -> tuple[ir.Node, ir.Node, ir.Node]:
        return self.expand, self.depthwise, self.project


def fuse_inverted_residuals(model: ir.Model, context: Context, device: Device) -> Notes:
    """Joins the inverted residual blocks of the main graph, in place, where it costs no time.

    Numerics: bit-equal to the three blocks.
    """
    edits: list[Edit] = []
    skips: list[Skip] = []
    table: list[Mapping[str, Any]] = []
    candidates = list(_candidates(model.graph))
    shapes = run_shapes(model, context) if any(map(is_block, model.graph)) else {}
    taken: set[ir.Node] = set()
    for found in candidates:
        if taken.intersection(found.nodes):
            continue  # of 1x1, depthwise, 1x1, depthwise, 1x1 the middle one ends a block and begins no other
        if any(context.excludes(node_label(node)) for node in found.nodes):
            skips.append(Skip(found.label, SkipReason.EXCLUDED))
            continue
        size = _size(found, shapes)
        if size is None:
            skips.append(Skip(found.label, SkipReason.DYNAMIC_SHAPE, "the size of the image is unknown"))
            continue
        if size[0] == 1 and size[1] > PIXELS_AT_ONCE:
            skips.append(Skip(found.label, SkipReason.NOTHING_TO_GAIN, "one long row has no rows to stream"))
            continue
        decision = _decision(found, size, device)
        table.append({"block": found.label, "kind": KIND} | dataclasses.asdict(decision))
        if decision.fuse:
            edits.append(_replace(found))
            taken.update(found.nodes)
        else:
            skips.append(Skip(found.label, SkipReason.NOTHING_TO_GAIN, decision.why))
    left = separate_blocks(model.graph, shapes, device)
    notes = tuple(edits), (*skips, *left.skips), {f"{KIND}.blocks": len(edits)}, (*table, *left.table)
    return Notes(*notes)


def _candidates(graph: ir.Graph) -> Iterator[InvertedResidual]:
    for expand in graph:
        if not is_pointwise(expand) or residual_at(expand):
            continue
        depthwise = sole_reader(expand)
        if depthwise is None or not is_depthwise(depthwise) or residual_at(depthwise):
            continue
        project = sole_reader(depthwise)
        if project is None or not is_pointwise(project) or not adds_only(project, expand):
            continue
        yield InvertedResidual(expand, depthwise, project, bool(residual_at(project)))


def _size(block: InvertedResidual, shapes: Shapes) -> tuple[int, int] | None:
    """Height and width of the image that a block reads; None where they are unknown."""
    value = block.expand.inputs[0]
    x = shapes.get(str(value.name)) if value is not None else None
    if x is None:
        return None
    height, width = x[1:3] if block.expand.attributes.get_int("x_codes", 0) else x[2:]
    return height, width


def _decision(block: InvertedResidual, size: tuple[int, int], device: Device) -> Decision:
    """Compares what the wide tensors and the weights cost when they are met again.

    Unfused, each wide tensor passes whole from one convolution to the next. Fused, a ring of as many rows as the kernel
    has lies between the first two and a few rows between the last two, but the weights are read for every few rows.
    """
    height, width = size
    strides = block.depthwise.attributes.get_ints("strides", (1, 1))
    kernel = block.depthwise.attributes.get_ints("kernel_shape", ())
    wide = channels(block.expand)
    expanded = height * width * wide
    filtered = -(-height // strides[0]) * -(-width // strides[1]) * wide
    ring, rows = kernel[0] * width * wide, max(PIXELS_AT_ONCE, -(-width // strides[1])) * wide
    weights = weight_bytes(block.expand) + weight_bytes(block.project)
    turns = max(filtered // rows, 1)
    unfused = (Move("expanded", 2 * expanded, expanded), Move("filtered", 2 * filtered, filtered))
    fused = (
        Move("expanded", 2 * expanded, ring),
        Move("filtered", 2 * filtered, ring + rows),
        Move("weights", (turns - 1) * weights, ring + rows + weights),
    )
    return decide(Plan(3, unfused), Plan(1, fused), device)


def _replace(block: InvertedResidual) -> Edit:
    """Puts the operator in the place of the three."""
    expand, depthwise, project = block.nodes
    attributes = [expand.attributes[name] for name in ("activation_low", "activation_high", "x_codes", "x_perm")]
    attributes += [depthwise.attributes[name] for name in _GEOMETRY]
    attributes += [project.attributes[name] for name in ("y_low", "y_high", "y_dtype", "y_perm", "layout")]
    packed = ((expand, "x_packed"), (project, "y_packed"))
    attributes += [node.attributes[name] for node, name in packed if name in node.attributes]
    for prefix, node in zip(("expand", "depthwise", "project"), block.nodes, strict=True):
        for name in ("k", "bits", "function", "alpha", "beta", "narrow_bits", "narrow_scales"):
            if name in node.attributes:
                attributes.append(_renamed(node.attributes[name], f"{prefix}_{name}"))
        if node is not project:
            attributes += [_renamed(node.attributes[f"y_{name}"], f"{prefix}_{name}") for name in _CODES]
    x_dtype = ir.DataType.UINT8 if expand.attributes.get_int("activation_low", 0) == 0 else ir.DataType.INT8
    attributes += ir.convenience.convert_attributes({"residual": int(block.adds), "x_dtype": int(x_dtype)})
    inputs = [expand.inputs[0], *expand.inputs[_WEIGHTS], *depthwise.inputs[_WEIGHTS], *project.inputs[_WEIGHTS]]
    inputs += [expand.inputs[_X_SCALE], *(node.inputs[Y_SCALE] for node in block.nodes)]
    put_in_place("FusedInvertedResidual", block.nodes, inputs, attributes, block.label)
    return Edit(block.label, "FusedInvertedResidual")


def _renamed(attribute: ir.Attr, name: str) -> ir.Attr:
    return ir.Attr(name, attribute.type, attribute.value)
