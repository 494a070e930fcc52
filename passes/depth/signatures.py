# SPDX-License-Identifier: Apache-2.0
"""When two pieces of a graph are the same layer with other weights.

The signature of a node is made of its operator, its attributes and the signatures of what it reads, down to the value
that enters the piece; a stored weight counts by shape and type, a small integer constant by its content, and all that
comes from beside the stream alike. Equal signatures are one small integer (they are interned), so that pieces compare
in no time. What exporters write in several ways has one signature: Gemm is MatMul and Add, the operands of Add and Mul
have no order, Identity, Dropout and Reshape are not there, a Transpose of a weight is a weight of the turned shape, and
dimensions of size 1 in stored weights do not count.

The order in which a signature visits the stored weights is the same for every piece that has it: the k-th weight of
one corresponds to the k-th of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.operators import TRANSPARENT, is_parameter

_COMMUTATIVE = frozenset(("Add", "Mul", "Sum", "Min", "Max", "And", "Or"))
_COMPARED = 64  # elements up to which integer constants count by content: axes, shapes, paddings, shifts


class Signatures:
    """Interned signatures of the pieces of one graph."""

    def __init__(self, flow: Dataflow) -> None:
        self._flow = flow
        self._numbers: dict[Hashable, int] = {}
        self._constants: dict[ir.Value, int] = {}

    def of(self, first: int, inside: Sequence[int]) -> int:
        """The signature of what leads from a waist to another.

        Args:
            first: number of the first waist.
            inside: what `Stream.between` gives for the two; it ends with the second waist.
        """
        return self._known(first, inside)[self._flow.nodes[inside[-1]].outputs[0]]

    def parameters(self, first: int, inside: Sequence[int]) -> list[ir.Value]:
        """The stored weights of such a piece in the order that its signature gives them."""
        nodes, known = self._flow.nodes, self._known(first, inside)
        members = {nodes[place] for place in inside}
        visited: set[ir.Node] = set()
        found: list[ir.Value] = []
        pending: list[ir.Node | ir.Value] = [nodes[inside[-1]]]
        while pending:
            current = pending.pop()
            if isinstance(current, ir.Value):
                found.extend(stored for stored in self._flow.stored_behind(current) if is_parameter(stored))
            elif current not in visited:
                visited.add(current)
                pending.extend(reversed(self._visits(current, members, known)))
        return found

    def _known(self, first: int, inside: Sequence[int]) -> dict[ir.Value, int]:
        """The signature of every value that the piece makes or begins with."""
        nodes = self._flow.nodes
        known = {value: self._number("in", place) for place, value in enumerate(nodes[first].outputs)}
        for place in inside:
            self._add(nodes[place], known)
        return known

    def _visits(self, node: ir.Node, members: set[ir.Node], known: dict[ir.Value, int]) -> list[ir.Node | ir.Value]:
        """What a node reads inside the piece, then the constants that it reads, in the order of the signature."""
        values = [value for value in node.inputs if value is not None]
        if node.op_type in _COMMUTATIVE:
            values.sort(key=lambda value: self._input(value, known))
        made = [producer for value in values if (producer := value.producer()) in members and producer is not None]
        return [*made, *(value for value in values if value in self._flow.constants)]

    def _add(self, node: ir.Node, known: dict[ir.Value, int]) -> None:
        """Enters the signatures of a node's outputs."""
        inputs = [self._input(value, known) for value in node.inputs]
        if node.op_type in TRANSPARENT and node.domain in ("", "ai.onnx"):
            number = inputs[0]
        elif node.op_type == "Gemm":
            number = self._gemm(node, inputs)
        else:
            ordered = sorted(inputs) if node.op_type in _COMMUTATIVE else inputs
            number = self._number(node.domain, node.op_type, _attributes(node), *ordered)
        for place, value in enumerate(node.outputs):
            known[value] = number if place == 0 else self._number("output", place, number)

    def _gemm(self, node: ir.Node, inputs: Sequence[int]) -> int:
        """As if it were written with MatMul and Add."""
        weight = inputs[1]
        if node.attributes.get_int("transB", 0) and node.inputs[1] in self._flow.constants:
            weight = self._stored(node.inputs[1], turned=True)
        product = self._number("", "MatMul", (), inputs[0], weight)
        if len(inputs) < 3 or node.inputs[2] is None:
            return product
        return self._number("", "Add", (), *sorted((product, inputs[2])))

    def _input(self, value: ir.Value | None, known: dict[ir.Value, int]) -> int:
        if value is None:
            return self._number("absent")
        if value in known:
            return known[value]
        if value not in self._flow.constants:
            return self._number("beside")
        if value not in self._constants:
            self._constants[value] = self._stored(value)
        return self._constants[value]

    def _stored(self, value: ir.Value | None, turned: bool = False) -> int:
        constant = trace_constant(value)
        if constant is None or value is None:
            return self._computed(value)
        if not is_parameter(constant.root):
            array = constant.array()
            return self._number(
                "constant", array.dtype.str, array.shape, array.tobytes() if array.size <= _COMPARED else b""
            )
        shape = tuple(size for size in constant.shape if size != 1)
        return self._number("stored", shape[::-1] if turned else shape, int(constant.dtype))

    def _computed(self, value: ir.Value | None) -> int:
        """A constant that is calculated when the model is loaded."""
        assert value is not None
        producer = value.producer()
        assert producer is not None
        inputs = [self._input(one, {}) for one in producer.inputs]
        return self._number("computed", producer.op_type, _attributes(producer), *inputs)

    def _number(self, *key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _attributes(node: ir.Node) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, _text(attr)) for name, attr in node.attributes.items()))


def _text(attr: ir.Attr) -> str:
    if attr.type == ir.AttributeType.GRAPH:
        return " ".join(node.op_type for node in attr.as_graph().all_nodes())
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return f"{tensor.dtype} {tensor.shape}"
    return str(attr.value)
