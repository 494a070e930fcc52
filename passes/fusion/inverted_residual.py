# SPDX-License-Identifier: Apache-2.0
"""The kind ``inverted-residual``: 1x1, depthwise and 1x1 blocks of a region, whose wide tensors never exist whole.

It joins the FusedConvBlocks that the kind ``conv-region`` has made, so that everything between them is codes already.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Notes, Skip, SkipReason
from edgefold.passes.fusion.cost import Decision, Device, Move, Plan, decide
from edgefold.passes.fusion.shapes import Shapes, run_shapes

KIND = "inverted-residual"
_WEIGHTS = slice(1, 6)  # codes, selectors, table, scales, bias
_X_SCALE, _RESIDUAL, _RESIDUAL_SCALE, _Y_SCALE = 6, 8, 9, 10
_GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group")
_CODES = ("low", "high", "dtype")
_PIXELS_AT_ONCE = 64
"""Output pixels for which the kernel reads the weights of the projection again."""


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
    shapes = run_shapes(model, context) if candidates else {}
    taken: set[ir.Node] = set()
    for found in candidates:
        if taken.intersection(found.nodes):
            continue  # of 1x1, depthwise, 1x1, depthwise, 1x1 the middle one ends a block and begins no other
        if any(context.excludes(node_label(node)) for node in found.nodes):
            skips.append(Skip(found.label, SkipReason.EXCLUDED))
            continue
        decision = _decision(found, shapes, device)
        if decision is None:
            skips.append(Skip(found.label, SkipReason.DYNAMIC_SHAPE, "the size of the image is unknown"))
            continue
        table.append({"block": found.label, "kind": KIND} | dataclasses.asdict(decision))
        if decision.fuse:
            edits.append(_replace(model.graph, found))
            taken.update(found.nodes)
        else:
            skips.append(Skip(found.label, SkipReason.NOTHING_TO_GAIN, decision.why))
    return Notes(tuple(edits), tuple(skips), {f"{KIND}.blocks": len(edits)}, tuple(table))


def _candidates(graph: ir.Graph) -> Iterator[InvertedResidual]:
    for expand in graph:
        if not _is_pointwise(expand) or _residual_at(expand):
            continue
        depthwise = _sole_reader(expand)
        if depthwise is None or not _is_depthwise(depthwise) or _residual_at(depthwise):
            continue
        project = _sole_reader(depthwise)
        if project is None or not _is_pointwise(project) or not _adds_only(project, expand):
            continue
        yield InvertedResidual(expand, depthwise, project, bool(_residual_at(project)))


def _is_block(node: ir.Node) -> bool:
    return node.domain == "ai.edgefold" and node.op_type == "FusedConvBlock"


def _is_pointwise(node: ir.Node) -> bool:
    if not _is_block(node) or node.attributes.get_int("group", 1) != 1:
        return False
    places = (*node.attributes.get_ints("kernel_shape", ()), *node.attributes.get_ints("strides", ()))
    return all(size == 1 for size in places) and not any(node.attributes.get_ints("pads", ()))


def _is_depthwise(node: ir.Node) -> bool:
    taps = math.prod(node.attributes.get_ints("kernel_shape", ()))
    return (
        _is_block(node)
        and node.attributes.get_int("k", 0) == taps
        and node.attributes.get_int("group", 0) == _channels(node)
    )


def _channels(node: ir.Node) -> int:
    scales = node.inputs[4]
    assert scales is not None
    assert scales.shape is not None
    return int(scales.shape.numpy()[0])


def _residual_at(node: ir.Node) -> int:
    return node.attributes.get_int("residual_at", 0)


def _sole_reader(node: ir.Node) -> ir.Node | None:
    """The block that alone reads, as its x, what another one gives."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].idx != 0 or value.is_graph_output() or not _is_block(uses[0].node):
        return None
    return uses[0].node


def _adds_only(project: ir.Node, expand: ir.Node) -> bool:
    """Whether the last block adds nothing, or, before its activation, the codes that the first one reads."""
    place = _residual_at(project)
    return place == 0 or (place == 1 and project.inputs[_RESIDUAL] is expand.inputs[0])


