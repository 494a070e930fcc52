# SPDX-License-Identifier: Apache-2.0
"""How activations reach a packed node, and what is refused before anything is packed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import ModelError
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.quantization.shift_nodes import FLOAT_ACTIVATION, MAX_DEPTH, Activation, replace_node


def matmul(k: int) -> tuple[ir.Graph, WeightedNode]:
    """A graph of one MatMul named `layer`, and its place."""
    weight = ir.Value(name="w", const_value=ir.tensor(np.zeros((k, 2), np.float32), name="w"))
    weight.shape, weight.type = ir.Shape((k, 2)), ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(("n", k)), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("MatMul", [x, weight], name="layer")
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 21})
    site = weighted_node(node)
    assert isinstance(site, WeightedNode)
    return graph, site


def replaced(activation: Activation, k: int = 6) -> ir.Node:
    graph, site = matmul(k)
    store = InitializerStore(graph)
    weights = [store.add(name, np.arange(number, dtype=np.uint8)) for number, name in enumerate("abcd", 2)]
    replace_node(store, site, weights, 4, activation)
    (node,) = graph
    return node


def shifts_of(node: ir.Node) -> list[int]:
    value = node.inputs[7]
    assert value is not None
    assert value.const_value is not None
    assert value.const_value.dtype == ir.DataType.UINT8
    return list(value.const_value.numpy())


def test_channel_shifts_become_the_last_operand() -> None:
    node = replaced(Activation(-7, 7, 0.25, (0, 4, 1, 0, 2, 3)))
    assert shifts_of(node) == [0, 4, 1, 0, 2, 3]
    assert node.attributes.get_int("activation_high") == 7


@pytest.mark.parametrize("activation", [FLOAT_ACTIVATION, Activation(-127, 127), Activation(0, 15, 0.1, (0,) * 6)])
def test_no_shift_shares_one_zero(activation: Activation) -> None:
    node = replaced(activation)
    assert shifts_of(node) == [0]
    assert node.inputs[7].name == "edgefold.zero_shift"


@pytest.mark.parametrize("activation", [Activation(-7, 7, 0.1, (4,) * 6), Activation(0, 15, 0.1, (4,) * 6)])
def test_codes_that_fill_their_byte_pass(activation: Activation) -> None:
    assert shifts_of(replaced(activation)) == [4] * 6


@pytest.mark.parametrize(
    ("activation", "reach"),
    [
        (Activation(-7, 7, 0.1, (0, 5, 0, 0, 0, 0)), "reach 224 after their channel shifts; expected at most 127"),
        (Activation(0, 15, 0.1, (0, 0, 5, 0, 0, 0)), "reach 480 after their channel shifts; expected at most 255"),
        (Activation(-31, 31, 0.0, (3,)), "reach 248 after"),
    ],
)
def test_codes_that_leave_their_byte_are_refused_by_name(activation: Activation, reach: str) -> None:
    with pytest.raises(ModelError, match=f"layer: activation codes {reach}"):
        replaced(activation)


def test_sums_that_may_leave_int32_are_refused_by_name() -> None:
    assert 255 * 127 * MAX_DEPTH < 2**31
    replaced(Activation(0, 255, 0.1), k=MAX_DEPTH)
    replaced(FLOAT_ACTIVATION, k=MAX_DEPTH + 1)
    with pytest.raises(ModelError, match=f"layer: sums of {MAX_DEPTH + 1} products may leave int32"):
        replaced(Activation(0, 255, 0.1), k=MAX_DEPTH + 1)
