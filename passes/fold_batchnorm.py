# SPDX-License-Identifier: Apache-2.0
"""Fold-batchnorm: batch normalization, a fixed scale and offset at inference, moves into the layer beside it."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgefold.passes._channel_affines import Affine, Array, added_bias, constants_behind, is_layer, sole_reader
from edgefold.passes._constants import Constant, readers, remove_if_unread, small_constant, trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._subgraphs import nodes_of
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason


class FoldBatchnorm(Pass, frozen=True, kw_only=True):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it, else into the one after it.

    What it does: with s = gamma / sqrt(variance + epsilon), a layer before it gets the weights W * s (along its output
    channels) and the bias (bias - mean) * s + beta, where the bias may stand in an Add between the two; a layer after
    it gets W * s along its input channels and the bias plus W . (beta - mean * s).

    When it fires: the statistics and the layer's weights and bias are constants, and nothing else reads the value
    between the two nor the weights, unless it is a layer whose normalization scales them alike (the towers of a siamese
    network): both then read the same folded weights. In the bodies of If, Loop and Scan too. Into a layer after it only
    without padding (or with no offset), since zeros of the padding are not normalized. Products with and additions of
    one constant a channel behind a convolution, as which Keras writes a normalization and Paddle a bias, are folded
    into it alike; so are products behind a linear layer and its bias, such as the learnt scale of a residual branch
    (LayerScale, arXiv 2103.17239, section 2), even where the tensor is transposed between the two.

    When it does not: in training mode, in float16 (the folded weights would be rounded once more), where a result is
    not finite, or where there is no such layer. Each is a skip with its reason.

    Numerics: reassociated. The factors are computed in float64 and rounded once, so that an output of a layer with K
    products differs by at most (2K + 6) * eps * (sum |W s| |x| + |bias| + |offset|) with eps = 2**-24.

    Example: ``Relu(BatchNormalization(Conv(x, W), gamma, beta, mean, variance))`` becomes ``Relu(Conv(x, W', b'))``.
    """

    effect: ClassVar[Effect] = Effect.REASSOCIATED

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        store = _Store(model.graph)
        edits: list[Edit] = []
        skips: list[Skip] = []
        for node in list(nodes_of(model.graph)):
            if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
                continue
            label = node_label(node)
            outcome = _fold(store, node)
            if isinstance(outcome, Skip):
                skips.append(outcome)
            else:
                edits.append(Edit(label, f"folded into {outcome}"))
        for chain, affine in [found for node in nodes_of(model.graph) if (found := constants_behind(node))]:
            outcome = _fold_into_before(store, chain, affine)
            if isinstance(outcome, Skip):
                skips.append(outcome)
            else:
                edits.append(Edit(node_label(chain[-1]), f"folded into {outcome}"))
        return Notes(tuple(edits), tuple(skips), {"folded": len(edits)})


def _fold(store: _Store, norm: ir.Node) -> str | Skip:
    """Folds one normalization; returns the label of the layer that took it in, or why none did."""
    affine = _affine(norm)
    if isinstance(affine, Skip):
        return affine
    before = norm.inputs[0].producer() if norm.inputs[0] is not None else None
    added = added_bias(before)
    if before is not None and added is not None:
        layer, addend = added
        shifted = Affine(affine.scale, affine.offset + addend * affine.scale)
        return _fold_into_before(store, (layer, before, norm), shifted)
    if before is not None and is_layer(before):
        return _fold_into_before(store, (before, norm), affine)
    uses = list(norm.outputs[0].uses())
    after = uses[0].node if len(uses) == 1 and uses[0].idx == 0 else None
    if after is not None and after.op_type in ("Conv", "Gemm") and after.graph is norm.graph:
        return _fold_into_after(store, norm, after, affine)
    return Skip(node_label(norm), SkipReason.NO_NEIGHBOUR)


def _affine(norm: ir.Node) -> Affine | Skip:
    label = node_label(norm)
    if norm.attributes.get_int("training_mode", 0) or any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        return Skip(label, SkipReason.ATTRIBUTE, "training mode")
    arrays = [small_constant(value) for value in norm.inputs[1:5]]
    if any(array is None for array in arrays):
        return Skip(label, SkipReason.NOT_CONSTANT, "statistics")
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return Affine(scale, beta - mean * scale)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer's constants: weights, and bias where it has one."""

    weight: Constant
    weight_array: Array
    bias_array: Array | None


