# SPDX-License-Identifier: Apache-2.0
"""Pieces of random graphs that have bodies."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper
from random_graphs import SIDE, Builder


def looped(b: Builder) -> None:
    """Two or three steps of a recurrent convolution; the states of all steps side by side."""
    x, steps = b.pick(), b.draw(st.sampled_from([2, 3]))
    kernel, here = b.weight(x.channels, x.channels, 1, 1), f"b{len(b.nodes)}"
    state = helper.make_tensor_value_info(f"{here}_s", TensorProto.FLOAT, ["N", x.channels, SIDE, SIDE])
    number = helper.make_tensor_value_info(f"{here}_i", TensorProto.INT64, [])
    go = helper.make_tensor_value_info(f"{here}_c", TensorProto.BOOL, [])
    nodes = [
        helper.make_node("Identity", [go.name], [f"{here}_go"]),
        helper.make_node("Conv", [state.name, kernel], [f"{here}_a"]),
        helper.make_node("Add", [f"{here}_a", x.name], [f"{here}_b"]),
        helper.make_node("Tanh", [f"{here}_b"], [f"{here}_t"]),
        helper.make_node("Relu", [f"{here}_t"], [f"{here}_r"]),
    ]
    given = [renamed(go, f"{here}_go"), renamed(state, f"{here}_t"), renamed(state, f"{here}_r")]
    body = helper.make_graph(nodes, here, [number, go, state], given)
    scalars = [b.constant(np.array(steps)), b.constant(np.array(True))]
    last = b.add("Loop", [*scalars, x.name], 2, body=body)
    b.give(b.add("Add", [last, b.add("ReduceSum", [f"{last}_1", b.integers(0)], keepdims=0)]), x.channels)


def branched(b: Builder) -> None:
    """A convolution or the value itself, as its sum decides."""
    x = b.pick()
    kernel, here = b.weight(x.channels, x.channels, 1, 1), f"b{len(b.nodes)}"
    given = helper.make_tensor_value_info(f"{here}_p", TensorProto.FLOAT, ["N", x.channels, SIDE, SIDE])
    nodes = [helper.make_node("Conv", [x.name, kernel], [given.name])]
    then = helper.make_graph(nodes, f"{here}_then", [], [given])
    plain = renamed(given, f"{here}_q")
    otherwise = helper.make_graph([helper.make_node("Relu", [x.name], [plain.name])], f"{here}_else", [], [plain])
    positive = b.add("Greater", [b.add("ReduceSum", [x.name], keepdims=0), b.constant(np.float32(0))])
    b.give(b.add("If", [positive], then_branch=then, else_branch=otherwise), x.channels)


def renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    other = onnx.ValueInfoProto()
    other.CopyFrom(value)
    other.name = name
    return other
