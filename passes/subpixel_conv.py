# SPDX-License-Identifier: Apache-2.0
"""Subpixel-conv: a transposed convolution whose windows do not overlap is a 1x1 convolution and a rearrangement."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import Constant, remove_if_unread, small_constant, trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.fusion.activations import find_activation


class SubpixelConv(Pass, frozen=True, kw_only=True):
    """Writes a ConvTranspose whose windows do not overlap as a 1x1 Conv and a DepthToSpace (arXiv 1609.07009).

    What it does: where the strides equal the kernel, b x b, every output pixel is one product of one input pixel. A
    Conv of b * b times the channels computes a block of pixels from each, and DepthToSpace puts them beside each other.
    The Conv can then be quantized and be a part of a region of `fuse-blocks`, where the rearrangement moves bytes. An
    activation function behind the transposed convolution is computed before the rearrangement.

    When it fires: two spatial dimensions, constant weights and bias, one group, no padding.

    When it does not: windows overlap or leave gaps, or the result is cropped. Each is a skip with its reason. It is
    part of the recipe `fused` alone, because ONNX Runtime's DepthToSpace of floats takes longer than what it spares.

    Numerics: reassociated. An output is the same sum of C products, in another order: it differs by at most
    2 * C * eps * (sum |W| |x| + |bias|) with eps = 2**-24.

    Example: ``y = Relu(ConvTranspose<kernel_shape = [2, 2], strides = [2, 2]>(x, W, b))`` becomes
    ``y = DepthToSpace<blocksize = 2>(Relu(Conv(x, W', b')))``.
    """

    effect: ClassVar[Effect] = Effect.REASSOCIATED

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        graph = model.graph
        store = InitializerStore(graph)
        edits: list[Edit] = []
        skips: list[Skip] = []
        for node in [one for one in graph if one.op_type == "ConvTranspose" and one.domain in ("", "ai.onnx")]:
            label = node_label(node)
            refused = Skip(label, SkipReason.EXCLUDED) if context.excludes(label) else _refusal(node)
            if refused is not None:
                skips.append(refused)
            else:
                _replace(graph, store, node)
                edits.append(Edit(label, "1x1 Conv and DepthToSpace"))
        return Notes(tuple(edits), tuple(skips), {"rewritten": len(edits)})


def _refusal(node: ir.Node) -> Skip | None:
    """Why a ConvTranspose cannot be rewritten, or None."""
    label, weight = node_label(node), trace_constant(node.inputs[1])
    if weight is None or (len(node.inputs) > 2 and node.inputs[2] is not None and not trace_constant(node.inputs[2])):
        return Skip(label, SkipReason.NOT_CONSTANT)
    if len(weight.shape) != 4:
        return Skip(label, SkipReason.RANK, f"{len(weight.shape) - 2} spatial dimensions")
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    if kernel != tuple(node.attributes.get_ints("strides", ones)):
        return Skip(label, SkipReason.ATTRIBUTE, "windows overlap or leave gaps")
    if kernel[0] != kernel[1] or kernel[0] == 1:
        return Skip(label, SkipReason.ATTRIBUTE, "no square blocks of pixels")
    cropped = any(node.attributes.get_ints("pads", ())) or any(node.attributes.get_ints("output_padding", ()))
    if cropped or "output_shape" in node.attributes:  # SAME comes to no padding where strides equal the kernel
        return Skip(label, SkipReason.ATTRIBUTE, "the output is cropped or padded")
    if node.attributes.get_int("group", 1) != 1 or tuple(node.attributes.get_ints("dilations", ones)) != ones:
        return Skip(label, SkipReason.ATTRIBUTE, "groups or dilations")
    return None


def _replace(graph: ir.Graph, store: InitializerStore, node: ir.Node) -> None:
    """Puts the Conv in the node's place, and the DepthToSpace behind the activation function, if one follows."""
    label, old = node_label(node), node.outputs[0]
    activation = find_activation(old)
    inputs, block = _conv_inputs(store, node)
    conv = ir.Node("", "Conv", inputs, num_outputs=1, name=label)
    attributes = ir.convenience.convert_attributes({"blocksize": block, "mode": "DCR"})
    shuffle = ir.Node("", "DepthToSpace", [conv.outputs[0]], attributes, num_outputs=1, name=f"{label}/shuffle")
    graph.insert_before(node, conv)
    graph.insert_after(activation.nodes[-1] if activation else node, shuffle)
    last = activation.output if activation else old
    shuffled = shuffle.outputs[0]
    shuffled.name, shuffled.type, shuffled.shape = last.name, last.type, last.shape
    ir.convenience.replace_all_uses_with(last, shuffled, replace_graph_outputs=True)
    if activation is not None:
        shuffle.replace_input_with(0, last)
        ir.convenience.replace_all_uses_with(old, conv.outputs[0])
    _rename(conv.outputs[0], old)
    for one in activation.nodes if activation else ():
        _rename(one.outputs[0], one.outputs[0])
    for one in (conv, shuffle):
        one.metadata_props.update({"edgefold.pass": "subpixel-conv", "edgefold.from": label})
    stored = [trace_constant(value) for value in node.inputs[1:]]
    graph.remove(node, safe=True)
    for constant in stored:
        if constant is not None:
            remove_if_unread(constant)


def _rename(value: ir.Value, old: ir.Value) -> None:
    """Channels are not rearranged yet: another tensor than the original's of that name."""
    value.name, value.type, value.shape = f"{old.name}.deep", old.type, None


def _conv_inputs(store: InitializerStore, node: ir.Node) -> tuple[list[ir.Value | None], int]:
    """The operands of the Conv, whose output channel (row * block + column) * M + m is m at that place of a block."""
    weight = trace_constant(node.inputs[1])
    assert isinstance(weight, Constant)
    array = weight.array()  # [C, M, block, block]
    block = array.shape[2]
    turned = np.ascontiguousarray(array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0], 1, 1))
    inputs = [node.inputs[0], store.add_own(f"{weight.root.name}.deep", turned)]
    bias = small_constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        inputs.append(store.add(f"{node_label(node)}.deep_bias", np.tile(bias.reshape(-1), block * block)))
    return inputs, block
