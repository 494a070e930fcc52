# SPDX-License-Identifier: Apache-2.0
"""What an expert computes between its matrices, as an expression over the outputs of the first ones.

An expression is read from the nodes of a graph, evaluated in numpy, and written back as nodes; so an activation that
nobody has named passes through unchanged. A name is what an expression computes, never how it is written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._constants import small_constant
from edgefold.passes._initializers import InitializerStore

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Operand:
    """The output of one of the expert's first products, by its position: 0 is `gate` where there are two."""

    position: int


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A constant that is the same for all tokens and hidden units."""

    value: float


@dataclasses.dataclass(frozen=True)
class Applied:
    """An elementwise operator of ONNX; an argument is None where an optional input is left out."""

    operator: str
    arguments: tuple[Expression | None, ...]
    attributes: tuple[tuple[str, float | int | str], ...] = ()


Expression = Operand | Scalar | Applied

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    return np.clip(alpha * x + beta, 0, 1)


_OPERATORS: dict[str, Callable[..., Array]] = {
    "Add": np.add,
    "Clip": _clip,
    "Div": np.divide,
    "Elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x)),
    "Erf": _erf,
    "Exp": np.exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x: x * _hard_sigmoid(x, 1 / 6),
    "Identity": lambda x: x,
    "LeakyRelu": lambda x, alpha=0.01: np.where(x > 0, x, alpha * x),
    "Max": np.maximum,
    "Min": np.minimum,
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": np.power,
    "QuickGelu": lambda x, alpha=1.702: x * _sigmoid(alpha * x),
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Swish": lambda x, alpha=1.0: x * _sigmoid(alpha * x),
    "Tanh": np.tanh,
}
_DOMAINS = {"QuickGelu": "com.microsoft"}

_X, _UP = Operand(0), Operand(1)
_SILU = Applied("Mul", (_X, Applied("Sigmoid", (_X,))))
_PLAIN: dict[str, Expression] = {
    "relu": Applied("Relu", (_X,)),
    "silu": _SILU,
    "gelu": Applied("Gelu", (_X,)),
    "gelu-tanh": Applied("Gelu", (_X,), (("approximate", "tanh"),)),
    "identity": _X,
}


def named(kind: str, *, gated: bool = False) -> Expression:
    """The expression of a name: ``a(x)`` of one product, or ``a(gate) * up`` of two.

    Args:
        kind: `relu`, `silu`, `gelu`, `gelu-tanh` or `identity`; or `swiglu-clamped`, the form of gpt-oss, which is
            always gated: ``g * sigmoid(1.702 g) * (u + 1)`` with g = min(gate, 7) and u = clip(up, -7, 7).
        gated: whether a second product is multiplied in.
    """
    if kind == "swiglu-clamped":
        return clamped_swiglu(1.702, 7.0)
    return Applied("Mul", (_PLAIN[kind], _UP)) if gated else _PLAIN[kind]


def clamped_swiglu(alpha: float, limit: float, beta: float = 1.0) -> Expression:
    """``g * sigmoid(alpha g) * (u + beta)`` with g = min(gate, limit) and u = clip(up, -limit, limit)."""
    gate = Applied("Clip", (_X, None, Scalar(limit)))
    up = Applied("Clip", (_UP, Scalar(-limit), Scalar(limit)))
    swish = Applied("Mul", (gate, Applied("Sigmoid", (Applied("Mul", (gate, Scalar(alpha))),))))
    return Applied("Mul", (swish, Applied("Add", (up, Scalar(beta)))))


def name_of(expression: Expression) -> str | None:
    """The name of what an expression computes, by its values; None for what has none."""
    values = np.linspace(-9, 9, 91)
    gate, up = np.meshgrid(values, values[::9] + 0.25)
    gated = len(operands(expression)) > 1
    found = evaluate(expression, [gate, up])
    names = [*_PLAIN, "swiglu-clamped"] if gated else list(_PLAIN)
    for name in names:
        if np.allclose(found, evaluate(named(name, gated=gated), [gate, up]), rtol=1e-5, atol=1e-5):
            return name
    return None


def evaluate(expression: Expression, values: Sequence[Array], dtype: npt.DTypeLike = np.float64) -> Array:
    """The value of an expression, of the operands' shape, computed in a float type."""
    if isinstance(expression, Operand):
        return np.asarray(values[expression.position], dtype)
    if isinstance(expression, Scalar):
        return np.array(expression.value, dtype)
    arguments = [None if one is None else evaluate(one, values, dtype) for one in expression.arguments]
    return _OPERATORS[expression.operator](*arguments, **dict(expression.attributes))


