# SPDX-License-Identifier: Apache-2.0
"""Layers whose weights least squares can fit anew: what each one reads, what it should give, how it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._constants import trace_constant
from edgefold.passes._layer_inputs import Inputs, Targets
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs, node_label, weighted_node
from edgefold.passes.base import Skip, SkipReason

Matrix = NDArray[np.float64]
Method = Literal["least-squares", "bias"]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer to refit, in the changed model.

    Attributes:
        site: the node and its weights.
        inputs: what they are multiplied with, P runs of K.
        targets: what the layer should give: its outputs in the original; where it is added to a tensor that has
            changed, the sum in the original less that tensor, so that the layer also makes up for the tensor's error.
        method: `bias` leaves the weights and makes up for the shift of the mean only.
        number: its place in the order of the graph, from 1.
        after: the number of the last layer that it must wait for; 0 for none.
    """

    site: WeightedNode
    inputs: Inputs
    targets: Targets
    method: Method = "least-squares"
    number: int = 0
    after: int = 0

    @property
    def width(self) -> int:
        """Outputs of one run."""
        return self.site.n // self.targets.group

    def weights(self) -> Matrix:
        """The weights with the bias as the last row, float64 [P, K + 1, N / P]."""
        runs = self.targets.group
        bias = np.zeros(self.site.n) if self.site.bias is None else np.broadcast_to(self.site.bias, self.site.n)
        rows = np.vstack([self.site.matrix(), bias]).astype(np.float64)
        return np.moveaxis(rows.reshape(len(rows), runs, -1), 1, 0)

    def write(self, weights: Matrix) -> None:
        """Stores weights and bias in the form of `weights`; a layer without a bias gets one."""
        rows = np.moveaxis(weights, 0, 1).reshape(weights.shape[1], -1)
        if self.method != "bias":
            _write_matrix(self.site, rows[:-1])
        _write_bias(self.site, rows[-1])

    def aiming_at(self, total: str, less: str, after: int = 0) -> Layer:
        """The same layer with a sum that it is a term of as its target.

        Args:
            total: the tensor of the original that the sum should equal.
            less: the other term, a tensor of the changed model.
            after: number of the last layer that the other term depends on.
        """
        targets = dataclasses.replace(self.targets, tensor=total, less=less)
        return dataclasses.replace(self, targets=targets, after=max(self.after, after))


def as_layer(
    node: ir.Node, exclude: Callable[[str], bool], *, tied: Collection[str] = (), bias_of_shared: bool = False
) -> Layer | Skip | None:
    """The node as a layer whose target is its own output; a Skip where its weights stay; None where it has none.

    Args:
        node: of the changed model.
        exclude: node names that must not be touched.
        tied: names of weights that other layers share although they are stored apart.
        bias_of_shared: whether a layer whose weights others share may have its bias refitted; else it stays.
    """
    site = weighted_node(node)
    if site is None or (isinstance(site, WeightedNode) and site.kind == "gather"):
        return None
    if isinstance(site, Skip):
        constant = site.reason not in (SkipReason.NOT_CONSTANT, SkipReason.TARGET_LACKS_OP)
        reason = site.reason if constant else SkipReason.FALLBACK
        weighty = constant or site.reason == SkipReason.TARGET_LACKS_OP
        return Skip(site.node, reason, f"{node.op_type} keeps its weights, no refit") if weighty else None
    refusal, layer = _refusal(site, tied, exclude), layer_of(site)
    bias_only = bias_of_shared and refusal == SkipReason.SHARED_WEIGHT
    if (refusal is not None and not bias_only) or layer is None:
        return Skip(site.label, refusal or SkipReason.NOT_CONSTANT, "keeps its weights, no refit")
    return dataclasses.replace(layer, method="bias") if bias_only else layer


