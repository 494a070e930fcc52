# SPDX-License-Identifier: Apache-2.0
"""What a graph must be before any tool may work on it: named once, acyclic, sorted, finite when inlined.

onnx's checker finds most of this too, but stops at some of it without a name, and by a crash of the process at cyclic
functions in older releases; ONNX Runtime inlines functions without asking how large the result becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from edgefold.errors import ModelError
from edgefold.files.quoting import quoted

MAX_INLINED_NODES = 10_000_000
"""The most nodes a model may have once its local functions are inlined."""

_FunctionKey: TypeAlias = tuple[str, str, str]


def check_wellformed(model: ModelProto) -> None:
    """Refuse a model whose graph, subgraphs or local functions are not well formed.

    Raises:
        ModelError: an empty graph; a name given twice; a value that nothing produces; a cycle; nodes out of order;
            an operator domain that is not imported; functions that call themselves or inline to an absurd size.
    """
    if not model.graph.node:
        raise ModelError("the graph has no nodes; expected a model that computes something")
    if not model.graph.output:
        raise ModelError("the graph has no outputs; expected a model that computes something")
    _check_imports(model.graph.node, _imports(model), "opset_import of the model")
    _check_functions(model.functions)
    _Scope.of_graph(model.graph, "the graph").check_closed()
    for function in model.functions:
        where = f"function {quoted(function.name)}"
        _check_imports(function.node, _imports(function), f"opset_import of {where}")
        _Scope.of_function(function, where).check_closed()


def node_name(node: NodeProto) -> str:
    """How messages name a node: by its name, or by what it gives when it has none."""
    return f"node {quoted(node.name or '->' + ', '.join(node.output))} ({node.op_type})"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes (the branches of If, the bodies of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _all_nodes(graph.node)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _imports(owner: ModelProto | FunctionProto) -> dict[str, int]:
    versions: dict[str, int] = {}
    for entry in owner.opset_import:
        domain = _domain(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"imports domain {quoted(domain)} in versions {versions[domain]} and {entry.version}")
    return versions


def _check_imports(nodes: Iterable[NodeProto], imports: Mapping[str, int], place: str) -> None:
    for node in _all_nodes(nodes):
        if _domain(node.domain) not in imports:
            raise ModelError(
                f"{node_name(node)}: unknown operator domain {quoted(node.domain)}; it is missing from the {place}"
            )


def _check_functions(functions: Iterable[FunctionProto]) -> None:
    """Refuse functions defined twice, calling themselves, or inlining to more than ``MAX_INLINED_NODES``."""
    bodies: dict[_FunctionKey, FunctionProto] = {}
    for function in functions:
        key = (_domain(function.domain), function.name, function.overload)
        if key in bodies:
            raise ModelError(f"function {quoted(function.name)} of domain {quoted(function.domain)} is defined twice")
        bodies[key] = function
    calls = {
        key: [call for node in _all_nodes(function.node) if (call := _called(node)) in bodies]
        for key, function in bodies.items()
    }
    sizes: dict[_FunctionKey, int] = {}
    for key in _callees_first(calls):
        sizes[key] = sum(1 for _ in _all_nodes(bodies[key].node)) + sum(sizes[callee] for callee in calls[key])
        if sizes[key] > MAX_INLINED_NODES:
            raise ModelError(
                f"function {quoted(key[1])} inlines to {sizes[key]} nodes; at most {MAX_INLINED_NODES} are accepted"
            )


def _called(node: NodeProto) -> _FunctionKey:
    return _domain(node.domain), node.op_type, node.overload


def _callees_first(calls: Mapping[_FunctionKey, list[_FunctionKey]]) -> Iterator[_FunctionKey]:
    done: set[_FunctionKey] = set()
    for root in calls:
        path: list[tuple[_FunctionKey, Iterator[_FunctionKey]]] = (
            [(root, iter(calls[root]))] if root not in done else []
        )
        while path:
            key, pending = path[-1]
            callee = next((callee for callee in pending if callee not in done), None)
            if callee is None:
                path.pop()
                done.add(key)
                yield key
            elif any(callee == open_key for open_key, _ in path):
                raise ModelError(f"function {quoted(callee[1])} calls itself, directly or through others")
            else:
                path.append((callee, iter(calls[callee])))


@dataclass
class _Scope:
    """A graph or function body: the names given in it, and the names it reads from outside with a reader of each."""

    where: str
    given: set[str]
    free: dict[str, str]

    @staticmethod
    def of_graph(graph: GraphProto, where: str) -> _Scope:
        inputs = [value.name for value in graph.input]
        weights = [tensor.name for tensor in graph.initializer]
        weights += [tensor.values.name for tensor in graph.sparse_initializer]
        _check_distinct(inputs, f"{where}: two inputs are named")
        _check_distinct(weights, f"{where}: two initializers are named")
        outputs = [value.name for value in graph.output]
        return _Scope._of_nodes(graph.node, {*inputs, *weights}, outputs, where)

    @staticmethod
    def of_function(function: FunctionProto, where: str) -> _Scope:
        _check_distinct(function.input, f"{where}: two inputs are named")
        return _Scope._of_nodes(function.node, set(function.input), function.output, where)

    @staticmethod
    def _of_nodes(nodes: Iterable[NodeProto], given: set[str], outputs: Iterable[str], where: str) -> _Scope:
        nodes = list(nodes)
        producer: dict[str, int] = {}
        for index, node in enumerate(nodes):
            for name in filter(None, node.output):
                if name in producer or name in given:
                    raise ModelError(f"{where}: {node_name(node)} gives {quoted(name)} again; names must be unique")
                producer[name] = index
        reads = [_reads(node) for node in nodes]
        _check_order(nodes, reads, producer, where)
        scope = _Scope(where, given | producer.keys(), {})
        for node, names in zip(nodes, reads, strict=True):
            scope.free.update((name, node_name(node)) for name in names if name not in scope.given)
        scope.free.update((name, f"the output {quoted(name)}") for name in outputs if name not in scope.given)
        return scope

    def check_closed(self) -> None:
        for name, reader in self.free.items():
            raise ModelError(f"{self.where}: {reader} needs {quoted(name)}, which nothing produces")


def _reads(node: NodeProto) -> set[str]:
    names = set(filter(None, node.input))
    for graph in subgraphs(node):
        names.update(_Scope.of_graph(graph, f"subgraph of {node_name(node)}").free)
    return names


def _check_distinct(names: Iterable[str], complaint: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ModelError(f"{complaint} {quoted(name)}; names must be unique")
        seen.add(name)


def _check_order(nodes: list[NodeProto], reads: list[set[str]], producer: Mapping[str, int], where: str) -> None:
    before = [[producer[name] for name in names if name in producer] for names in reads]
    early = next((index for index, sources in enumerate(before) if any(source >= index for source in sources)), None)
    if early is None:
        return
    on_cycle = _find_cycle(before)
    if on_cycle is not None:
        raise ModelError(f"{where} is cyclic: {node_name(nodes[on_cycle])} needs its own result")
    raise ModelError(
        f"{where} is not sorted: {node_name(nodes[early])} stands before a node it reads from; sort it with "
        "onnx_ir.passes.common.TopologicalSortPass"
    )


def _find_cycle(before: list[list[int]]) -> int | None:
    """The first index on a cycle of "comes after", or None: nodes that wait for nothing are taken away, in rounds."""
    waiting = [len(sources) for sources in before]
    after: list[list[int]] = [[] for _ in before]
    for index, sources in enumerate(before):
        for source in sources:
            after[source].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    while ready:
        for index in after[ready.pop()]:
            waiting[index] -= 1
            if waiting[index] == 0:
                ready.append(index)
    stuck = next((index for index, count in enumerate(waiting) if count), None)
    seen: set[int] = set()
    while stuck is not None and stuck not in seen:  # what is stuck waits for something stuck; a walk back must loop
        seen.add(stuck)
        stuck = next(source for source in before[stuck] if waiting[source])
    return stuck
