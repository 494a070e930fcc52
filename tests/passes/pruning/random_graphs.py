# SPDX-License-Identifier: Apache-2.0
"""A graph that grows piece by piece as hypothesis draws; the pieces are in `random_pieces`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

SIDE = 4
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A value of shape [N, channels, 4, 4]."""

    name: str
    channels: int


class Builder:
    """A graph that grows by pieces; every piece takes pictures and gives pictures."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 3)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.pictures = [Picture("x", 3)]

    def model(self) -> ir.Model:
        last = self.pictures[-1]
        y = self.add("Conv", [last.name, self.weight(2, last.channels, 1, 1)])
        shape: list[int | str] = ["N", 3, SIDE, SIDE]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 2, SIDE, SIDE])],
            self.constants,
        )
        return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))

    # What pieces are made with.

    def add(self, op_type: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}" + ("" if place == 0 else f"_{place}") for place in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def weight(self, *shape: int) -> str:
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        return self.constant((self.random.standard_normal(shape) * scale).astype(np.float32))

    def vector(self, *shape: int) -> str:
        """Positive factors."""
        return self.constant(self.random.uniform(0.5, 1.5, shape).astype(np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def pick(self) -> Picture:
        """An earlier value; the latest is the simplest choice."""
        return self.pictures[-1 - self.draw(st.integers(0, min(3, len(self.pictures) - 1)))]

    def width(self) -> int:
        return int(self.draw(st.sampled_from([4, 6, 8, 12])))

    def give(self, name: str, channels: int) -> None:
        self.pictures.append(Picture(name, channels))

    def flat(self, x: Picture) -> str:
        """Tokens [N, 16, channels]."""
        rows = self.add("Reshape", [x.name, self.integers(0, x.channels, SIDE * SIDE)])
        return self.add("Transpose", [rows], perm=[0, 2, 1])

    def square(self, tokens: str, channels: int) -> None:
        turned = self.add("Transpose", [tokens], perm=[0, 2, 1])
        self.give(self.add("Reshape", [turned, self.integers(-1, channels, SIDE, SIDE)]), channels)
