# SPDX-License-Identifier: Apache-2.0
"""Turn LayerNormalization into root mean square normalization where the mean can be taken out of what writes its input.

A LayerNormalization ignores the mean of its input over channels. Where nothing but such normalizations reads a residual
stream, the layers that write to it may as well write without a mean: their weights are centred once, the mean is zero
ever after, and what is left to do is to divide by the root mean square (SliceGPT, 2401.15024, section 3.2). That stays
exact when channels are removed, which a mean over fewer channels does not.

A stream that itself passes through a normalization, as in encoders that normalize after each sum, cannot be centred.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Edit
from edgefold.passes.pruning.groups import Trace
from edgefold.passes.pruning.streams import Place, Stream, UncentredError

_RMS_NORMALIZATION = 23  # opset


def fold_means(model: ir.Model, trace: Trace) -> list[Edit]:
    """Centre the streams that only normalizations read, in place, and let these no longer subtract the mean.

    Args:
        model: prepared.
        trace: of the model; values that are added are not in it.

    Returns:
        An edit for each such normalization; the model computes what it did, up to rounding.
    """
    store = InitializerStore(model.graph)
    edits: list[Edit] = []
    seen: set[Place] = set()
    for node in list(model.graph):
        place = _normalized(node, trace)
        if place is None or place in seen:
            continue
        stream = Stream(trace)
        try:
            stream.follow(place)
        except UncentredError:
            continue
        finally:
            seen.update(stream.places)
        for value, axis in stream.stored:
            _centre(value, axis)
        for norm in stream.norms:
            _without_mean(norm, model, store)
            edits.append(Edit(node_label(norm), "its mean is taken out by the layers before it"))
    return edits


def _normalized(node: ir.Node, trace: Trace) -> Place | None:
    """What a LayerNormalization, or the Sub of a decomposed one, takes the mean of."""
    value = node.inputs[0] if node.inputs else None
    if value is None or str(value.name) not in trace.shapes:
        return None
    rank = len(trace.shapes[str(value.name)])
    if node.op_type == "LayerNormalization":
        return value, rank - 1
    if node.op_type == "Sub" and node.inputs[1] is not None:
        mean = node.inputs[1].producer()
        if mean is not None and mean.op_type == "ReduceMean" and mean.inputs[0] is value:
            return value, rank - 1
    return None


def _centre(value: ir.Value, axis: int) -> None:
    tensor = value.const_value
    assert tensor is not None
    array = tensor.numpy().astype(np.float64)
    array -= array.mean(axis=axis, keepdims=True)
    dtype = ir.DataType(tensor.dtype)
    value.const_value = ir.tensor(array.astype(dtype.numpy()), dtype=dtype, name=value.name)


def _without_mean(norm: ir.Node, model: ir.Model, store: InitializerStore) -> None:
    graph, value = model.graph, norm.inputs[0]
    assert value is not None
    if norm.op_type == "Sub":
        norm.outputs[0].replace_all_uses_with(value)
        mean = norm.inputs[1].producer() if norm.inputs[1] is not None else None
        graph.remove(norm, safe=True)
        if mean is not None and not mean.outputs[0].uses():
            graph.remove(mean, safe=True)
        return
    result = _root_mean_square(norm, value, graph, store)
    if len(norm.inputs) > 2 and norm.inputs[2] is not None:
        result = _add(norm, "Add", [result, norm.inputs[2]])
    norm.outputs[0].replace_all_uses_with(result, replace_graph_outputs=True)
    name = norm.outputs[0].name
    result.shape, result.type = norm.outputs[0].shape, norm.outputs[0].type
    graph.remove(norm, safe=True)
    result.name = name


def _root_mean_square(norm: ir.Node, value: ir.Value, graph: ir.Graph, store: InitializerStore) -> ir.Value:
    epsilon, scale = norm.attributes.get_float("epsilon", 1e-5), norm.inputs[1]
    assert scale is not None
    if graph.opset_imports.get("", 1) >= _RMS_NORMALIZATION:
        return _add(norm, "RMSNormalization", [value, scale], axis=-1, epsilon=epsilon)
    dtype = ir.DataType(scale.dtype or ir.DataType.FLOAT).numpy()
    axes, offset = store.add("last_axis", np.array([-1])), store.add("epsilon", np.array(epsilon, dtype=dtype))
    square = _add(norm, "Mul", [value, value])
    mean = (
        _add(norm, "ReduceMean", [square, axes])
        if graph.opset_imports.get("", 1) >= 18
        else _add(norm, "ReduceMean", [square], axes=[-1])
    )
    root = _add(norm, "Sqrt", [_add(norm, "Add", [mean, offset])])
    return _add(norm, "Mul", [_add(norm, "Div", [value, root]), scale])


def _add(norm: ir.Node, op_type: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
    """A new node in front of the normalization."""
    assert norm.graph is not None
    number = sum(1 for node in norm.graph if str(node.name).startswith(f"{node_label(norm)}_rms_"))
    node = ir.node(op_type, inputs, attributes, name=f"{node_label(norm)}_rms_{number}")  # type: ignore[arg-type]
    node.outputs[0].name = node.name
    norm.graph.insert_before(norm, node)
    return node.outputs[0]