def layer_of(site: WeightedNode) -> Layer | None:
    """A node with weights as a layer whose target is its own output; None where its inputs cannot be observed."""
    inputs = layer_inputs(site)
    if inputs is None:
        return None
    axis = 1 if site.geometry else -2 if site.on_left else -1
    targets = Targets(str(site.output.name), axis, site.geometry.group if site.geometry else 1)
    return Layer(site, inputs, targets)


def summed_with(output: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The sum of a value and another activation, and that activation, where an Add alone reads the value; else None."""
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].node.graph is not output.graph:
        return None
    node = uses[0].node
    if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
        return None
    other = node.inputs[1 - uses[0].idx]
    return None if other is None or trace_constant(other) is not None else (node.outputs[0], other)


def store(value: ir.Value, array: NDArray[np.floating]) -> None:
    """Gives an initializer other values, in its own element type."""
    assert value.const_value is not None
    dtype = ir.DataType(value.const_value.dtype)
    contiguous = np.ascontiguousarray(array, dtype=dtype.numpy())
    value.const_value = ir.tensor(contiguous, dtype=dtype, name=value.name)
    value.shape = ir.Shape(array.shape)


def _refusal(site: WeightedNode, tied: Collection[str], exclude: Callable[[str], bool]) -> SkipReason | None:
    if exclude(site.label):
        return SkipReason.EXCLUDED
    if str(site.weight.root.name) in tied or len(site.weight.root.uses()) > 1:
        return SkipReason.SHARED_WEIGHT
    if site.weight.views or not site.weight.root.is_initializer():
        return SkipReason.NOT_CONSTANT
    if not np.isfinite(site.matrix()).all():
        return SkipReason.NOT_FINITE
    return None


def _write_matrix(site: WeightedNode, matrix: Matrix) -> None:
    shape = site.weight.shape
    matrix = matrix / site.alpha
    if site.stored == "conv":
        array = np.moveaxis(matrix.reshape((*shape[2:], shape[1], shape[0])), (-1, -2), (0, 1))
    else:
        array = (matrix if site.stored == "kn" else matrix.T).reshape(shape)
    store(site.weight.root, array)


def _write_bias(site: WeightedNode, bias: NDArray[np.float64]) -> None:
    node = site.tail or site.node
    if site.tail is not None:
        position = next(i for i, value in enumerate(node.inputs) if value is not site.node.outputs[0])
    elif site.node.op_type == "MatMul":
        _append_bias(site, bias)
        return
    else:
        position = 2
        bias = bias / node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else bias
    node.resize_inputs(max(position + 1, len(node.inputs)))
    stored = node.inputs[position]
    if stored is not None and stored.is_initializer() and len(stored.uses()) == 1 and stored.const_value is not None:
        shape = tuple(stored.const_value.shape.numpy())
        store(stored, bias.reshape(shape) if np.prod(shape) == len(bias) else bias)
    else:
        node.replace_input_with(position, _new_bias(site, bias))


def _append_bias(site: WeightedNode, bias: NDArray[np.float64]) -> None:
    """Puts an Add behind a product; the sum takes over its name and its readers."""
    output = site.node.outputs[0]
    added = ir.node("Add", [output, _new_bias(site, bias[:, None] if site.on_left else bias)])
    result = added.outputs[0]
    result.shape, result.type = output.shape, output.type
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    added.replace_input_with(0, output)
    added.name = f"{node_label(site.node)}_bias"
    result.name, output.name = output.name, f"{output.name}_product"
    assert site.node.graph is not None
    site.node.graph.insert_after(site.node, added)


def _new_bias(site: WeightedNode, bias: NDArray[np.float64]) -> ir.Value:
    graph = site.node.graph
    assert isinstance(graph, ir.Graph)
    dtype = ir.DataType(site.weight.tensor.dtype)
    name = f"{node_label(site.node)}_refitted_bias"
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(bias.astype(dtype.numpy()), dtype=dtype, name=name))
    value.shape, value.dtype = ir.Shape(bias.shape), dtype
    graph.register_initializer(value)
    return value
