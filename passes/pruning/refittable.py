# SPDX-License-Identifier: Apache-2.0
"""The layers of a cut model that least squares can refit: what each one reads, what it should give, how it is written.

A layer is refitted where its input is not what it was: it lost channels, or something before it did.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._layer_inputs import Inputs, Targets
from edgefold.passes._subgraphs import bodies, reads
from edgefold.passes._weighted_nodes import WeightedNode, node_label, weighted_node
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.pruning.groups import AxisKey, IntArray, Trace
from edgefold.passes.quantization.weights import layer_inputs

Matrix = NDArray[np.float64]
Kept = Mapping[AxisKey, IntArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer to refit, in the cut model.

    Attributes:
        site: the node and its weights.
        inputs: what they are multiplied with, P runs of K.
        targets: what the layer should give: its outputs in the original; where it is added to a tensor that has
            changed, the sum in the original less that tensor, so that the layer also makes up for the tensor's error.
        lost: whether it lost inputs itself.
        number: its place in the order of the graph, from 1.
        after: the number of the last layer that it must wait for; 0 for none.
    """

    site: WeightedNode
    inputs: Inputs
    targets: Targets
    lost: bool
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
        _write_matrix(self.site, rows[:-1])
        _write_bias(self.site, rows[-1])


def refittable(
    model: ir.Model, kept: Kept, trace: Trace, ties: Sequence[Sequence[str]], exclude: Callable[[str], bool]
) -> tuple[list[Layer], list[Skip]]:
    """The layers whose inputs a cut has changed, in the order of the graph, and those that stay as they are.

    Args:
        model: cut.
        kept: of the cut.
        trace: of the model before the cut.
        ties: names of weights that are one matrix; the layers that share it cannot be refitted apart.
        exclude: node names that must not be touched.
    """
    unknown = _fill_ranks(model, trace)
    tied = set(itertools.chain.from_iterable(ties))
    changed = {name for name, _ in kept}
    latest: dict[ir.Value, int] = {}  # the last layer that a value depends on
    layers: list[Layer] = []
    skips: list[Skip] = []
    for node in model.graph:
        before = max((latest.get(value, 0) for value in reads(node)), default=0)
        if bodies(node):
            unseen = _in_bodies(node, changed)
            skips.extend(unseen)
            if unseen or any(str(value.name) in changed for value in reads(node)):
                changed.update(str(value.name) for value in node.outputs)
        elif any(str(value.name) in changed for value in reads(node) if not value.is_initializer()):
            found = _found(node, kept, tied, exclude)
            if isinstance(found, Layer):
                known = {value: number for value, number in latest.items() if str(value.name) in changed}
                numbered = dataclasses.replace(found, number=len(layers) + 1, after=before)
                layers.append(_with_sum(numbered, trace, known))
                before = len(layers)
            elif found is not None:
                skips.append(found)
            changed.update(str(value.name) for value in node.outputs)
        latest.update((value, before) for value in node.outputs)
    for value in unknown:
        value.shape = None
    return layers, skips


def _in_bodies(node: ir.Node, changed: set[str]) -> list[Skip]:
    """A Skip for each layer in the bodies of a node whose inputs have changed: calibration cannot see these."""
    skips = []
    for body in bodies(node):
        for inner in body:
            skips.extend(_in_bodies(inner, changed))
            if not any(str(value.name) in changed for value in reads(inner) if not value.is_initializer()):
                continue
            changed.update(str(value.name) for value in inner.outputs)
            if isinstance(site := weighted_node(inner), WeightedNode) and site.kind != "gather":
                skips.append(Skip(site.label, SkipReason.SUBGRAPH, "calibration sees nothing in there; no refit"))
    return skips