def operands(expression: Expression | None) -> set[int]:
    """The positions of the products that an expression reads."""
    if isinstance(expression, Operand):
        return {expression.position}
    if isinstance(expression, Applied):
        return set().union(*(operands(one) for one in expression.arguments))
    return set()


def is_affine(expression: Expression, position: int) -> bool:
    """Whether an expression of two operands is affine in one of them, near zero: that one is `up`, the other `gate`."""
    other = np.linspace(-2, 2, 17)
    low, middle, high = (
        evaluate(expression, [other if one != position else np.full(17, value) for one in range(2)])
        for value in (-1.0, 0.0, 1.0)
    )
    return bool(np.allclose(low + high, 2 * middle, atol=1e-6))


def swapped(expression: Expression | None) -> Any:
    """The same expression with its two operands the other way round."""
    if isinstance(expression, Operand):
        return Operand(1 - expression.position)
    if isinstance(expression, Applied):
        return dataclasses.replace(expression, arguments=tuple(swapped(one) for one in expression.arguments))
    return expression


def read_expression(
    value: ir.Value | None,
    operand: Callable[[ir.Value], Expression | None],
    *,
    through: Collection[str] = (),
) -> Expression | None:
    """The expression that computes a value, or None where a node in it is not elementwise.

    Args:
        value: the last one.
        operand: says what a value stands for, where it is not to be looked into.
        through: operators that are taken to pass their first input on.
    """
    known: dict[ir.Value, Expression | None] = {}

    def read(part: ir.Value) -> Expression | None:
        if part not in known:
            known[part] = operand(part) or _constant(part) or node_of(part)
        return known[part]

    def node_of(part: ir.Value) -> Expression | None:
        node = part.producer()
        if node is not None and node.op_type in through and node.inputs[0] is not None:
            return read(node.inputs[0])
        if node is None or node.op_type not in _OPERATORS or node.domain not in ("", _DOMAINS.get(node.op_type, "")):
            return None
        arguments = tuple(None if one is None else read(one) for one in node.inputs)
        if any(found is None and one is not None for found, one in zip(arguments, node.inputs, strict=True)):
            return None
        attributes = tuple(sorted((name, attribute.value) for name, attribute in node.attributes.items()))
        return Applied(node.op_type, arguments, attributes)

    return None if value is None else read(value)


def _constant(value: ir.Value) -> Scalar | None:
    stored = small_constant(value)
    return Scalar(float(stored.reshape(-1)[0])) if stored is not None and stored.size == 1 else None


def write_expression(
    expression: Expression, values: Sequence[ir.Value], store: InitializerStore, prefix: str, dtype: ir.DataType
) -> tuple[list[ir.Node], ir.Value]:
    """Nodes that compute an expression, each part once, and their result.

    Args:
        expression: not an operand itself.
        values: of the operands.
        store: keeps the scalars.
        prefix: of the nodes' names.
        dtype: of the operands.
    """
    written: dict[Expression, ir.Value] = {}
    nodes: list[ir.Node] = []

    def write(part: Expression) -> ir.Value:
        if isinstance(part, Operand):
            return values[part.position]
        if isinstance(part, Scalar):
            return store.add(f"{prefix}/scalar", np.array(part.value, dtype.numpy()))
        if part not in written:
            inputs = [None if one is None else write(one) for one in part.arguments]
            output = ir.Value(name=f"{prefix}/{part.operator}_{len(nodes)}", type=ir.TensorType(dtype))
            attributes = ir.convenience.convert_attributes(dict(part.attributes))
            domain = _DOMAINS.get(part.operator, "")
            nodes.append(ir.Node(domain, part.operator, inputs, attributes, outputs=[output], name=output.name))
            written[part] = output
        return written[part]

    return nodes, write(expression)
