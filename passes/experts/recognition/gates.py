# SPDX-License-Identifier: Apache-2.0
"""Where a layer's gates come from, and what they mean: dense, or as the numbers and weights of the chosen experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore

Array = npt.NDArray[Any]
Found = Mapping[str, Array]
"""Values of the graph in one run, by name."""


class Gates(Protocol):
    """The gates [T, E] of a layer, as they can be had from values of the graph."""

    @property
    def values(self) -> tuple[ir.Value, ...]:
        """Those values."""

    def dense(self, found: Found, experts: int) -> Array:
        """Their values in a run, [T, E]."""

    def write(self, graph: ir.Graph, layer: str, experts: int, after: ir.Node) -> tuple[ir.Value, ir.Node]:
        """A value of the graph that holds them, and the last node that computes it, behind another."""


@dataclasses.dataclass(frozen=True)
class Dense:
    """Gates that the graph has as they are, [..., E]."""

    value: ir.Value

    @property
    def values(self) -> tuple[ir.Value, ...]:
        return (self.value,)

    def dense(self, found: Found, experts: int) -> Array:
        return found[str(self.value.name)].reshape(-1, experts)

    def write(self, graph: ir.Graph, layer: str, experts: int, after: ir.Node) -> tuple[ir.Value, ir.Node]:
        return self.value, after


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The numbers and the weights of `top` experts for each token, [..., top] or without that axis."""

    numbers: ir.Value
    weights: ir.Value
    top: int

    @property
    def values(self) -> tuple[ir.Value, ...]:
        return (self.numbers, self.weights)

    def dense(self, found: Found, experts: int) -> Array:
        numbers, weights = (found[str(value.name)].reshape(-1, self.top) for value in (self.numbers, self.weights))
        gates = np.zeros((len(numbers), experts), weights.dtype)
        np.put_along_axis(gates, numbers.astype(np.int64), weights, axis=1)
        return gates

    def write(self, graph: ir.Graph, layer: str, experts: int, after: ir.Node) -> tuple[ir.Value, ir.Node]:
        store = InitializerStore(graph)
        columns = store.add(f"{layer}.top", np.array([-1, self.top], np.int64))
        first = store.add(f"{layer}.first", np.array([0], np.int64))
        size = store.add(f"{layer}.experts", np.array([experts], np.int64))
        dtype = self.weights.dtype or ir.DataType.FLOAT
        zero = ir.tensor(np.zeros(1, dtype.numpy()))
        numbers = ir.node("Reshape", [self.numbers, columns], name=f"{layer}/gates.numbers")
        weights = ir.node("Reshape", [self.weights, columns], name=f"{layer}/gates.weights")
        shape = ir.node("Shape", numbers.outputs, name=f"{layer}/gates.shape")
        rows = ir.node("Gather", [shape.outputs[0], first], name=f"{layer}/gates.rows")
        whole = ir.node("Concat", [rows.outputs[0], size], {"axis": 0}, name=f"{layer}/gates.size")
        zeros = ir.node("ConstantOfShape", whole.outputs, {"value": zero}, name=f"{layer}/gates.zeros")
        inputs = [zeros.outputs[0], numbers.outputs[0], weights.outputs[0]]
        dense = ir.node("ScatterElements", inputs, {"axis": 1}, name=f"{layer}/gates")
        nodes = [numbers, weights, shape, rows, whole, zeros, dense]
        for node in nodes:
            node.outputs[0].name = node.name
        gates = dense.outputs[0]
        gates.type, gates.shape = ir.TensorType(dtype), ir.Shape([None, experts])
        graph.insert_after(after, nodes)
        return gates, dense