def _found(node: ir.Node, kept: Kept, tied: set[str], exclude: Callable[[str], bool]) -> Layer | Skip | None:
    """The node as a layer; a Skip where its weights stay; None where it has none."""
    site = weighted_node(node)
    if site is None or (isinstance(site, WeightedNode) and site.kind == "gather"):
        return None
    if isinstance(site, Skip):
        constant = site.reason not in (SkipReason.NOT_CONSTANT, SkipReason.TARGET_LACKS_OP)
        reason = site.reason if constant else SkipReason.FALLBACK
        weighty = constant or site.reason == SkipReason.TARGET_LACKS_OP
        return Skip(site.node, reason, f"{node.op_type} keeps its weights, no refit") if weighty else None
    refusal, inputs = _refusal(site, tied, exclude), layer_inputs(site)
    if refusal is not None or inputs is None:
        return Skip(site.label, refusal or SkipReason.NOT_CONSTANT, "keeps its weights, no refit")
    name, rank = str(site.weight.root.name), len(site.weight.shape)
    writes, reads = {"kn": (rank - 1, rank - 2), "nk": (rank - 2, rank - 1), "conv": (0, 1)}[site.stored]
    columns = kept.get((name, writes))
    axis = 1 if site.geometry else -2 if site.on_left else -1
    targets = Targets(
        str(site.output.name),
        axis,
        site.geometry.group if site.geometry else 1,
        None if columns is None else tuple(int(index) for index in columns),
    )
    return Layer(site, inputs, targets, lost=(name, reads) in kept)


def _refusal(site: WeightedNode, tied: set[str], exclude: Callable[[str], bool]) -> SkipReason | None:
    if exclude(site.label):
        return SkipReason.EXCLUDED
    if str(site.weight.root.name) in tied or len(site.weight.root.uses()) > 1:
        return SkipReason.SHARED_WEIGHT
    if site.weight.views or not site.weight.root.is_initializer():
        return SkipReason.NOT_CONSTANT
    if not np.isfinite(site.matrix()).all():
        return SkipReason.NOT_FINITE
    return None


def _with_sum(layer: Layer, trace: Trace, changed: Mapping[ir.Value, int]) -> Layer:
    """The layer with the sum that it is a term of as its target, where the other term has changed before it runs.

    Args:
        layer: with its own output as the target.
        trace: of the model before the cut.
        changed: values that have changed already, with the last layer that each depends on.
    """
    output = layer.site.output
    uses = list(output.uses())
    if len(uses) != 1 or uses[0].node.graph is not output.graph:
        return layer
    if uses[0].node.op_type != "Add" or uses[0].node.domain not in ("", "ai.onnx"):
        return layer
    total, other = uses[0].node.outputs[0], uses[0].node.inputs[1 - uses[0].idx]
    shape = trace.shapes.get(str(output.name))
    if other is None or other not in changed or shape is None or trace.shapes.get(str(total.name)) != shape:
        return layer
    targets = dataclasses.replace(layer.targets, tensor=str(total.name), less=str(other.name))
    return dataclasses.replace(layer, targets=targets, after=max(layer.after, changed[other]))


def _fill_ranks(model: ir.Model, trace: Trace) -> list[ir.Value]:
    """Gives values of which the graph says nothing the rank that they had in the trace."""
    unknown = [value for node in model.graph.all_nodes() for value in node.outputs if value.shape is None]
    known = [value for value in unknown if str(value.name) in trace.shapes]
    for value in known:
        value.shape = ir.Shape([None] * len(trace.shapes[str(value.name)]))
    return known


def _write_matrix(site: WeightedNode, matrix: Matrix) -> None:
    shape = site.weight.shape
    matrix = matrix / site.alpha
    if site.stored == "conv":
        array = np.moveaxis(matrix.reshape((*shape[2:], shape[1], shape[0])), (-1, -2), (0, 1))
    else:
        array = (matrix if site.stored == "kn" else matrix.T).reshape(shape)
    _store(site.weight.root, array)


def _write_bias(site: WeightedNode, bias: NDArray[np.float64]) -> None:
    node = site.tail or site.node
    if site.tail is not None:
        position = next(i for i, value in enumerate(node.inputs) if value is not None and value.is_initializer())
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
        _store(stored, bias.reshape(shape) if np.prod(shape) == len(bias) else bias)
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
    value = ir.Value(name=name, const_value=ir.tensor(bias.astype(dtype.numpy()), dtype=dtype, name=name))
    value.shape, value.dtype = ir.Shape(bias.shape), dtype
    graph.register_initializer(value)
    return value


def _store(value: ir.Value, array: NDArray[np.float64]) -> None:
    assert value.const_value is not None
    dtype = ir.DataType(value.const_value.dtype)
    contiguous = np.ascontiguousarray(array, dtype=dtype.numpy())
    value.const_value = ir.tensor(contiguous, dtype=dtype, name=value.name)
    value.shape = ir.Shape(array.shape)
