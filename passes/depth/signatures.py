# SPDX-License-Identifier: Apache-2.0
"""When two pieces of a graph are the same layer with other weights.

The signature of a node is made of its operator, its attributes and the signatures of what it reads, down to the value
that enters the piece; a stored weight counts by shape and type, a small integer constant by its content, and all that
comes from beside the stream alike. Equal signatures are one small integer (they are interned), so that pieces compare
in no time. What exporters write in several ways has one signature: Gemm is MatMul and Add, the operands of Add and Mul
have no order, Identity, Dropout and Reshape are not there, a Transpose of a weight is a weight of the turned shape, and
dimensions of size 1 in stored weights do not count. Neither do the dilations of a convolution, what is padded before
it and what is cut off behind it: temporal networks double them from block to block, and the weights still correspond.

The order in which a signature visits the stored weights is the same for every piece that has it: the k-th weight of
one corresponds to the k-th of the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes.depth.dataflow import Dataflow
from edgefold.passes.depth.extent import extent
from edgefold.passes.depth.operators import TRANSPARENT, has_parameters

_COMMUTATIVE = frozenset(("Add", "Mul", "Sum", "Min", "Max", "And", "Or"))
_SPREAD = ("dilations", "pads")  # how far the taps of a convolution reach
_FIRST_SPATIAL = 2  # axis of what a convolution gives, behind samples and channels
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
            first: the place of the first waist.
            inside: what `Stream.between` gives for the two; it ends with the second waist.
        """
        return self._known(first, self._contents(first, inside))[self._flow.made[inside[-1]][0]]

    def parameters(self, first: int, inside: Sequence[int]) -> list[ir.Value]:
        """The stored weights of such a piece in the order that its signature gives them."""
        members = self._contents(first, inside)
        known = self._known(first, members)
        unvisited = set(members)
        found: list[ir.Value] = []
        pending: list[ir.Node | ir.Value] = [self._flow.node(inside[-1])]
        while pending:
            current = pending.pop()
            if isinstance(current, ir.Value):
                found.extend(stored.value for stored in self._flow.stored_behind(current) if stored.is_parameter)
            elif current in unvisited:
                unvisited.remove(current)
                pending.extend(reversed(self._visits(current, known)))
        return found

    def _contents(self, first: int, inside: Sequence[int]) -> list[ir.Node]:
        """The nodes of a piece that its signature sees, in topological order.

        Beside the stream only what has weights counts (the projections of a cross attention): the arithmetic on sizes
        and masks differs between the blocks of one network.
        """
        flow, way = self._flow, set(inside)
        weighted: set[int] = set()
        nodes = filter(flow.makes_content, extent(flow, first, inside, needs_size=False))
        for place in sorted(flow.place[node.outputs[0]] for node in nodes):
            if place not in way and (has_parameters(flow.node(place), flow) or weighted & set(flow.sources[place])):
                weighted.add(place)
        return [flow.node(place) for place in sorted(way | weighted)]

    def _known(self, first: int, members: Sequence[ir.Node]) -> dict[ir.Value, int]:
        """The signature of every value that the piece makes or begins with."""
        entering = (value for value in self._flow.made[first] if value in self._flow.content)
        known = {value: self._number("in", at) for at, value in enumerate(entering)}
        for node in members:
            self._add(node, known)
        return known

    def _visits(self, node: ir.Node, known: dict[ir.Value, int]) -> list[ir.Node | ir.Value]:
        """The nodes that a node reads, then the constants, in the order of the signature."""
        values = [value for value in node.inputs if value is not None]
        if node.op_type in _COMMUTATIVE:
            values.sort(key=lambda value: self._input(value, known))
        constants = [value for value in values if value in self._flow.constants]
        producers = (value.producer() for value in values if value not in constants)
        return [*(producer for producer in producers if producer is not None), *constants]

    def _add(self, node: ir.Node, known: dict[ir.Value, int]) -> None:
        """Enters the signatures of a node's outputs."""
        reach = _reach(node)
        inputs = [self._input(value, known) for at, value in enumerate(node.inputs) if at not in reach]
        if node.op_type in TRANSPARENT and node.domain in ("", "ai.onnx"):
            number = inputs[0]
        elif node.op_type == "Gemm" and _is_plain(node):
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
        if not next(self._flow.stored_behind(constant.root)).is_parameter:
            array = constant.array()
            content = array.tobytes() if array.size <= _COMPARED else b""
            return self._number("constant", array.dtype.str, array.shape, content)
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


def _is_plain(gemm: ir.Node) -> bool:
    """Whether a Gemm is a product and a sum, without factors."""
    factors = (gemm.attributes.get_float("alpha", 1.0), gemm.attributes.get_float("beta", 1.0))
    return factors == (1.0, 1.0) and not gemm.attributes.get_int("transA", 0)


def _reach(node: ir.Node) -> tuple[int, ...]:
    """Places of the inputs that say how much is padded before a convolution, or cut off behind it in time or space."""
    if node.op_type == "Pad":
        readers = [use.node.op_type for use in node.outputs[0].uses()]
        return (1,) if readers and set(readers) == {"Conv"} else ()
    if node.op_type != "Slice" or len(node.inputs) < 4 or node.inputs[0] is None:
        return ()
    source, axes = node.inputs[0].producer(), trace_constant(node.inputs[3])
    if source is None or source.op_type != "Conv" or axes is None:
        return ()
    weight = source.inputs[1]
    rank = len(weight.shape) if weight is not None and weight.shape is not None else None
    channels = rank is None or any(axis % rank < _FIRST_SPATIAL for axis in axes.array().ravel().tolist())
    return () if channels else (1, 2)  # channels that are cut apart are halves of a gate, which differ


def _attributes(node: ir.Node) -> tuple[tuple[str, str], ...]:
    left_out = _SPREAD if node.op_type == "Conv" or _reach(node) else ()  # a Pad of opset 10 has them as attributes
    return tuple(sorted((name, _text(attr)) for name, attr in node.attributes.items() if name not in left_out))


def _text(attr: ir.Attr) -> str:
    if attr.type == ir.AttributeType.GRAPH:
        return " ".join(node.op_type for node in attr.as_graph().all_nodes())
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return f"{tensor.dtype} {tensor.shape}"
    return str(attr.value)
