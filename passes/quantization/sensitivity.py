# SPDX-License-Identifier: Apache-2.0
"""What each width of each layer costs at the model's outputs, every layer quantized alone.

One run a layer measures how far its coarse weights move the outputs. At other widths the error of the weights is other,
and the outputs move in proportion to it: what is measured is the layer, what is computed the width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import Float, WeightedNode
from edgefold.passes.base import Context, Perturb, Skip, SkipReason
from edgefold.passes.quantization.codes import Method, quantize_matrix
from edgefold.passes.quantization.shared_weights import WeightGroup, method_at

WIDTHS = (2, 3, 4, 5, 6, 8)

_COARSE = (3, 4)  # bits of the weights that outputs are measured with: two, because one rounding is one draw
_SAMPLE = 1 << 15  # weights of a matrix whose error is computed at each width
_TINY = 1e-30
_BY_WEIGHTS = "bits are chosen by the errors of the weights alone"


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """One matrix and the error that it brings to the outputs at each width.

    Attributes:
        weights: elements.
        macs: multiply-accumulates of all nodes that apply it in one run; 0 where shapes are not known.
        errors: squared error by width, as a share of the energy of the outputs.
    """

    weights: int
    macs: int
    errors: Mapping[int, float]


def sensitivities(
    model: ir.Model, groups: Sequence[WeightGroup], methods: Sequence[Method], context: Context
) -> tuple[list[Sensitivity], list[Skip]]:
    """The table of all groups, and a Skip where it had to be made without running the model.

    Without calibration data all layers count alike: the error of each is that of its weights relative to their energy.
    """
    effects, skips = [1.0] * len(groups), list[Skip]()
    shapes: Mapping[str, tuple[int, ...]] = {}
    try:
        shapes = context.probe(model).shapes if context.probe else {}
        if context.perturb is None:
            skips.append(Skip("model", SkipReason.NO_CALIBRATION, _BY_WEIGHTS))
        else:
            effects = _effects(model, groups, context.perturb)
    except ModelError as error:
        skips.append(Skip("model", SkipReason.FALLBACK, f"{error}: {_BY_WEIGHTS}"))
    table = []
    for group, method, effect in zip(groups, methods, effects, strict=True):
        site = group.sites[0]
        sample = _columns(site.matrix())
        errors = {bits: effect * _error(sample, bits, method_at(method, bits)) for bits in WIDTHS}
        outputs = sum(math.prod(shapes.get(str(one.node.outputs[0].name), (0,))) for one in group.sites)
        table.append(Sensitivity(site.k * site.n, site.k * outputs, errors))
    return table, skips


def _effects(model: ir.Model, groups: Sequence[WeightGroup], perturb: Perturb) -> list[float]:
    """For each group, the error of the outputs for one unit of relative squared error of its weights."""
    changed = model.clone()
    names = {site.node: f"{site.label}.weights_to_exchange" for group in groups for site in group.sites}
    copies = dict(zip(model.graph.all_nodes(), changed.graph.all_nodes(), strict=True))
    store = InitializerStore(changed.graph)
    for group in groups:
        for site in group.sites:
            _exchangeable(changed.graph, store, copies[site.node], site, names[site.node])
    matrices = [group.sites[0].matrix() for group in groups]

    def changes() -> Iterator[Mapping[str, Any]]:
        for group, matrix in zip(groups, matrices, strict=True):
            for bits in _COARSE:
                coarse = quantize_matrix(matrix, bits, "rtn").dequantize()
                yield {names[site.node]: _as_stored(site, coarse) for site in group.sites}

    moved = iter(perturb(changed, changes()))
    effects = []
    for matrix in matrices:
        sample = _columns(matrix)
        ratios = [max(next(moved), _TINY) / max(_error(sample, bits, "rtn"), _TINY) for bits in _COARSE]
        effects.append(math.exp(sum(map(math.log, ratios)) / len(ratios)))
    return effects


def _exchangeable(graph: ir.Graph, store: InitializerStore, node: ir.Node, site: WeightedNode, name: str) -> None:
    """Gives a node weights of its own that are an input of the model with a default."""
    value = store.add(name, site.weight.array())
    graph.inputs.append(value)
    node.replace_input_with(1 - site.operand, value)


def _as_stored(site: WeightedNode, matrix: Float) -> Any:
    """A matrix W [K, N] in the shape and type of the node's weights."""
    shape = site.weight.shape
    if site.stored == "conv":
        stored = np.moveaxis(matrix.reshape(*shape[2:], shape[1], shape[0]), (-1, -2), (0, 1))
    else:
        stored = (matrix if site.stored == "kn" else matrix.T).reshape(shape)
    return np.ascontiguousarray(stored / np.float32(site.alpha), dtype=site.weight.dtype.numpy())


def _columns(matrix: Float) -> Float:
    """Evenly spaced columns of a matrix, at least one."""
    count = min(matrix.shape[1], max(1, _SAMPLE // matrix.shape[0]))
    return np.ascontiguousarray(matrix[:, np.linspace(0, matrix.shape[1] - 1, count).astype(np.intp)])


def _error(matrix: Float, bits: int, method: Method) -> float:
    """Squared error of the quantized matrix relative to its energy."""
    error = matrix - quantize_matrix(matrix, bits, method).dequantize()
    return float(np.vdot(error, error) / max(float(np.vdot(matrix, matrix)), _TINY))
