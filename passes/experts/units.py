# SPDX-License-Identifier: Apache-2.0
"""Which hidden units of experts are worth their weights, and layers whose experts are split into groups of units.

An expert is a sum over its hidden units, E(x) = sum_j h_j(x) w_j. Split into two groups of units it is two narrower
experts with one gate, exactly: the form of a layer does not change, and nothing has to be scattered. So the sparse part
of MC-SMoE (arXiv 2310.01334, section 3.2), whole output neurons of a matrix beside a low rank U V, is stored compact
when its neurons are the hidden units of an expert, the same ones for all of its matrices. What U V would give for such
a neuron is superfluous, so that the low rank is that of the other units only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.errors import ModelError
from edgefold.passes._least_squares import damped_inverse
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.experts.dispatched import DispatchedLayer, replace_dispatched
from edgefold.passes.experts.evidence import Evidence
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.experts.layers import Prepared, functions
from edgefold.passes.experts.refit import last_inputs
from edgefold.passes.experts.router import keep_gates
from edgefold.passes.pruning.second_order import Surgeon, removal_scores

Vector = NDArray[np.float64]
Units = NDArray[np.intp]

_TINY = 1e-30


def choose_units(prepared: Prepared, share: float, *, equal: bool) -> tuple[Mapping[int, list[Units]], list[Skip]]:
    """The hidden units of all layers that are worth most, within this share of the weights.

    Returns:
        By the places of the layers, the units of each expert, ascending, at least one; and the layers that calibration
        cannot see.
    """
    scores: dict[int, list[Vector]] = {}
    costs: list[int] = []
    skips: list[Skip] = []
    budget = 0.0
    for place, layer in prepared.layers.items():
        experts = functions(layer)
        try:
            scores[place] = unit_scores(experts, prepared.observer.evidence(layer), prepared.observer.share(layer))
        except ModelError as error:
            skips.append(Skip(layer.name, SkipReason.FALLBACK, f"{error}: it keeps its units"))
            continue
        costs.append(experts[0].unit_weights)
        budget += share * costs[-1] * sum(expert.width for expert in experts)
    if not scores:
        return {}, skips
    return dict(zip(scores, strongest(list(scores.values()), costs, budget, equal=equal), strict=True)), skips


def unit_scores(experts: Sequence[FeedForward], evidence: Evidence, share: float) -> list[Vector]:
    """What each unit adds to the relative error of the stream when units of its expert go, the cheapest first.

    The others of its expert make up for it by least squares on the rows routed there (Optimal Brain Surgeon). What they
    cannot make up for compares units of different experts and layers.

    Args:
        experts: of a layer.
        evidence: of the layer.
        share: of the stream's energy that is the layer's.

    Returns:
        float64 [width] of each expert.
    """
    scale = share / max(float(np.square(evidence.wanted).sum(dtype=np.float64)), _TINY)
    found = []
    for expert, gate in zip(experts, evidence.gates.T, strict=True):
        rows, last = np.flatnonzero(gate), expert.last()
        seen = last_inputs(expert, gate[rows], evidence.x[rows])
        units = np.arange(len(last))
        units[expert.width :] = -1  # the bias is no unit
        surgeon = Surgeon(last, damped_inverse(seen.xtx[0]), units, scale)
        found.append(removal_scores([surgeon], expert.width, expert.width - 1))
    return found


def strongest(
    scores: Sequence[Sequence[Vector]], costs: Sequence[float], budget: float, *, equal: bool
) -> list[list[Units]]:
    """The units that are worth most for their cost, at least one of each expert, within a budget.

    Args:
        scores: of each layer, of each of its experts, of each unit; the experts of a layer have equally many.
        costs: of one unit of each layer.
        budget: of all costs.
        equal: whether the experts of a layer keep equally many.

    Returns:
        Their numbers, ascending, of each layer, of each of its experts.
    """
    ranked = [[np.argsort(-one, kind="stable") for one in layer] for layer in scores]
    worth, price = [], []  # of a second unit, a third one, ...: the first of each expert stays in any case
    for layer, orders, cost in zip(scores, ranked, costs, strict=True):
        rows = np.stack([one[order[1:]] for one, order in zip(layer, orders, strict=True)]) / cost
        together = rows.mean(axis=0, keepdims=True) if equal else rows
        worth.append(together)
        price.append(np.full(together.shape, cost * len(rows) / len(together)))
        budget -= cost * len(rows)
    taken = _best(
        np.concatenate([one.ravel() for one in worth]), np.concatenate([one.ravel() for one in price]), budget
    )
    ends = np.cumsum([one.size for one in worth])[:-1]
    counts = [1 + one.reshape(like.shape).sum(axis=1) for one, like in zip(np.split(taken, ends), worth, strict=True)]
    return [
        [np.sort(order[:count]) for order, count in zip(orders, np.broadcast_to(of, len(orders)), strict=True)]
        for orders, of in zip(ranked, counts, strict=True)
    ]


def _best(worth: Vector, price: Vector, budget: float) -> NDArray[np.bool_]:
    """Which are bought when the best are bought first, until one is too dear."""
    order = np.argsort(-worth, kind="stable")
    taken = np.zeros(len(worth), bool)
    taken[order[np.cumsum(price[order]) <= budget]] = True
    return taken


def keep_units(graph: ir.Graph, layer: DispatchedLayer, kept: Sequence[Units]) -> None:
    """Leaves each expert of a layer some of its units."""
    experts = [one.of_units(units, bias=True) for one, units in zip(functions(layer), kept, strict=True)]
    replace_dispatched(graph, layer, layer.gates, [one.weights for one in experts])


def split_units(graph: ir.Graph, layer: DispatchedLayer, kept: Sequence[Units]) -> None:
    """Puts two experts with the same gate in the place of each one: first, of all, those units, then all the others."""
    pairs = list(zip(functions(layer), kept, strict=True))
    first = [expert.of_units(units, bias=True) for expert, units in pairs]
    others = [np.setdiff1d(np.arange(expert.width), units) for expert, units in pairs]
    rest = {number: pairs[number][0].of_units(units, bias=False) for number, units in enumerate(others) if len(units)}
    gates = keep_gates(graph, layer.gates, [*range(len(first)), *rest])
    replace_dispatched(graph, layer, gates, [one.weights for one in (*first, *rest.values())])