@dataclasses.dataclass(frozen=True)
class TopScores:
    """The `top` highest of the softmax of logits [..., E], or other weights at their places.

    Attributes:
        logits: by which experts are chosen.
        top: how many.
        normalized: whether the weights of a token are made to add up to one.
        weights: [..., E], taken in the place of the softmax.
    """

    logits: ir.Value
    top: int
    normalized: bool
    weights: ir.Value | None = None

    @property
    def values(self) -> tuple[ir.Value, ...]:
        return (self.logits,) if self.weights is None else (self.logits, self.weights)

    def dense(self, found: Found, experts: int) -> Array:
        logits = found[str(self.logits.name)].reshape(-1, experts)
        scores = _softmax(logits) if self.weights is None else found[str(self.weights.name)].reshape(-1, experts)
        chosen = np.argsort(-logits, axis=1, kind="stable")[:, : self.top]
        gates = np.zeros_like(scores)
        np.put_along_axis(gates, chosen, np.take_along_axis(scores, chosen, axis=1), axis=1)
        return gates / gates.sum(axis=1, keepdims=True) if self.normalized else gates

    def write(self, graph: ir.Graph, layer: str, experts: int, after: ir.Node) -> tuple[ir.Value, ir.Node]:
        store = InitializerStore(graph)
        top = store.add(f"{layer}.chosen", np.array([self.top], np.int64))
        last = store.add(f"{layer}.last", np.array([-1], np.int64))
        choice = ir.node("TopK", [self.logits, top], {"axis": -1}, num_outputs=2, name=f"{layer}/router.top")
        values, numbers = choice.outputs
        values.name, numbers.name = f"{layer}/router.values", f"{layer}/router.numbers"
        nodes = [choice]
        if self.weights is None:
            scores = ir.node("Softmax", [self.logits], {"axis": -1}, name=f"{layer}/router.scores")
            nodes.append(scores)
        source = nodes[-1].outputs[0] if self.weights is None else self.weights
        nodes.append(ir.node("GatherElements", [source, numbers], {"axis": -1}, name=f"{layer}/router.chosen"))
        if self.normalized:
            weights = nodes[-1].outputs[0]
            nodes.append(ir.node("ReduceSum", [weights, last], {"keepdims": 1}, name=f"{layer}/router.total"))
            nodes.append(ir.node("Div", [weights, nodes[-1].outputs[0]], name=f"{layer}/router.normalized"))
        for node in nodes[1:]:
            node.outputs[0].name = node.name
        graph.insert_after(after, nodes)
        weights = nodes[-1].outputs[0]
        weights.type = self.logits.type
        return Chosen(numbers, weights, self.top).write(graph, layer, experts, nodes[-1])


@dataclasses.dataclass(frozen=True)
class Semantics:
    """What the gates are, of the router's logits.

    Attributes:
        scoring: `softmax`, `sigmoid`, or `other`.
        normalized: whether the gates of a token add up to `scale`. A softmax over the chosen logits is a softmax over
            all whose chosen ones are normalized, and is called that.
        scale: constant factor.
        selection: `scores`, or `biased` where others than the highest scores are chosen.
    """

    scoring: str
    normalized: bool
    scale: float
    selection: str

    def __str__(self) -> str:
        return (
            f"{self.scoring}{', normalized' if self.normalized else ''}"
            f"{f', times {self.scale:g}' if self.scale != 1 else ''}"
            f"{', chosen by biased scores' if self.selection == 'biased' else ''}"
        )


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(logits: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


_SCORES: dict[str, Callable[[Array], Array]] = {"softmax": _softmax, "sigmoid": _sigmoid}


def semantics(logits: Array, gates: Array) -> Semantics:
    """What gates [T, E] are of logits [T, E], by their values."""
    routed = gates != 0
    place = logits.shape[1] - np.maximum(routed.sum(axis=1, keepdims=True), 1)
    lowest = np.take_along_axis(np.sort(logits, axis=1), place, axis=1)
    selection = "scores" if (logits >= lowest)[routed].all() else "biased"
    for name, score in _SCORES.items():
        chosen = np.where(routed, score(logits.astype(np.float64)), 0)
        for normalized in (False, True):
            scores = chosen / chosen.sum(axis=1, keepdims=True) if normalized else chosen
            ratio = gates[routed] / scores[routed]
            if ratio.size and np.allclose(ratio, ratio[0], rtol=1e-3):
                return Semantics(name, normalized, float(f"{np.median(ratio):.4g}"), selection)
    return Semantics("other", False, 1.0, selection)
