# SPDX-License-Identifier: Apache-2.0
"""Operators that treat every element by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

_UNARY = (
    ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Cos"),
    ("Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN"),
    ("LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    ("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
_BROADCASTING = (
    ("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Div", "Equal", "Greater"),
    ("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum"),
    ("Where", "Xor"),
)


def unary(site: Site) -> Sequence[Axes]:
    """Y has the labels of X."""
    return [site.axes(0)]


def broadcasting(site: Site) -> Sequence[Axes]:
    """Operands agree where they are not broadcast."""
    if site.integer("broadcast", 0):
        raise OpaqueError("it broadcasts as before opset 7; convert the model to a newer opset")
    return [site.broadcast([axes for axes in site.inputs if axes is not None])]


def dropout(site: Site) -> Sequence[Axes]:
    """Output and mask."""
    return [site.axes(0)] * len(site.node.outputs)


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(itertools.chain(*_UNARY), unary),
    **dict.fromkeys(itertools.chain(*_BROADCASTING), broadcasting),
    "Dropout": dropout,
}
