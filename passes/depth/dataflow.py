# SPDX-License-Identifier: Apache-2.0
"""What the nodes of a graph hand to each other: contents of inputs, constants, or only sizes.

Exporters surround a network with arithmetic on shapes, masks and tables. None of it is the signal that the layers
refine, and all of it connects far places of the graph. So every value is of one of three kinds:

* *constant*: computable before the model runs;
* *content*: depends on what a graph input holds;
* *size*: depends only on how large the inputs are; nothing flows through Shape or ConstantOfShape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from edgefold.passes._subgraphs import reads

_SIZE_ONLY = frozenset(("Shape", "Size", "NonZero", "ConstantOfShape"))
_FUSED_EMBEDDINGS = frozenset(("EmbedLayerNormalization", "QEmbedLayerNormalization"))
_MASK_INDEX = 1  # the output of a fused embedding that reaches every attention, and is no content


class Dataflow:
    """The nodes of a main graph in an order in which they can run, and the kind of every value.

    Reads made inside the bodies of If, Loop and Scan count as reads of the node that has the body.

    Attributes:
        nodes: in topological order; ONNX Runtime's own optimizer writes files that are not.
        number: a node's place in that order.
        constants: values that do not depend on the graph's inputs.
        content: values that depend on what the inputs hold.
        readers: the nodes that read a value, each once.
        content_sources: for each node that makes content, the numbers of the nodes whose content it reads.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.nodes = _sorted(graph)
        self.number = {node: place for place, node in enumerate(self.nodes)}
        self.constants: set[ir.Value] = set(graph.initializers.values())
        self.content: set[ir.Value] = {value for value in graph.inputs if not value.is_initializer()}
        self.readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        for node in self.nodes:
            self._add(node)
        self.content_sources = [self._content_sources(node) for node in self.nodes]

    def _add(self, node: ir.Node) -> None:
        needed = list(self.outer_reads(node))
        for value in needed:
            self.readers[value].append(node)
        if _is_constant(node) and all(value in self.constants for value in needed):
            self.constants.update(node.outputs)
        elif node.op_type not in _SIZE_ONLY and any(value in self.content for value in needed):
            fused = node.op_type in _FUSED_EMBEDDINGS
            self.content.update(v for place, v in enumerate(node.outputs) if not (fused and place == _MASK_INDEX))

    def outer_reads(self, node: ir.Node) -> Iterator[ir.Value]:
        """The values of the main graph that a node needs, each once."""
        return iter(dict.fromkeys(v for v in reads(node) if v in node.inputs or v.graph is node.graph))

    def makes_content(self, node: ir.Node) -> bool:
        """Whether what the node gives depends on what the graph's inputs hold."""
        return any(value in self.content for value in node.outputs)

    def _content_sources(self, node: ir.Node) -> list[int]:
        if not self.makes_content(node):
            return []
        producers = (value.producer() for value in self.outer_reads(node) if value in self.content)
        return [self.number[producer] for producer in producers if producer is not None]

    def stored_behind(self, value: ir.Value) -> Iterator[ir.Value]:
        """The initializers, and outputs of Constant nodes, that a constant is computed from; in order of use."""
        pending, seen = [value], set()
        while pending:
            current = pending.pop()
            if current in seen:
                continue
            seen.add(current)
            producer = current.producer()
            if producer is None or producer.op_type == "Constant":
                yield current
            else:
                pending.extend(reversed(list(self.outer_reads(producer))))


def _is_constant(node: ir.Node) -> bool:
    return not node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))


def _sorted(graph: ir.Graph) -> list[ir.Node]:
    """The nodes so that each comes after what it reads, otherwise in the order of the graph (depth first)."""
    done: set[ir.Node] = set()
    order: list[ir.Node] = []
    for root in graph:
        pending: list[tuple[ir.Node, bool]] = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                order.append(node)
            elif node not in done:
                done.add(node)
                pending.append((node, True))
                pending.extend((earlier, False) for earlier in _producers(node) if earlier not in done)
    return order


def _producers(node: ir.Node) -> Iterable[ir.Node]:
    producers = (value.producer() for value in reads(node))
    return (producer for producer in producers if producer is not None and producer.graph is node.graph)
