# SPDX-License-Identifier: Apache-2.0
"""Where the layers just before a cut should aim: at the stream after the blocks that are gone.

A stream value that ends a block is the sum that the block's last layer is a term of, or what a normalization or a ReLU
makes of that sum; before the first block it may be what a layer gives. The two models are read backwards side by side
from a value and its target until that is reached; constants on the way (the weights of a post-LN block's normalization)
are taken over from the target, so that a sum that equals the target's gives its value exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir

from edgefold.passes._constants import trace_constant
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._refittable import store
from edgefold.passes._weighted_nodes import WeightedNode, node_label, weighted_node
from edgefold.passes.base import Edit, Skip, SkipReason
from edgefold.passes.depth.drift import same_constant


@dataclasses.dataclass(frozen=True)
class Aims:
    """What the last layers before the cuts should give.

    Attributes:
        sums: names of outputs of layers with weights, or of sums that one is a term of -> names of what they should
            equal in the original.
        edits: constants that were taken over.
        skips: targets that no layer can aim at.
    """

    sums: Mapping[str, str]
    edits: tuple[Edit, ...]
    skips: tuple[Skip, ...]


def aims(model: ir.Model, original: ir.Model, targets: Mapping[str, str]) -> Aims:
    """Finds the sum behind each stream value, and readies what lies between for its target.

    Args:
        model: changed in place where constants are taken over.
        original: before the change.
        targets: names of stream values -> names of the values of the original that they should equal.

    Raises:
        ValueError: a name that the model does not have.
    """
    sums: dict[str, str] = {}
    edits: list[Edit] = []
    skips: list[Skip] = []
    for name, target in targets.items():
        way = _Way()
        if not way.leads(_value(model, name), _value(original, target)):
            skips.append(Skip(name, SkipReason.NO_NEIGHBOUR, f"no layer is added there that could aim at {target}"))
            continue
        sums |= way.sums
        for (node, index), constant in way.constants.items():
            _take_over(node, index, constant)
            edits.append(Edit(node_label(node), f"takes over {constant.name}"))
    return Aims(sums, tuple(edits), tuple(skips))


@dataclasses.dataclass
class _Way:
    """The nodes from a stream value back to the sum, beside those of its target."""

    sums: dict[str, str] = dataclasses.field(default_factory=dict)
    constants: dict[tuple[ir.Node, int], ir.Value] = dataclasses.field(default_factory=dict)
    seen: dict[ir.Value, ir.Value] = dataclasses.field(default_factory=dict)

    def leads(self, value: ir.Value, target: ir.Value) -> bool:
        """Whether both are computed alike from a sum that a layer is a term of."""
        if value in self.seen:
            return self.seen[value] is target
        self.seen[value] = target
        if _is_written(value):
            self.sums[str(value.name)] = str(target.name)
            return True
        node, other = value.producer(), target.producer()
        if node is None or other is None or (node.domain, node.op_type) != (other.domain, other.op_type):
            return False
        if len(node.inputs) != len(other.inputs) or weighted_node(node) is not None:
            return False
        pairs = enumerate(zip(node.inputs, other.inputs, strict=True))
        return all(self._matches(node, index, mine, theirs) for index, (mine, theirs) in pairs)

    def _matches(self, node: ir.Node, index: int, mine: ir.Value | None, theirs: ir.Value | None) -> bool:
        if mine is None or theirs is None:
            return mine is theirs
        same = same_constant(mine, theirs)
        if same is None:
            return self.leads(mine, theirs)
        if not same:
            self.constants[node, index] = theirs
        return True


def _is_written(value: ir.Value) -> bool:
    """Whether a layer with weights gives the value, or adds its output to another activation there."""
    node = value.producer()
    if node is None or _is_output(value):
        return node is not None
    summed = node.op_type == "Add" and all(trace_constant(term) is None for term in node.inputs)
    return summed and any(_is_output(term) for term in node.inputs if term is not None)


def _is_output(value: ir.Value) -> bool:
    """Whether a layer with weights gives the value, with its bias added or without."""
    node = value.producer()
    if node is None:
        return False
    behind = [one.producer() for one in node.inputs if one is not None]
    sites = [weighted_node(one) for one in (node, *behind) if one is not None]
    return any(isinstance(site, WeightedNode) and site.kind != "gather" and site.output is value for site in sites)


def _value(model: ir.Model, name: str) -> ir.Value:
    known = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    if name not in known:
        raise ValueError(f"the model has no value '{name}' to aim at or from")
    return known[name]


def _take_over(node: ir.Node, index: int, constant: ir.Value) -> None:
    """Lets the node read a constant of the other model instead of its own."""
    stored = node.inputs[index]
    source = trace_constant(constant)
    assert stored is not None
    assert source is not None
    assert isinstance(node.graph, ir.Graph)
    array = source.array()
    if stored.is_initializer() and len(stored.uses()) == 1:
        store(stored, array)
    else:
        added = InitializerStore(node.graph).add_own(f"{constant.name}_taken_over", array)
        node.replace_input_with(index, added)
