# SPDX-License-Identifier: Apache-2.0
"""Activation functions are recognized in every form that exporters write, and near misses are not."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from graphs import graph

from edgefold.passes.fusion.activations import Activation, ActivationKind, find_activation

SIXTH = 1 / 6
CONSTANTS = {
    name: np.array(number, np.float32)
    for name, number in {
        "zero": 0,
        "half": 0.5,
        "one": 1,
        "three": 3,
        "six": 6,
        "sixth": SIXTH,
        "root2": math.sqrt(2),
        "quick": 1.702,
        "cubed": 0.044715,
        "tanh_scale": math.sqrt(2 / math.pi),
        "far": 20,
    }.items()
}
FORMS = {
    "y = Relu(v)": Activation(ActivationKind.CLIP, 0.0, math.inf),
    "y = Clip(v, zero, six)": Activation(ActivationKind.CLIP, 0.0, 6.0),
    "a = Relu(v) y = Min(a, six)": Activation(ActivationKind.CLIP, 0.0, 6.0),
    "a = Max(v, zero, zero) y = Min(six, a, far)": Activation(ActivationKind.CLIP, 0.0, 6.0),
    "a = Min(v) b = Max(a) y = Relu(b)": Activation(ActivationKind.CLIP, 0.0, math.inf),
    "y = LeakyRelu <alpha = 0.1> (v)": Activation(ActivationKind.LEAKY_RELU, 0.1, 0.0),
    "y = PRelu(v, sixth)": Activation(ActivationKind.LEAKY_RELU, SIXTH, 0.0),
    "a = Mul(v, half) y = Max(a, v)": Activation(ActivationKind.LEAKY_RELU, 0.5, 0.0),
    "a = Neg(v) y = Max(a, v)": Activation(ActivationKind.LEAKY_RELU, -1.0, 0.0),
    "y = Sigmoid(v)": Activation(ActivationKind.SIGMOID, 0.0, 0.0),
    "y = Tanh(v)": Activation(ActivationKind.TANH, 0.0, 0.0),
    "y = HardSigmoid <alpha = 0.2, beta = 0.5> (v)": Activation(ActivationKind.HARD_SIGMOID, 0.2, 0.5),
    "a = Sigmoid(v) y = Mul(v, a)": Activation(ActivationKind.SWISH, 1.0, 0.0),
    "a = Mul(v, quick) b = Sigmoid(a) y = Mul(b, v)": Activation(ActivationKind.SWISH, 1.702, 0.0),
    "y = HardSwish(v)": Activation(ActivationKind.HARD_SWISH, SIXTH, 0.5),
    "a = Add(v, three) b = Clip(a, zero, six) c = Div(b, six) y = Mul(v, c)": Activation(
        ActivationKind.HARD_SWISH, SIXTH, 0.5
    ),
    "a = Add(three, v) b = Clip(a, zero, six) c = Mul(v, b) y = Mul(c, sixth)": Activation(
        ActivationKind.HARD_SWISH, SIXTH, 0.5
    ),
    "a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (v) y = Mul(v, a)": Activation(
        ActivationKind.HARD_SWISH, SIXTH, 0.5
    ),
    "y = Gelu(v)": Activation(ActivationKind.GELU, 0.0, 0.0),
    "a = Div(v, root2) b = Erf(a) c = Add(b, one) d = Mul(v, c) y = Mul(d, half)": Activation(
        ActivationKind.GELU, 0.0, 0.0
    ),
    "a = Pow(v, three) b = Mul(a, cubed) c = Add(v, b) d = Mul(c, tanh_scale) e = Tanh(d) f = Add(e, one)"
    " g = Mul(v, half) y = Mul(g, f)": Activation(ActivationKind.GELU_TANH, 0.0, 0.0),
}
NEAR_MISSES = {
    "y = Elu(v)": "another function",
    "y = LeakyRelu <alpha = 1.5> (v)": "a slope that no bound of a sum holds",
    "y = PRelu(v, other)": "slopes from another tensor",
    "a = Neg(v) y = Neg(a)": "nothing, in two steps",
    "y = Mul(v, half)": "a scale",
    "y = Identity(v)": "nothing",
    "y = Add(v, other)": "not a function of one variable",
    "y = Max(v, zero, other)": "a bound from another tensor",
    "a = Sigmoid(other) y = Mul(v, a)": "a gate from another tensor",
    "a = Add(v, three) b = Clip(a, zero, six) y = Mul(v, b)": "six times HardSwish",
    "a = Clip(v, zero, far) b = Sigmoid(v) y = Mul(a, b)": "almost SiLU",
}


def value_behind(text: str):  # type: ignore[no-untyped-def]  # the graph's v, whose readers are the nodes of `text`
    body = f"g (float[n] x, float[n] other) => (float[n] y) {{ v = Abs(x) {text} }}"
    model = graph(body, {name: array for name, array in CONSTANTS.items() if re.search(rf"\b{name}\b", text)})
    return next(node for node in model.graph if node.op_type == "Abs").outputs[0], model


@pytest.mark.parametrize("text", FORMS)
def test_form_is_recognized_and_ends_where_it_ends(text: str) -> None:
    value, model = value_behind(text)
    found = find_activation(value)
    assert found is not None
    assert found.activation.kind == FORMS[text].kind
    assert (found.activation.alpha, found.activation.beta) == pytest.approx((FORMS[text].alpha, FORMS[text].beta))
    assert found.output is model.graph.outputs[0]
    assert len(found.nodes) == len(model.graph) - 1


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_miss_is_left_alone(text: str) -> None:
    assert find_activation(value_behind(text)[0]) is None


def test_value_that_something_else_reads_too_is_left_alone() -> None:
    value, _ = value_behind("y = Relu(v) z = Exp(v)")
    assert find_activation(value) is None


def test_stops_before_a_node_that_is_not_part_of_it() -> None:
    value, _ = value_behind("a = Relu(v) y = MatMul(a, other)")
    found = find_activation(value)
    assert found is not None
    assert [node.op_type for node in found.nodes] == ["Relu"]
