# SPDX-License-Identifier: Apache-2.0
"""One initializer for the matrices that blocks share, wired directly to every node that reads it.

That is the form that every tool keeps: with an Identity between, OnnxSlim makes copies and quantizers see no weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.passes.base import Edit
from edgefold.passes.depth.sharing.grouping import Group
from edgefold.passes.depth.sharing.places import Place, SharingStack

Array = npt.NDArray[Any]


def tie(graph: ir.Graph, stack: SharingStack, group: Group) -> Iterator[Edit]:
    """Gives all blocks of a group one set of matrices; what they had goes away.

    Args:
        graph: changed in place.
        stack: that the blocks belong to.
        group: of several blocks.
    """
    keeper = group.blocks[0] if group.source is None else group.source
    for place in stack.places:
        kept = place.values[keeper - stack.first]
        if group.source is None:
            _store(kept, shared_array(place, stack, group))
        for number in group.blocks:
            own = place.values[number - stack.first]
            if own is kept:
                continue
            own.replace_all_uses_with(kept)
            graph.initializers.pop(str(own.name))
            if own in graph.inputs:  # IR 3 lists initializers among the inputs
                graph.inputs.remove(own)
            yield Edit(str(own.name), f"block {number} uses {kept.name} of block {keeper}")


def shared_array(place: Place, stack: SharingStack, group: Group) -> Array:
    """The matrix that the blocks of a group get at one place."""
    if group.source is not None:
        return _array(place.values[group.source - stack.first])
    arrays = [_array(place.values[number - stack.first]) for number in group.blocks]
    mean: Array = np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[0].dtype)
    return mean


def exchanged(stack: SharingStack, groups: Iterable[Group]) -> Mapping[str, Array]:
    """What the initializers of a stack would hold if groups of its blocks shared their weights."""
    return {
        str(place.values[number - stack.first].name): shared_array(place, stack, group)
        for group in groups
        for place in stack.places
        for number in group.blocks
        if number != group.source
    }


def _array(value: ir.Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy()


def _store(value: ir.Value, array: Array) -> None:
    assert value.const_value is not None
    value.const_value = ir.tensor(array, dtype=ir.DataType(value.const_value.dtype), name=value.name)
