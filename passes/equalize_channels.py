# SPDX-License-Identifier: Apache-2.0
"""Equalize-channels: what makes some channels of an activation larger than others moves into the weights around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._layer_inputs import Rows
from edgefold.passes._weighted_nodes import node_label
from edgefold.passes.base import Context, Edit, Effect, Notes, Pass, Skip, SkipReason
from edgefold.passes.equalization.classes import ScaleClass, scale_classes
from edgefold.passes.equalization.constants import Array, BarrierError, WorkingConstants
from edgefold.passes.equalization.factors import Strength, migrate
from edgefold.passes.equalization.relations import Shapes


class EqualizeChannels(Pass, frozen=True, kw_only=True):
    """Moves the differences between the channels of an activation into the weights of the layers that read it.

    What it does: channel c of a tensor is divided by a factor s[c], which goes into what computes the tensor (weights
    and bias of Conv, Gemm and MatMul, scale and bias of a normalization, also written out as Mul and Add, tables of
    Gather), and the rows of the weights that read the channel are multiplied by it. With the peaks of activations and
    weights, s = max|x|^alpha / max|w|^(1 - alpha) (SmoothQuant, arXiv 2211.10438, equation 4). Without calibration data
    the peaks of what computes the tensor stand for those of the activations, which is cross-layer equalization (arXiv
    1906.04721, section 4.1).

    When it fires: between the two the tensor passes only operators that carry a positive factor through: ReLU,
    LeakyReLU, pooling, padding with zeros, sums, views, the weighted sum of attention (value to output projection).
    Tensors that meet in a sum share one vector of factors.

    When it does not: another operator (GELU, Clip, Sigmoid), an input or output of the graph, or weights shared with
    others are on the way. Each is a skip with its reason; with ``insert`` an explicit multiplication takes its place.

    Numerics: reassociated. With powers of two every product is scaled exactly and outputs stay equal to the last bit.

    Example: ``Conv(Relu(Conv(x, w)), v)`` becomes ``Conv(Relu(Conv(x, w / s)), v * s)``.

    Attributes:
        method: `power-of-two` or `smoothquant`, whose factors are any.
        alpha: 1 makes the peaks of the channels of an activation alike, 0 those of the weights that read them.
        insert: multiply explicitly where nothing can take the factors in; needs calibration data.
    """

    effect: ClassVar[Effect] = Effect.REASSOCIATED

    method: Literal["power-of-two", "smoothquant"] = "power-of-two"
    alpha: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    insert: bool = False

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        graph = model.graph
        constants = WorkingConstants(graph)
        excluded = [node for node in graph if context.excludes(node_label(node))]
        shape_of, skips = _shapes(model, context)
        found = list(scale_classes(graph, shape_of, constants, excluded))
        observed, unobserved = _observe([one for one in found if one.readers], context)
        skips += unobserved
        chosen = [one for one in found if one.stopped is None or self._insertable(one, observed, skips)]
        strength = Strength(self.alpha, powers_of_two=self.method == "power-of-two")
        factors = migrate(chosen, observed, strength, constants)
        edits: list[Edit] = []
        constants.store()
        store = InitializerStore(graph)
        for one in chosen:
            if (factors[one] == 1).all():
                skips.append(Skip(one.label, SkipReason.BELOW_THRESHOLD, "its channels are balanced"))
                continue
            if one.stopped is not None:
                _insert(graph, store, one, factors[one])
            spread = float(factors[one].max() / factors[one].min())
            where = "multiplied before" if one.stopped else "folded, over"
            edits.append(Edit(one.label, f"{where} {len(one.readers)} layers, factors 1 to {spread:.4g}"))
        inserted = sum(one.stopped is not None and bool((factors[one] != 1).any()) for one in chosen)
        return Notes(tuple(edits), tuple(skips), {"folded": len(edits) - inserted, "inserted": inserted})

    def _insertable(self, one: ScaleClass, observed: Mapping[ScaleClass, Array], skips: list[Skip]) -> bool:
        """Whether a stopped class gets a multiplication of its own; if not, says why."""
        assert one.stopped is not None
        if self.insert and one in observed and one.readers:
            return True
        skips.append(Skip(one.label, one.stopped.reason, one.stopped.detail))
        return False


def _shapes(model: ir.Model, context: Context) -> tuple[Shapes, list[Skip]]:
    """Extents of tensors: as seen in a run where there is one, else as the model states them."""
    seen: Mapping[str, tuple[int, ...]] = {}
    skips = []
    try:
        seen = context.probe(model).shapes if context.probe else {}
    except ModelError as error:
        skips.append(Skip("model", SkipReason.FALLBACK, f"{error}: shapes as the model states them"))

    def shape_of(value: ir.Value) -> tuple[int, ...]:
        if str(value.name) in seen:
            return seen[str(value.name)]
        if value.shape is None or not all(isinstance(size, int) for size in value.shape):
            raise BarrierError(SkipReason.DYNAMIC_SHAPE, f"tensor {value.name}")
        return tuple(value.shape.numpy())

    return shape_of, skips


def _observe(classes: Sequence[ScaleClass], context: Context) -> tuple[dict[ScaleClass, Array], list[Skip]]:
    """The largest magnitudes of the channels of each class over the calibration data, where there are any."""
    if context.calibration is None or not classes:
        return {}, []
    requests = {one: [Rows(str(at.value.name), at.axes[0]) for at in one.inputs] for one in classes}
    try:
        peaks = context.calibration.peaks([request for rows in requests.values() for request in rows])
    except ModelError as error:
        if len(classes) == 1:
            return {}, [Skip(classes[0].label, SkipReason.FALLBACK, f"{error}: peaks of the weights instead")]
        half = len(classes) // 2
        (left, wrong), (right, more) = _observe(classes[:half], context), _observe(classes[half:], context)
        return {**left, **right}, [*wrong, *more]
    return {
        one: np.max([peaks[request] for request in rows], axis=0).astype(np.float64) for one, rows in requests.items()
    }, []


def _insert(graph: ir.Graph, store: InitializerStore, one: ScaleClass, factors: Array) -> None:
    """Divides a tensor by its factors, for its layers only."""
    value = one.inputs[0].value
    layers = {place.node for place in one.readers}
    first = next(node for node in graph if node in layers)
    behind = len(first.attributes.get_ints("kernel_shape", ())) if first.op_type == "Conv" else 0
    assert value.dtype is not None
    inverse = (1 / factors).astype(value.dtype.numpy()).reshape(-1, *[1] * behind)
    name = f"{one.label}/equalize"
    output = ir.Value(name=f"{value.name}.equalized", type=value.type, shape=value.shape)
    node = ir.Node("", "Mul", [value, store.add(f"{name}.factors", inverse)], outputs=[output], name=name)
    node.metadata_props.update({"edgefold.pass": "equalize-channels", "edgefold.from": one.label})
    graph.insert_before(first, node)
    for layer in layers:
        layer.replace_input_with(0, output)