def _decision(block: InvertedResidual, shapes: Shapes, device: Device) -> Decision | None:
    """Compares what the wide tensors and the weights cost when they are met again.

    Unfused, each wide tensor passes whole from one convolution to the next. Fused, a ring of as many rows as the kernel
    has lies between the first two and a few rows between the last two, but the weights are read for every few rows.
    """
    value = block.expand.inputs[0]
    x = shapes.get(str(value.name)) if value is not None else None
    if x is None:
        return None
    height, width = x[1:3] if block.expand.attributes.get_int("x_codes", 0) else x[2:]
    strides = block.depthwise.attributes.get_ints("strides", (1, 1))
    kernel = block.depthwise.attributes.get_ints("kernel_shape", ())
    wide = _channels(block.expand)
    expanded = height * width * wide
    filtered = -(-height // strides[0]) * -(-width // strides[1]) * wide
    ring, rows = kernel[0] * width * wide, max(_PIXELS_AT_ONCE, -(-width // strides[1])) * wide
    weights = _weight_bytes(block.expand) + _weight_bytes(block.project)
    turns = max(filtered // rows, 1)
    unfused = (Move("expanded", 2 * expanded, expanded), Move("filtered", 2 * filtered, filtered))
    fused = (
        Move("expanded", 2 * expanded, ring),
        Move("filtered", 2 * filtered, ring + rows),
        Move("weights", (turns - 1) * weights, ring + rows + weights),
    )
    return decide(Plan(3, unfused), Plan(1, fused), device)


def _weight_bytes(node: ir.Node) -> int:
    codes = node.inputs[1]
    return codes.const_value.nbytes if codes is not None and codes.const_value is not None else 0


def _replace(graph: ir.Graph, block: InvertedResidual) -> Edit:
    """Puts the operator in the place of the three."""
    expand, depthwise, project = block.nodes
    attributes = [expand.attributes[name] for name in ("activation_low", "activation_high", "x_codes", "x_perm")]
    attributes += [depthwise.attributes[name] for name in _GEOMETRY]
    attributes += [project.attributes[name] for name in ("y_low", "y_high", "y_dtype", "y_perm", "layout")]
    for prefix, node in zip(("expand", "depthwise", "project"), block.nodes, strict=True):
        for name in ("k", "bits", "function", "alpha", "beta", "narrow_bits", "narrow_scales"):
            if name in node.attributes:
                attributes.append(_renamed(node.attributes[name], f"{prefix}_{name}"))
        if node is not project:
            attributes += [_renamed(node.attributes[f"y_{name}"], f"{prefix}_{name}") for name in _CODES]
    x_dtype = ir.DataType.UINT8 if expand.attributes.get_int("activation_low", 0) == 0 else ir.DataType.INT8
    attributes += ir.convenience.convert_attributes({"residual": int(block.adds), "x_dtype": int(x_dtype)})
    inputs = [expand.inputs[0], *expand.inputs[_WEIGHTS], *depthwise.inputs[_WEIGHTS], *project.inputs[_WEIGHTS]]
    inputs += [expand.inputs[_X_SCALE], *(node.inputs[_Y_SCALE] for node in block.nodes)]
    old = project.outputs[0]
    output = ir.Value(name=f"{old.name}.fused", type=old.type, shape=old.shape)
    node = ir.Node("ai.edgefold", "FusedInvertedResidual", inputs, attributes, outputs=[output], name=block.label)
    sources = ",".join(one.metadata_props.get("edgefold.from", node_label(one)) for one in block.nodes)
    node.metadata_props.update({"edgefold.pass": "fuse-blocks", "edgefold.from": sources})
    ir.convenience.replace_nodes_and_values(graph, project, block.nodes[::-1], [node], [old], [output])
    return Edit(block.label, "FusedInvertedResidual")


def _renamed(attribute: ir.Attr, name: str) -> ir.Attr:
    return ir.Attr(name, attribute.type, attribute.value)