class _Store(InitializerStore):
    """Keeps folded weights once where layers that share the weights fold alike."""

    def __init__(self, graph: ir.Graph) -> None:
        super().__init__(graph)
        self._folded: dict[ir.Value, ir.Value] = {}

    def add_folded(self, root: ir.Value, array: Array) -> ir.Value:
        """What the weights become in one layer."""
        known = self._folded.get(root)
        if known is None or known.const_value is None or not np.array_equal(known.const_value.numpy(), array):
            known = self._folded[root] = self.add(f"{root.name}.folded", array)
        return known


def _layer(layer: ir.Node, scale: Array | None = None) -> _Layer | Skip:
    """The constants of a layer that may be changed; ``scale`` is what its outputs are multiplied by."""
    label = node_label(layer)
    weight = trace_constant(layer.inputs[1])
    if weight is None:
        return Skip(label, SkipReason.NOT_CONSTANT)
    if weight.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return Skip(label, SkipReason.DTYPE, str(weight.dtype))
    others = [(one, place) for one, place in readers(weight.root) if (one, place) != (layer, 1)]
    if weight.root.is_graph_output() or not all(_folds_alike(*other, layer, scale) for other in others):
        return Skip(label, SkipReason.SHARED_WEIGHT, f"tensor {weight.root.name}")
    bias: Array | None = None
    if len(layer.inputs) > 2 and layer.inputs[2] is not None:
        stored = small_constant(layer.inputs[2])
        if stored is None:
            return Skip(label, SkipReason.NOT_CONSTANT, "bias")
        bias = np.asarray(stored, np.float64)
    if layer.op_type == "Gemm" and bias is not None:
        bias = bias * layer.attributes.get_float("beta", 1.0)
    return _Layer(weight, np.asarray(weight.array(), np.float64), bias)


def _folds_alike(other: ir.Node, place: int, layer: ir.Node, scale: Array | None) -> bool:
    """Whether another reader of a layer's weights is a layer that is normalized by the same factors."""
    kinds = [(one.op_identifier(), {a.name: a.value for a in one.attributes.values()}) for one in (layer, other)]
    if place != 1 or layer.op_type == "MatMul" or kinds[0] != kinds[1]:
        return False
    norm = sole_reader(other)
    if norm is None or norm.op_type != "BatchNormalization":
        return False
    affine = _affine(norm)
    return isinstance(affine, Affine) and scale is not None and np.array_equal(affine.scale, scale)


def _fold_into_before(store: _Store, chain: tuple[ir.Node, ...], affine: Affine) -> str | Skip:
    layer, norm = chain[0], chain[-1]
    for node in chain[:-1]:
        between = node.outputs[0]
        if between.is_graph_output():
            return Skip(node_label(norm), SkipReason.GRAPH_OUTPUT, f"tensor {between.name}")
        if len(list(between.uses())) > 1 or node.graph is not norm.graph:
            return Skip(node_label(norm), SkipReason.NO_NEIGHBOUR, f"{node_label(node)} has other readers")
    constants = _layer(layer, affine.scale)
    if isinstance(constants, Skip):
        return constants
    channels = len(affine.scale)
    weight, bias = constants.weight_array, constants.bias_array
    in_rank_2 = weight.ndim == 2 and _rank(layer.inputs[0]) == 2
    if layer.op_type == "MatMul" and norm.op_type == "BatchNormalization" and not in_rank_2:
        return Skip(node_label(norm), SkipReason.RANK, "channels of a MatMul are its last dimension only in rank 2")
    if bias is not None and bias.size not in (1, channels):
        return Skip(node_label(norm), SkipReason.ATTRIBUTE, "C is not a constant row")
    scaled = _scale_outputs(layer, weight, affine.scale)
    offset = affine.offset if bias is None else bias.reshape(-1) * affine.scale + affine.offset
    return _replace(store, chain, constants, layer, scaled, offset)


