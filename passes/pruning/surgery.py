# SPDX-License-Identifier: Apache-2.0
"""A graph while channels are cut from it: the lengths before and after, new constants, new nodes, a list of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes.base import Edit, PreconditionError
from edgefold.passes.pruning.evaluation import element_types
from edgefold.passes.pruning.groups import AxisKey, IntArray, Trace

Array = npt.NDArray[Any]


def operand(node: ir.Node, position: int) -> ir.Value:
    """An input that the operator requires."""
    value = node.inputs[position]
    assert value is not None
    return value


def integer(node: ir.Node, attribute: str, default: int) -> int:
    """An attribute, or its default."""
    return node.attributes[attribute].as_int() if attribute in node.attributes else default


class Surgery:
    """What the rewriting of single nodes shares.

    Args:
        model: changed in place.
        trace: of the model before.
        kept: indices that stay, on every axis that changes.
        inexact: axes that are normalized by statistics over what stays, so that no mean over them is corrected.

    Attributes:
        resized: values of integers computed from sizes that the cut changed, as they are afterwards.
        edits: one entry a change.
    """

    def __init__(
        self, model: ir.Model, trace: Trace, kept: Mapping[AxisKey, IntArray], inexact: frozenset[AxisKey]
    ) -> None:
        self.graph = model.graph
        self.opset = model.graph.opset_imports.get("", 1)
        self.trace = trace
        self.inexact = inexact
        self.resized: dict[str, Array] = {}
        self.edits: list[Edit] = []
        self._original = model.clone()
        self._kept = kept
        self._changed = frozenset(name for name, _ in kept)
        self._store = InitializerStore(model.graph)
        self._names = {str(value.name) for node in model.graph.all_nodes() for value in node.outputs}
        self._names |= {str(value.name) for graph in model.graphs() for value in graph.inputs}
        self._dtypes: dict[str, ir.DataType] | None = None

    def before(self, value: ir.Value) -> tuple[int, ...]:
        """The shape before, at the sizes of the trace."""
        return self.trace.shapes[str(value.name)]

    def after(self, value: ir.Value) -> tuple[int, ...]:
        """The shape afterwards, at the sizes of the trace."""
        return tuple(len(self.kept(value, axis)) for axis in range(len(self.before(value))))

    def changes(self, value: ir.Value, axis: int | None = None) -> bool:
        """Whether an axis loses indices; any axis where none is given."""
        return str(value.name) in self._changed if axis is None else (str(value.name), axis) in self._kept

    def concerns(self, node: ir.Node) -> bool:
        """Whether an input or output loses indices, or a size that it reads was changed."""
        return any(
            value is not None and (self.changes(value) or value.name in self.resized)
            for value in (*node.inputs, *node.outputs)
        )

    def kept(self, value: ir.Value, axis: int) -> IntArray:
        """The indices that stay, ascending."""
        found = self._kept.get((str(value.name), axis))
        return np.arange(self.before(value)[axis]) if found is None else found

    def known(self, value: ir.Value | None) -> Array | None:
        """The value of a small tensor before, if the trace has it."""
        return None if value is None else self.trace.values.get(str(value.name))

    def static(self, node: ir.Node, position: int) -> Array:
        """The value of an input that must not depend on data or dynamic sizes.

        Raises:
            PreconditionError: it does.
        """
        value = operand(node, position)
        if value.is_initializer() and value.const_value is not None:
            return value.const_value.numpy()  # of any size
        array = self.trace.static(str(value.name))
        if array is None:
            raise PreconditionError(
                str(node.name), f"input {position} of {node.op_type} decides on channels at run time"
            )
        return array

    def current(self, value: ir.Value) -> Array | None:
        """The value of a small tensor with the changes to what it was computed from."""
        return self.resized.get(str(value.name), self.known(value))

    def constant(self, name: str, array: Array) -> ir.Value:
        """A new initializer."""
        return self._store.add(name, array)

    def insert(self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A new node of one output in front of another."""
        node = ir.node(op_type, inputs, attributes)
        self.name(node, f"{before.name}_{op_type.lower()}")
        assert before.graph is not None
        before.graph.insert_before(before, node)
        return node.outputs[0]

    def append_to(self, node: ir.Node, op_type: str, operands: Sequence[ir.Value], **attributes: Any) -> None:
        """Put a node behind the first output of another; the result takes over its name and its readers."""
        output = node.outputs[0]
        added = ir.node(op_type, [output, *operands], attributes)
        result = added.outputs[0]
        result.shape, result.type = output.shape, output.type
        self.name(added, f"{node.name}_{op_type.lower()}")
        # First all readers, the new node among them; then the new node gets its input back.
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        added.replace_input_with(0, output)
        result.name, output.name = output.name, result.name
        assert node.graph is not None
        node.graph.insert_after(node, added)

    def dtype(self, value: ir.Value) -> ir.DataType:
        """Element type, inferred where the graph does not say it.

        Raises:
            PreconditionError: it cannot be inferred.
        """
        if value.dtype is not None:
            return value.dtype
        if self._dtypes is None:
            self._dtypes = element_types(self._original)
        if str(value.name) not in self._dtypes:
            raise PreconditionError(str(value.name), "its element type is unknown")
        return self._dtypes[str(value.name)]

    def note(self, node: ir.Node, what: str) -> None:
        """Record a change."""
        self.edits.append(Edit(str(node.name), what))

    def name(self, node: ir.Node, wanted: str) -> None:
        """Gives a new node of one output a name that nothing has yet."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        node.name = node.outputs[0].name = name
