# SPDX-License-Identifier: Apache-2.0
"""Activation functions behind a value, recognized by what they compute, whatever nodes an exporter wrote them with.

The nodes behind a value that read it, each other and scalar constants are a function of one variable. It is sampled
and compared with the functions that the fused operators know; their parameters are read off the samples.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._constants import small_constant

Samples = NDArray[np.float64]


class ActivationKind(enum.IntEnum):
    """The functions by the numbers that `edgefold.ops.activation` and the kernels know them by."""

    CLIP = 0
    SIGMOID = 1
    HARD_SIGMOID = 2
    TANH = 3
    SWISH = 4
    HARD_SWISH = 5
    GELU = 6
    GELU_TANH = 7
    LEAKY_RELU = 8


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation function and its parameters; as in `edgefold.ops.activation`."""

    kind: ActivationKind = ActivationKind.CLIP
    alpha: float = -math.inf
    beta: float = math.inf

    @property
    def title(self) -> str:
        """For the report: "hard-swish"; "none" where it gives every x back."""
        return "none" if self == IDENTITY else self.kind.name.lower().replace("_", "-")


IDENTITY = Activation()
RELU = Activation(alpha=0.0)


@dataclasses.dataclass(frozen=True)
class ActivationNodes:
    """The nodes that compute an activation, in graph order, and what they give."""

    activation: Activation
    nodes: tuple[ir.Node, ...]
    output: ir.Value


# Dense where the functions bend, and far out, where bounds show.
_X: Samples = np.concatenate([[-1e9, -1e4, -60.0], np.linspace(-12, 12, 769), [60.0, 1e4, 1e9]])
_TOLERANCE = 2e-6  # of max(1, |x|): constants such as sqrt(2) are stored as float32
_MOST_NODES = 12  # GELU by tanh, written out, has 9
_ERF = np.vectorize(math.erf, otypes=[np.float64])


def find_activation(value: ir.Value) -> ActivationNodes | None:
    """The activation function that alone reads a value, or None; of several behind one another their composition."""
    samples: dict[ir.Value, Samples] = {value: _X}
    nodes: list[ir.Node] = []
    found: ActivationNodes | None = None
    while len(nodes) < _MOST_NODES:
        step = _next_node(samples, nodes)
        if step is None:
            break
        node, computed = step
        nodes.append(node)
        samples[node.outputs[0]] = computed
        if not _alone(node.outputs[0], samples, nodes):
            continue
        activation = identify(computed)
        if activation is not None:
            found = ActivationNodes(activation, tuple(nodes), node.outputs[0])
    return found


def identify(y: Samples) -> Activation | None:
    """The activation function with these values at the sampled points, or None."""
    for activation in _candidates(y):
        expected = _FUNCTIONS[activation.kind](_X, activation.alpha, activation.beta)
        if np.all(np.abs(y - expected) <= _TOLERANCE * np.maximum(1, np.abs(_X))):
            return activation
    return None


def _candidates(y: Samples) -> Iterator[Activation]:
    def at(x: float) -> float:
        return float(np.interp(x, _X, y))

    low, high = float(y[0]), float(y[-1])
    bounds = (-math.inf if low == _X[0] else low, math.inf if high == _X[-1] else high)
    if bounds[0] < bounds[1] and bounds != (-math.inf, math.inf):
        yield Activation(ActivationKind.CLIP, *bounds)
    for kind in (ActivationKind.SIGMOID, ActivationKind.TANH, ActivationKind.GELU, ActivationKind.GELU_TANH):
        yield Activation(kind, 0.0, 0.0)
    if 0.5 < at(1) < 1:
        yield Activation(ActivationKind.SWISH, _rounded(math.log(at(1) / (1 - at(1)))), 0.0)
    odd, even = _rounded((at(1) - at(-1)) / 2), _rounded((at(1) + at(-1)) / 2)
    if -1 < at(-1) <= 1:  # -1 would be the identity
        yield Activation(ActivationKind.LEAKY_RELU, _rounded(-at(-1)), 0.0)
    if odd > 0:
        yield Activation(ActivationKind.HARD_SIGMOID, odd, _rounded(at(0)))
    if even > 0:
        yield Activation(ActivationKind.HARD_SWISH, even, odd)


def _rounded(number: float) -> float:
    """A parameter as it was most likely meant: a sixth rather than 0.16666668."""
    for denominator in (1, 6, 1000):
        near = round(number * denominator) / denominator
        if abs(near - number) < 1e-6:
            return near
    return number


