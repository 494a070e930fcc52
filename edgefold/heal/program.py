# SPDX-License-Identifier: Apache-2.0
"""A graph as straight-line code over numbered slots: everything that can be known before a call is resolved here.

What depends on neither feeds nor weights is computed once. What is computed from shapes alone stays on the CPU, so
that reading it as numbers does not wait for a device. A slot is emptied after its last reader, so that what autograd
does not keep is freed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from edgefold.heal.operators import OPERATORS, READ_AS_NUMBERS
from edgefold.heal.operators.node import Body, BoundNode, Kernel, UnsupportedNodeError, torch_tensor

_ABSENT, _DEVICE = 0, 1  # the first slots: what an omitted operand reads, and where the call runs
_OF_SHAPES = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class Step:
    """One kernel call.

    Attributes:
        kernel: what to call.
        operands: slots of its operands.
        results: slots of its results; a kernel may leave out the last ones, and return a single one bare.
        last_read: slots that nothing reads afterwards.
        node: name of the node, for errors.
    """

    kernel: Kernel
    operands: tuple[int, ...]
    results: tuple[int, ...]
    node: str
    last_read: tuple[int, ...] = ()


@dataclass(eq=False)
class Program:
    """The code of a graph.

    Attributes:
        slots: value name -> slot, for all values that are computed at each call, fed, or weights.
        constants: value name -> tensor on the CPU, for all values known in advance.
        placed: slot -> constant, and whether it stays on the CPU.
        steps: in order.
        size: number of slots.
    """

    slots: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    placed: dict[int, tuple[Tensor, bool]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    size: int = 2
    _templates: dict[torch.device, list[Any]] = field(default_factory=dict)

    def environment(self, device: torch.device) -> list[Any]:
        """Fresh slots for one call, the constants filled in."""
        if device not in self._templates:
            template: list[Any] = [None] * self.size
            template[_DEVICE] = device
            for slot, (tensor, on_cpu) in self.placed.items():
                template[slot] = tensor if on_cpu else tensor.to(device)
            self._templates[device] = template
        return self._templates[device].copy()

    def run(self, environment: list[Any], kept: Iterable[int] = ()) -> None:
        """Runs all steps; slots in `kept` are not emptied."""
        keep = set(kept)
        for step in self.steps:
            result = step.kernel(*[environment[slot] for slot in step.operands])
            if isinstance(result, tuple):
                for slot, value in zip(step.results, result, strict=False):
                    environment[slot] = value
            else:
                environment[step.results[0]] = result
            for slot in step.last_read:
                if slot not in keep:
                    environment[slot] = None


class Compiler:
    """Compiles one graph.

    Args:
        versions: domain -> opset version.
        given: names whose values come from outside: feeds, and in subgraphs all outer values.
        weights: name -> shape of the values that are trained.
        constants: tensors of outer graphs that are known.
        on_cpu: names of given values that are computed from shapes alone.
        refused: gathers (node name, operator, reason) of nodes that cannot be compiled.
        gradient_bits: see `BoundNode`.
    """

    def __init__(
        self,
        versions: Mapping[str, int],
        given: Sequence[str],
        weights: Mapping[str, Sequence[int]],
        refused: list[tuple[str, str, str]],
        constants: Mapping[str, Tensor] | None = None,
        on_cpu: Iterable[str] = (),
        gradient_bits: int | None = None,
    ) -> None:
        self._gradient_bits = gradient_bits
        self._versions = versions
        self._weights = weights
        self._refused = refused
        self._program = Program(constants=dict(constants or {}))
        self._on_cpu = set(on_cpu)
        self._moved: dict[tuple[str, bool], int] = {}
        for name in dict.fromkeys((*given, *weights)):
            self._new_slot(name)

    def compile(self, graph: ir.Graph) -> Program:
        """The program of a graph."""
        for name, value in graph.initializers.items():
            if name not in self._program.slots and value.const_value is not None:
                self._take_constant(name, value.const_value)
        for node in graph:
            try:
                self._add(node)
            except UnsupportedNodeError as error:
                self._refused.append((node.name or "", _qualified(node), str(error)))
                for value in node.outputs:  # so that its readers are looked at too
                    self._new_slot(str(value.name or ""))
        for output in graph.outputs:
            if output.name in self._program.constants:
                self._constant_slot(str(output.name), False)
        self._mark_last_reads(
            {self._program.slots[str(v.name)] for v in graph.outputs if v.name in self._program.slots}
        )
        return self._program

    def _take_constant(self, name: str, tensor: ir.TensorProtocol) -> None:
        try:
            self._program.constants[name] = torch_tensor(tensor)
        except UnsupportedNodeError as error:
            self._refused.append((name, "initializer", str(error)))

    def _add(self, node: ir.Node) -> None:
        if node.op_type == "Constant" and node.outputs[0].name in self._program.slots:
            return  # a weight
        names = [None if value is None else str(value.name) for value in node.inputs]
        bound, kernel = self._bind(node, names)
        if node.op_type in _OF_SHAPES and names[0] is not None and names[0] in self._weights:
            shape = tuple(self._weights[names[0]])
            self._program.constants[str(node.outputs[0].name)] = kernel(torch.empty(shape, device="meta"))
            return
        known = all(name is None or name in self._program.constants for name in names)
        if known and not bound.bodies:
            self._fold(node, kernel, names)
            return
        shapes_only = self._is_of_shapes(node, names) and not bound.bodies
        operands = [self._operand(node, position, name, shapes_only) for position, name in enumerate(names)]
        if bound.bodies:
            operands += [*(self._program.slots[name] for name in self._around(node)), _DEVICE]
        results = []
        for value in node.outputs:
            name = str(value.name or "")
            results.append(self._new_slot(name))
            if shapes_only or node.op_type in _OF_SHAPES:
                self._on_cpu.add(name)
        self._program.steps.append(Step(kernel, tuple(operands), tuple(results), node.name or ""))

    def _bind(self, node: ir.Node, names: Sequence[str | None]) -> tuple[BoundNode, Kernel]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        binding = OPERATORS.get((domain, node.op_type))
        if binding is None:
            raise UnsupportedNodeError("has no trainable form here")
        constants = {
            position: self._program.constants[name]
            for position, name in enumerate(names)
            if name is not None and name in self._program.constants
        }
        bodies = {
            attribute.name: self._body(attribute.as_graph(), self._around(node))
            for attribute in node.attributes.values()
            if attribute.type == ir.AttributeType.GRAPH
        }
        bound = BoundNode(node, self._versions.get(domain, 1), constants, bodies, self._gradient_bits)
        return bound, binding(bound)

    def _around(self, node: ir.Node) -> list[str]:
        """Values computed outside a node's subgraphs that these read, weights stored inside them among them."""
        read: dict[str, None] = {}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                read.update(dict.fromkeys(_names_in(attribute.as_graph())))
        return [name for name in read if name in self._program.slots]

    def _body(self, graph: ir.Graph, around: Sequence[str]) -> Body:
        inputs = [str(value.name) for value in graph.inputs]
        on_cpu = self._on_cpu.intersection(around)
        weights = {name: self._weights[name] for name in around if name in self._weights}
        known = self._program.constants
        given = [*inputs, *around]
        compiler = Compiler(self._versions, given, weights, self._refused, known, on_cpu, self._gradient_bits)
        program = compiler.compile(graph)
        slots = [program.slots[name] for name in given]
        outputs = [program.slots[str(value.name)] for value in graph.outputs if value.name in program.slots]

        def body(values: Sequence[Any], captured: Sequence[Any], device: torch.device) -> tuple[Any, ...]:
            environment = program.environment(device)
            for slot, value in zip(slots, (*values, *captured), strict=True):
                environment[slot] = value
            program.run(environment, outputs)
            return tuple(environment[slot].to(device) for slot in outputs)

        return body

    def _fold(self, node: ir.Node, kernel: Kernel, names: Sequence[str | None]) -> None:
        with torch.no_grad():
            result = kernel(*[None if name is None else self._program.constants[name] for name in names])
        values = result if isinstance(result, tuple) else (result,)
        for value, tensor in zip(node.outputs, values, strict=False):
            self._program.constants[str(value.name)] = tensor

    def _is_of_shapes(self, node: ir.Node, names: Sequence[str | None]) -> bool:
        given = [name for name in names if name is not None]
        return any(name in self._on_cpu for name in given) and all(
            name in self._on_cpu or name in self._program.constants for name in given
        )

    def _operand(self, node: ir.Node, position: int, name: str | None, shapes_only: bool) -> int:
        if name is None:
            return _ABSENT
        stays = shapes_only or position in READ_AS_NUMBERS.get(node.op_type, ())
        if name in self._program.constants:
            return self._constant_slot(name, stays)
        if name in self._on_cpu and not stays and node.op_type not in _OF_SHAPES:
            return self._moved_slot(name)
        return self._program.slots[name]

    def _constant_slot(self, name: str, on_cpu: bool) -> int:
        if (name, on_cpu) not in self._moved:
            slot = self._moved[name, on_cpu] = self._new_slot(name if not on_cpu else None)
            self._program.placed[slot] = (self._program.constants[name], on_cpu)
        return self._moved[name, on_cpu]

    def _moved_slot(self, name: str) -> int:
        """The copy on the device of a value that is computed on the CPU."""
        if (name, False) not in self._moved:
            source, slot = self._program.slots[name], self._new_slot(None)
            self._moved[name, False] = slot
            self._program.steps.append(Step(_move, (source, _DEVICE), (slot,), name))
        return self._moved[name, False]

    def _new_slot(self, name: str | None) -> int:
        slot = self._program.size
        self._program.size += 1
        if name:
            self._program.slots[name] = slot
        return slot

    def _mark_last_reads(self, kept: set[int]) -> None:
        kept = kept | set(self._program.placed) | {_ABSENT, _DEVICE}
        seen = kept
        steps = []
        for step in reversed(self._program.steps):
            touched = {*step.operands, *step.results}
            last = tuple(touched - seen)
            seen = seen | touched
            steps.append(Step(step.kernel, step.operands, step.results, step.node, last))
        self._program.steps = steps[::-1]


def _names_in(graph: ir.Graph) -> Iterator[str]:
    yield from graph.initializers
    for node in graph.all_nodes():
        yield from (str(value.name) for value in (*node.inputs, *node.outputs) if value is not None)
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                inner = attribute.as_graph()
                yield from (*inner.initializers, *(str(value.name) for value in inner.outputs))
    yield from (str(value.name) for value in graph.outputs)


def _move(x: Tensor, device: torch.device) -> Tensor:
    return x.to(device)


def _qualified(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type
