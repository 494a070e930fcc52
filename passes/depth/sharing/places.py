# SPDX-License-Identifier: Apache-2.0
"""What the blocks of a stack can share: the matrices that stand at the same place in each of them.

Norms, biases and scales are vectors and stay private: they are a thousandth of the bytes and adapt what is shared to
its depth (FoldGPT, 2407.00928; Relaxed Recursive Transformers, 2410.20672, section 2.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import onnx_ir as ir

from edgefold.passes._constants import readers
from edgefold.passes._weighted_nodes import WeightedNode, node_label, weighted_node
from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.depth.blocks import Block, Stack
from edgefold.passes.depth.sharing.naming import Row, named, require_named

Modules = Literal["all", "attention", "feed-forward"]
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Min", "Max", "PRelu")


@dataclasses.dataclass(frozen=True)
class Place:
    """The matrices at one place of all blocks of a stack, alike in shape, type and reader.

    Attributes:
        values: the initializers as they were before any sharing, one a block; all different.
        nodes: the nodes that read them, in the same order; these stay when the weights become those of another block.
    """

    values: tuple[ir.Value, ...]
    nodes: tuple[tuple[ir.Node, ...], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one of the matrices."""
        tensor = self.values[0].const_value
        assert tensor is not None
        return int(tensor.nbytes)

    def sites(self, block: int) -> list[WeightedNode]:
        """The nodes of a block that multiply by the matrix, with the weights that they have at this moment."""
        found = (weighted_node(node) for node in self.nodes[block])
        return [site for site in found if isinstance(site, WeightedNode) and site.kind != "gather"]


@dataclasses.dataclass(frozen=True)
class SharingStack:
    """A stack with what its blocks can share.

    Attributes:
        stack: the blocks.
        first: the number of its first block, counted over all stacks of the model.
        places: never empty.
    """

    stack: Stack
    first: int
    places: tuple[Place, ...]

    @property
    def numbers(self) -> range:
        """The numbers of its blocks."""
        return range(self.first, self.first + len(self.stack.blocks))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices of one block."""
        return sum(place.nbytes for place in self.places)


def sharing_stacks(
    stacks: Sequence[Stack], modules: Modules, globs: Sequence[str], context: Context
) -> tuple[list[SharingStack], list[Skip]]:
    """The stacks of a model with what can be shared of them, and a Skip for each matrix that cannot.

    Args:
        stacks: of the model.
        modules: the halves of blocks whose matrices are looked at.
        globs: names of those that are meant, or of the nodes that read them; all where none is given.
        context: of the pass.

    Raises:
        UsageError: a glob means none of them.
    """
    rows = [list(_rows(stack, modules)) for stack in stacks]
    require_named(stacks, [row for some in rows for row in some], globs)
    found: list[SharingStack] = []
    skips: list[Skip] = []
    first = 0
    for stack, there in zip(stacks, rows, strict=True):
        places = []
        for values in named(there, globs):
            refusal = _refusal(values, stack, context)
            if refusal is None:
                places.append(Place(values, tuple(tuple(dict.fromkeys(_nodes(value))) for value in values)))
            else:
                skips.append(refusal)
        if places:
            found.append(SharingStack(stack, first, tuple(places)))
        else:
            skips.append(
                Skip(stack.name, SkipReason.NOTHING_TO_GAIN, f"no matrices to share in {' '.join(globs) or modules}")
            )
        first += len(stack.blocks)
    return found, skips


def _rows(stack: Stack, modules: Modules) -> Iterator[Row]:
    """The matrices at each place, one a block; each once, however often a block uses it."""
    wanted = _of_modules(stack.blocks[0], modules)
    seen: set[Row] = set()
    for values in zip(*(block.parameters for block in stack.blocks), strict=True):
        if values[0] in wanted and values not in seen and all(map(_is_matrix, values)):
            seen.add(values)
            yield values


def _of_modules(block: Block, modules: Modules) -> set[ir.Value]:
    if modules == "all":
        return set(block.parameters)
    return {value for half in block.halves if half.kind == modules for value in half.parameters}


def _is_matrix(value: ir.Value) -> bool:
    """Whether it is multiplied with activations: a vector, or a table that is added, belongs to its block."""
    tensor = value.const_value
    if tensor is None or not ir.DataType(tensor.dtype).is_floating_point():
        return False
    if sum(int(size) > 1 for size in tensor.shape.numpy()) < 2:
        return False
    return all(node.op_type not in _ELEMENTWISE for node in _nodes(value))


def _refusal(values: Row, stack: Stack, context: Context) -> Skip | None:
    """Why the matrices at one place stay as they are; None where they can be shared."""
    name = str(values[0].name)
    if len(set(values)) < len(values):
        return Skip(name, SkipReason.SHARED_WEIGHT, "blocks share it already")
    for value, block in zip(values, stack.blocks, strict=True):
        inside = set(block.nodes)
        outside = [node for node in _nodes(value) if node not in inside]
        if outside or value.is_graph_output():
            return Skip(str(value.name), SkipReason.SHARED_WEIGHT, "read outside of its block")
        if any(context.excludes(node_label(node)) for node in _nodes(value)):
            return Skip(str(value.name), SkipReason.EXCLUDED)
    forms = [_form(value) for value in values]
    if any(form != forms[0] for form in forms):
        return Skip(name, SkipReason.ATTRIBUTE, "blocks store or apply it in different ways")
    return None


def _form(value: ir.Value) -> object:
    """All that must agree for two matrices to take each other's place."""
    tensor = value.const_value
    assert tensor is not None
    uses = [(node.domain, node.op_type, index, _stored(node)) for node, index in readers(value)]
    return tuple(tensor.shape.numpy()), tensor.dtype, uses


def _stored(node: ir.Node) -> object:
    site = weighted_node(node)
    if isinstance(site, WeightedNode):
        return site.stored, site.alpha, site.k, site.n
    return sorted((name, str(attribute)) for name, attribute in node.attributes.items())


def _nodes(value: ir.Value) -> list[ir.Node]:
    return [node for node, _ in readers(value)]
