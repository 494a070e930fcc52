# SPDX-License-Identifier: Apache-2.0
"""New stored tensors for a graph, under names that nothing else has."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import onnx_ir as ir

_COMPARED_BYTES = 4096  # larger arrays are not compared; equal weight matrices are found before they get here


class InitializerStore:
    """Adds initializers to a graph; equal small ones (tables, scales, zeros) are kept once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._names: set[str] = set()
        for one in (graph, *graph.subgraphs()):  # a body may not name its own as what lies around it
            self._names.update(one.initializers, (str(value.name) for value in one.inputs))
        self._names.update(str(value.name) for node in graph.all_nodes() for value in node.outputs)

    def add(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Keeps an array under the name, or under a variation of it if that is taken; or returns an equal one."""
        content = (array.dtype.str, array.shape, array.tobytes() if array.nbytes <= _COMPARED_BYTES else b"")
        if content[2] and content in self._known:
            return self._known[content]
        value = self.add_own(name, array)
        self._known[content] = value
        return value

    def add_cast(self, name: str, array: npt.NDArray[Any], stored: ir.DataType, before: ir.Node) -> ir.Value:
        """Keeps an array as `add_own`, in another float type; a Cast in front of a node gives it back in its own."""
        value = self.add_own(name, array.astype(stored.numpy()))
        if value.dtype == ir.DataType.from_numpy(array.dtype):
            return value
        wide = ir.DataType.from_numpy(array.dtype)
        cast = ir.node("Cast", [value], {"to": ir.AttrInt64("to", wide)}, name=f"{value.name}/cast")
        cast.outputs[0].name, cast.outputs[0].shape = cast.name, value.shape
        cast.outputs[0].type = ir.TensorType(wide)
        assert isinstance(before.graph, ir.Graph)
        before.graph.insert_before(before, cast)
        return cast.outputs[0]

    def add_own(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """Keeps an array that nothing else will share, so that it may be exchanged later."""
        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
        value.shape = ir.Shape(array.shape)
        value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        self._graph.register_initializer(value)
        return value
