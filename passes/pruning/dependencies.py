# SPDX-License-Identifier: Apache-2.0
"""The dependency analysis: one walk over the graph by the operator rules, one solution, and the groups it leaves.

After Structurally Prune Anything (2403.18955, section 3), with labels in place of propagated masks: coupling, concat
offsets, tied weights and the products that a reshape makes fall out of one union-find.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._subgraphs import body_reads, reads
from edgefold.passes.pruning.classes import NEVER, Classes
from edgefold.passes.pruning.grouping import group_units, kept_by
from edgefold.passes.pruning.groups import AxisKey, Barrier, Contraction, Dependencies, Role, Trace, runs_of
from edgefold.passes.pruning.labels import SINGLE, Labels
from edgefold.passes.pruning.rules import RULES, Axes, Findings, OpaqueError, Site
from edgefold.passes.pruning.rules.quantization import INTEGER_OPERATORS, QUANTIZED

_ADVICE = {
    "com.microsoft": "fused by ONNX Runtime; prune the model as it was before its optimizer",
    "ai.edgefold": "compressed already; prune before quantizing",
}
_INTERFACE = "its size is part of the model's interface"


def analyse(model: ir.Model, trace: Trace, ties: Sequence[tuple[str, ...]] = ()) -> Dependencies:
    """Finds what can be removed from a model together with everything that depends on it.

    Args:
        model: prepared: unique names, constants as initializers, one for each use.
        trace: shapes of all values and values of the small ones, from a run.
        ties: names of initializers that are one tensor and must stay so.
    """
    walk = _Walk(model.graph, trace, model.opset_imports.get("", 1))
    walk.run(ties)
    classes = walk.labels.solve()
    grouping = group_units(walk.readers, walk.values, classes, walk.findings)
    return Dependencies(
        groups=grouping.groups,
        barriers=_barriers(walk.values, classes, walk.findings),
        contractions=tuple(Contraction(*one) for one in walk.findings.contractions),
        kept=kept_by(grouping, walk.values, classes),
    )


def _advice(node: ir.Node) -> str:
    if node.op_type in INTEGER_OPERATORS:
        return QUANTIZED
    return _ADVICE.get(node.domain, "there is no rule for this operator")


class _Walk:
    """The labels of every value, from one pass over the nodes, of bodies too."""

    def __init__(self, graph: ir.Graph, trace: Trace, opset: int) -> None:
        self.graph = graph
        self.trace = trace
        self.opset = opset
        self.labels = Labels()
        self.findings = Findings()
        self.values: dict[str, Axes] = {}
        self.readers: dict[str, str] = {}  # float parameters in the order of their first use, and the node
        self.runs: tuple[AxisKey, ...] = ()

    def run(self, ties: Sequence[tuple[str, ...]]) -> None:
        for value in self.graph.inputs:
            if (shape := self.trace.shapes.get(value.name or "")) is not None and not value.is_initializer():
                reason = self._reason(str(value.name), "graph input", _INTERFACE)
                self.values[str(value.name)] = self._frozen(shape, reason)
        for node in self.graph:
            self._visit(node)
        for tie in ties:
            for one, other in itertools.pairwise(self.values[name] for name in tie if name in self.values):
                for axis, tied in zip(one, other, strict=True):
                    self.labels.union(axis, tied)
        for value in self.graph.outputs:
            reason = self._reason(str(value.name), "graph output", _INTERFACE)
            for labels in self.values.get(str(value.name), ()):
                self.labels.freeze(labels, reason)

    def body(
        self, node: ir.Node, attribute: str, inputs: Sequence[Axes | None], unseen: int
    ) -> Sequence[Axes | None] | None:
        """Visits the nodes of a body; where it never ran, freezes what they read."""
        graph, runs = node.attributes[attribute].as_graph(), runs_of(str(node.name), attribute)
        if runs not in self.trace.shapes:
            self._freeze((self._axes(value, node) for value in body_reads(graph)), unseen)
            return None
        for value, axes in zip(graph.inputs, inputs, strict=True):
            if axes is not None:
                self.values[str(value.name)] = axes
        outside, self.runs = self.runs, ((runs, 0),)
        for inner in graph:
            self._visit(inner)
        self.runs = outside
        return [self._axes(value, node) for value in graph.outputs]

    def _visit(self, node: ir.Node) -> None:
        inputs = [self._axes(value, node) for value in node.inputs]
        try:
            outputs = self._outputs(node, inputs)
        except OpaqueError as error:
            self._freeze_around(node, inputs, str(error))
            return
        except (IndexError, ValueError) as error:
            self._freeze_around(node, inputs, f"its inputs are not shaped as its rule expects: {error}")
            return
        for value, axes in zip(node.outputs, outputs, strict=False):
            if axes is not None and value.name:
                self.values[value.name] = axes

    def _outputs(self, node: ir.Node, inputs: Sequence[Axes | None]) -> Sequence[Axes | None]:
        """What the operator's rule says.

        Raises:
            OpaqueError: there is no rule, or it does not cover this use of the operator.
        """
        rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise OpaqueError(_advice(node))
        if any(
            axes is None and value is not None and value.name for value, axes in zip(node.inputs, inputs, strict=True)
        ):
            raise OpaqueError("one of its inputs is not a tensor, or was not seen in the run")
        outputs = rule(Site(node, inputs, self))
        for value, axes in zip(node.outputs, outputs, strict=False):
            shape = self.trace.shapes.get(value.name or "")
            if axes is not None and shape is not None and tuple(map(len, axes)) != shape:
                raise OpaqueError(f"{value.name} has shape {list(shape)}, its rule expects {list(map(len, axes))}")
        return outputs

    def _axes(self, value: ir.Value | None, node: ir.Node) -> Axes | None:
        if value is None or not value.name:
            return None
        if value.name not in self.values and value.is_initializer():
            self.values[value.name] = self._parameter(value)
            if value.const_value is not None and value.const_value.dtype.is_floating_point():
                self.readers[value.name] = str(node.name)
        return self.values.get(value.name)

    def _parameter(self, value: ir.Value) -> Axes:
        assert value.const_value is not None
        shape = tuple(int(length) for length in value.const_value.shape)  # type: ignore[arg-type]
        return tuple(self.labels.fresh(length) if length > 1 else np.full(length, SINGLE) for length in shape)

    def _freeze_around(self, node: ir.Node, inputs: Sequence[Axes | None], why: str) -> None:
        """What is not understood keeps everything it touches as it is, seen from its subgraphs too."""
        reason = self._reason(str(node.name), node.op_type, why)
        self._freeze((*inputs, *(self._axes(value, node) for value in reads(node))), reason)
        for value in node.outputs:
            if (shape := self.trace.shapes.get(value.name or "")) is not None:
                self.values[str(value.name)] = self._frozen(shape, reason)

    def _freeze(self, values: Iterable[Axes | None], reason: int) -> None:
        for axes in values:
            for labels in axes or ():
                self.labels.freeze(labels, reason)

    def _frozen(self, shape: Sequence[int], reason: int) -> Axes:
        return tuple(self.labels.frozen(length, reason) for length in shape)

    def _reason(self, node: str, op_type: str, why: str) -> int:
        self.findings.reasons.append((node, op_type, why))
        return len(self.findings.reasons) - 1


def _barriers(values: Mapping[str, Axes], classes: Classes, findings: Findings) -> tuple[Barrier, ...]:
    """Who froze how many of the channels that parameters write."""
    written = [values[name][axis] for (name, axis), role in findings.roles.items() if role == Role.WRITER]
    reasons = classes.reasons(np.concatenate([np.empty(0, np.intp), *(axis for axis in written if len(axis) > 1)]))
    numbers, channels = np.unique(reasons[reasons != NEVER], return_counts=True)
    frozen = sorted(zip(numbers.tolist(), channels.tolist(), strict=True), key=lambda one: -one[1])
    return tuple(Barrier(*findings.reasons[int(number)], channels=int(count)) for number, count in frozen)
