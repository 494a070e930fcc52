# SPDX-License-Identifier: Apache-2.0
"""Structure proposes, arithmetic decides: what is taken to be a layer is run alone, and computed from what was read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._layer_inputs import Rows
from edgefold.passes.base import Context
from edgefold.passes.experts.activation import Expression, evaluate
from edgefold.passes.experts.dispatch import Array, Expert, Product
from edgefold.passes.experts.recognition.gates import Found
from edgefold.passes.pruning.groups import Trace

TOLERANCES = {np.dtype(np.float32): 1e-4, np.dtype(np.float16): 1e-2}
"""Largest difference between a layer and what was understood of it, as a share of its largest output, by the type of
its weights: in half precision the layer itself rounds every intermediate value to 11 bits."""

COUNTS = (7, 1, 64)
"""Tokens of the runs; 7 first, because no other size of a layer is likely to be 7."""

_CALIBRATION_ROWS = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a layer did with some tokens.

    Attributes:
        x: [T, d].
        found: values of the graph, by name.
    """

    x: Array
    found: Found


class UncutError(Exception):
    """The layer cannot be run on its own; says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """The part of a graph between the tokens and some values that they determine.

    Attributes:
        model: that part alone.
        root: where the tokens enter, [..., d].
        shape: of the root in the probe.
        inputs: of the model that the part needs beside it, for their sizes only; with their shapes in the probe.
    """

    model: ir.Model
    root: str
    shape: tuple[int, ...]
    inputs: tuple[tuple[str, ir.DataType, tuple[int, ...]], ...]

    @classmethod
    def cut(cls, model: ir.Model, root: ir.Value, wanted: Sequence[ir.Value], trace: Trace) -> Block:
        """Cuts a part out of a model.

        Raises:
            UncutError: it reads inputs of the model, of other sizes than the tokens.
        """
        shape = trace.shapes[str(root.name)]
        others = _inputs_of(wanted, root)
        described = tuple(
            (str(one.name), one.dtype or ir.DataType.FLOAT, trace.shapes[str(one.name)]) for one in others
        )
        for name, _, size in described:
            if _resized(size, math.prod(shape[:-1]), 1) is None:
                raise UncutError(f"it reads the input '{name}' of other sizes than the tokens")
        graph = ir.convenience.extract(model.graph, [root, *others], list(dict.fromkeys(wanted)))
        entering = next(value for value in graph.inputs if value.name == root.name)
        entering.shape = ir.Shape([*(None for _ in shape[:-1]), shape[-1]])
        entering.dtype = entering.dtype or ir.DataType.FLOAT
        for value in graph.outputs:
            value.shape = None
        for node in graph:
            node.attributes.pop(
                "accuracy_level", None
            )  # QMoE: rounds its inputs to integers, which is no part of a layer
        part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
        return cls(part, str(root.name), shape, described)

    def _run(self, values: Callable[[Found], Found], tokens: Array) -> Run:
        dtype = next(value.dtype for value in self.model.graph.inputs if value.name == self.root)
        assert dtype is not None
        x = tokens.astype(dtype.numpy())
        feeds = {self.root: x.reshape(*(1 for _ in self.shape[:-2]), *x.shape)}
        for name, kind, size in self.inputs:
            resized = _resized(size, math.prod(self.shape[:-1]), len(x))
            assert resized is not None
            feeds[name] = np.zeros(resized, kind.numpy())
        return Run(x, values(feeds))

    def runs(self, context: Context) -> Iterator[Run]:
        """Runs on random tokens of several counts, then on those of the calibration data where there are any."""
        assert context.compute is not None
        values = context.compute(self.model)
        random = np.random.default_rng(context.seed)
        for count in COUNTS:
            yield self._run(values, random.standard_normal((count, self.shape[-1]), np.float32))
        if context.calibration is not None:
            request = Rows(self.root)
            yield self._run(values, context.calibration.rows([request], _CALIBRATION_ROWS)[request][0])


def expert_outputs(x: Array, experts: Sequence[Expert], activation: Expression) -> Array:
    """What each expert gives for each of the tokens [T, d], float32 [E, T, d]."""
    return np.stack([_forward(x.astype(np.float32), expert, activation) for expert in experts])


def mixture(outputs: Array, gates: Array) -> Array:
    """What a layer gives whose experts give `outputs` [E, T, d], by gates [T, E]: float64 [T, d]."""
    weights = gates.astype(np.float64).T[..., None]
    with np.errstate(invalid="ignore"):  # what is tried as gates may hold infinities
        return np.asarray((np.where(weights != 0, outputs, 0) * weights).sum(axis=0))


def difference(y: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest output; infinite where the sizes are not the same."""
    if y.size != expected.size:
        return math.inf
    scale = float(np.abs(y).max(initial=0.0))
    error = float(np.abs(y.reshape(expected.shape) - expected).max(initial=0.0))
    return error / scale if scale > 0 and math.isfinite(error) else math.inf


def _forward(x: Array, expert: Expert, activation: Expression) -> Array:
    hidden = evaluate(activation, [_apply(one, x) for one in expert.inputs])
    return _apply(expert.down, hidden.astype(np.float32))


def _apply(product: Product, x: Array) -> Array:
    result: Array = x @ product.weight.astype(np.float32, copy=False)
    return result if product.bias is None else result + product.bias


def _inputs_of(wanted: Sequence[ir.Value], root: ir.Value) -> list[ir.Value]:
    """The inputs of the graph that values need beside the root."""
    seen: set[ir.Value] = {root}
    found: list[ir.Value] = []
    pending = list(wanted)
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is not None:
            pending += [one for one in node.inputs if one is not None]
        elif value.is_graph_input() and not value.is_initializer():
            found.append(value)
    return found


def _resized(shape: tuple[int, ...], rows: int, count: int) -> tuple[int, ...] | None:
    """The shape of an input for another count of tokens, whose old count its first sizes multiply to."""
    for length in range(1, len(shape) + 1):
        if math.prod(shape[:length]) == rows:
            return (*(1 for _ in shape[: length - 1]), count, *shape[length:])
    return None