def _next_node(samples: Mapping[ir.Value, Samples], nodes: list[ir.Node]) -> tuple[ir.Node, Samples] | None:
    """A node, not among `nodes`, that computes on the sampled values alone, and its samples."""
    for value in samples:
        for use in value.uses():
            node = use.node
            if node in nodes or (node.graph is not value.graph and value.graph is not None):
                continue
            computed = _evaluate(node, samples)
            if computed is not None:
                return node, computed
    return None


def _alone(output: ir.Value, samples: Mapping[ir.Value, Samples], nodes: list[ir.Node]) -> bool:
    """Whether nothing but the nodes reads any of the values on the way to the output."""
    inner = [value for value in samples if value is not output]
    return all(not value.is_graph_output() and all(use.node in nodes for use in value.uses()) for value in inner)


def _evaluate(node: ir.Node, samples: Mapping[ir.Value, Samples]) -> Samples | None:
    operation = _OPERATIONS.get(node.op_type)
    if operation is None or node.domain not in ("", "com.microsoft") or len(node.outputs) != 1:
        return None
    operands: list[Samples | float | None] = []
    for value in node.inputs:
        constant = None if value is None or value in samples else small_constant(value)
        if value is None:
            operands.append(None)
        elif value in samples:
            operands.append(samples[value])
        elif constant is not None and constant.size == 1:
            operands.append(float(constant.reshape(())))
        else:
            return None
    with np.errstate(all="ignore"):
        return np.asarray(operation(node, *operands), np.float64)


def _clip(x: Samples, low: float | None, high: float | None) -> Samples:
    return np.minimum(np.maximum(x, -math.inf if low is None else low), math.inf if high is None else high)


def _sigmoid(x: Samples) -> Samples:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -700, 700))))


def _gelu(x: Samples) -> Samples:
    return np.asarray(x / 2 * (1 + _ERF(x / math.sqrt(2))))


def _gelu_tanh(x: Samples) -> Samples:
    return np.asarray(x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


_FUNCTIONS: Mapping[ActivationKind, Callable[[Samples, float, float], Samples]] = {
    ActivationKind.CLIP: _clip,
    ActivationKind.SIGMOID: lambda x, _a, _b: _sigmoid(x),
    ActivationKind.HARD_SIGMOID: lambda x, a, b: _clip(a * x + b, 0, 1),
    ActivationKind.TANH: lambda x, _a, _b: np.tanh(x),
    ActivationKind.SWISH: lambda x, a, _b: x * _sigmoid(a * x),
    ActivationKind.HARD_SWISH: lambda x, a, b: x * _clip(a * x + b, 0, 1),
    ActivationKind.GELU: lambda x, _a, _b: _gelu(x),
    ActivationKind.GELU_TANH: lambda x, _a, _b: _gelu_tanh(x),
    ActivationKind.LEAKY_RELU: lambda x, a, _b: np.where(x < 0, a * x, x),
}


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes.get_float(name, default))


# What each operator computes, of its node and its operands.
_OPERATIONS: Mapping[str, Callable[..., Samples]] = {
    "Add": lambda _n, a, b: a + b,
    "Sub": lambda _n, a, b: a - b,
    "Mul": lambda _n, a, b: a * b,
    "Div": lambda _n, a, b: a / b,
    "Pow": lambda _n, a, b: np.power(a, b),
    "Min": lambda _n, *several: functools.reduce(np.minimum, several),
    "Max": lambda _n, *several: functools.reduce(np.maximum, several),
    "Neg": lambda _n, a: -a,
    "Exp": lambda _n, a: np.exp(a),
    "Erf": lambda _n, a: _ERF(a),
    "Tanh": lambda _n, a: np.tanh(a),
    "Sigmoid": lambda _n, a: _sigmoid(a),
    "Relu": lambda _n, a: np.maximum(a, 0),
    "LeakyRelu": lambda n, a: np.where(a < 0, _number(n, "alpha", 0.01) * a, a),
    "PRelu": lambda _n, a, slope: np.where(a < 0, slope * a, a),
    "Clip": lambda _n, a, low=None, high=None: _clip(a, low, high),
    "HardSigmoid": lambda n, a: _clip(_number(n, "alpha", 0.2) * a + _number(n, "beta", 0.5), 0, 1),
    "HardSwish": lambda _n, a: a * _clip(a / 6 + 0.5, 0, 1),
    "Swish": lambda n, a: a * _sigmoid(_number(n, "alpha", 1.0) * a),
    "QuickGelu": lambda n, a: a * _sigmoid(_number(n, "alpha", 1.702) * a),
    "Gelu": lambda n, a: _gelu_tanh(a) if n.attributes.get_string("approximate", "none") == "tanh" else _gelu(a),
}