def _fold_into_after(store: _Store, norm: ir.Node, layer: ir.Node, affine: Affine) -> str | Skip:
    if norm.outputs[0].is_graph_output():
        return Skip(node_label(norm), SkipReason.GRAPH_OUTPUT, f"tensor {norm.outputs[0].name}")
    constants = _layer(layer)
    if isinstance(constants, Skip):
        return constants
    weight = constants.weight_array
    if layer.op_type == "Gemm":
        if layer.attributes.get_int("transA", 0):
            return Skip(node_label(norm), SkipReason.ATTRIBUTE, "transA")
        rows = weight.T if layer.attributes.get_int("transB", 0) else weight
        extra = affine.offset @ rows * layer.attributes.get_float("alpha", 1.0)
        scaled = rows * affine.scale[:, None]
        scaled = scaled.T if layer.attributes.get_int("transB", 0) else scaled
    else:
        if affine.offset.any() and _pads(layer):
            return Skip(node_label(norm), SkipReason.ATTRIBUTE, f"{node_label(layer)} pads with zeros")
        spatial = (1,) * (weight.ndim - 2)
        per_output = _input_channels(layer, weight, affine.scale), _input_channels(layer, weight, affine.offset)
        scaled = weight * per_output[0].reshape(*per_output[0].shape, *spatial)
        extra = (weight * per_output[1].reshape(*per_output[1].shape, *spatial)).reshape(len(weight), -1).sum(axis=1)
    bias = constants.bias_array
    if bias is not None and bias.size not in (1, len(extra)):
        return Skip(node_label(norm), SkipReason.ATTRIBUTE, "C is not a constant row")
    offset = extra if bias is None else bias.reshape(-1) + extra
    return _replace(store, (norm, layer), constants, layer, scaled, offset)


def _scale_outputs(layer: ir.Node, weight: Array, scale: Array) -> Array:
    """The weights with every output channel multiplied by its scale."""
    if layer.op_type == "Conv" or (layer.op_type == "Gemm" and layer.attributes.get_int("transB", 0) != 0):
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op_type == "ConvTranspose":  # [C, M / group, kernel]; input channel c belongs to group c // (C / group)
        group = layer.attributes.get_int("group", 1)
        per_input = np.repeat(scale.reshape(group, -1), weight.shape[0] // group, axis=0)
        return weight * per_input.reshape(*per_input.shape, *[1] * (weight.ndim - 2))
    return weight * scale


def _input_channels(layer: ir.Node, weight: Array, channels: Array) -> Array:
    """A quantity per input channel, as [M, C / group] along the weights of a convolution."""
    group = layer.attributes.get_int("group", 1)
    return np.repeat(channels.reshape(group, -1), weight.shape[0] // group, axis=0)


def _pads(layer: ir.Node) -> bool:
    automatic = layer.attributes.get_string("auto_pad", "NOTSET")
    return automatic.startswith("SAME") or any(layer.attributes.get_ints("pads", ()))


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _replace(
    store: _Store,
    chain: tuple[ir.Node, ...],
    constants: _Layer,
    layer: ir.Node,
    weight: Array,
    bias: Array,
) -> str | Skip:
    """Puts one layer with the new constants in the place of the chain."""
    dtype: Any = constants.weight.dtype.numpy()
    with np.errstate(over="ignore"):
        weight, bias = weight.astype(dtype), bias.astype(dtype)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return Skip(node_label(layer), SkipReason.NOT_FINITE, "folded weights")
    label, old_output = node_label(layer), chain[-1].outputs[0]
    new_weight = store.add_folded(constants.weight.root, weight)
    is_matmul = layer.op_type == "MatMul"
    new_bias = store.add(f"{label}.folded_bias", bias) if bias.any() or not is_matmul else None
    attributes = [attr for name, attr in layer.attributes.items() if name != "beta"]
    inputs = [chain[0].inputs[0], new_weight] + ([] if is_matmul else [new_bias])
    output = ir.Value(name=f"{label}.folded_output" if is_matmul else None, type=old_output.type)
    nodes = [ir.Node("", layer.op_type, inputs, attributes, outputs=[output], name=layer.name)]
    if is_matmul and new_bias is not None:
        nodes.append(ir.Node("", "Add", [output, new_bias], num_outputs=1, name=f"{label}/folded_bias"))
    for turn in (node for node in chain if node.op_type == "Transpose"):
        last = nodes[-1].outputs[0]
        nodes.append(ir.Node("", "Transpose", [last], turn.attributes.values(), num_outputs=1, name=turn.name))
    source = ",".join(node_label(node) for node in chain)
    for node in nodes:
        node.metadata_props.update({"edgefold.pass": "fold-batchnorm", "edgefold.from": source})
    stored = [trace_constant(value) for node in chain for value in node.inputs]
    graph = chain[-1].graph
    assert graph is not None
    ir.convenience.replace_nodes_and_values(
        graph, chain[-1], list(reversed(chain)), nodes, [old_output], [nodes[-1].outputs[0]]
    )
    for constant in stored:
        if constant is not None:
            remove_if_unread(constant)
    return label
