# SPDX-License-Identifier: Apache-2.0
"""FuseGPT's injection: the weights of a removed block become donors of the same weights in its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgefold.passes.adapters import pays
from edgefold.passes.depth.blocks import Block, Stack


@dataclass(frozen=True)
class Fusion:
    """What takes part when one block goes.

    Attributes:
        start: name of the stream value that the removed block reads, in its place from then on.
        end: name of the one that it makes, which is gone then.
        group_end: name of the stream value behind the last neighbour, the removed block not counted.
        donors: weight of a neighbour -> the removed block's weight of the same place, in its shape.
        vectors: biases and scales of the neighbours, which are trained as they are.
    """

    start: str
    end: str
    group_end: str
    donors: dict[str, ir.TensorProtocol]
    vectors: tuple[str, ...]


def plan_fusion(stack: Stack, removed: Block, neighbours: int, rank: int) -> Fusion:
    """Plan the fusion of a block into the nearest others of its stack.

    Args:
        stack: holds the block and at least one other.
        removed: goes.
        neighbours: how many take it in: as many on either side, shifted inwards at the ends of the stack.
        rank: of the adapters; a weight that has fewer numbers than its adapter takes nothing in.
    """
    blocks = stack.blocks
    place = blocks.index(removed)
    first = max(0, min(place - neighbours // 2, len(blocks) - 1 - neighbours))
    near = [block for block in blocks[first : first + neighbours + 1] if block is not removed]
    donors: dict[str, ir.TensorProtocol] = {}
    vectors: dict[str, None] = {}
    for block in near:
        for own, donor in zip(block.parameters, removed.parameters, strict=True):
            taken = _donated(own, donor, rank)
            if taken is not None:
                donors[str(own.name)] = taken
            elif _is_vector(own):
                vectors[str(own.name)] = None
    return Fusion(str(removed.start.name), str(removed.end.name), str(near[-1].end.name), donors, tuple(vectors))


def _donated(own: ir.Value, donor: ir.Value, rank: int) -> ir.TensorProtocol | None:
    """What a weight may take in of the removed block's; None where it is none, or not a float32 initializer."""
    mine, theirs = own.const_value, donor.const_value
    if own is donor or mine is None or theirs is None or not own.is_initializer():
        return None
    if mine.dtype != ir.DataType.FLOAT or theirs.dtype != ir.DataType.FLOAT or not pays(mine.shape.numpy(), rank):
        return None
    if mine.shape == theirs.shape:
        return theirs
    if len(mine.shape) == 2 and tuple(mine.shape.numpy()) == tuple(theirs.shape.numpy())[::-1]:
        return ir.tensor(np.ascontiguousarray(theirs.numpy().T))  # an exporter stored one of the two turned
    return None


def _is_vector(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not value.is_initializer() or tensor.dtype != ir.DataType.FLOAT or tensor.size < 2:
        return False
    statistics = any(use.node.op_type == "BatchNormalization" and use.idx in (3, 4) for use in value.uses())
    return max(tensor.shape.numpy()) == tensor.size and not statistics


def numbered(stacks: Sequence[Stack]) -> list[tuple[Stack, Block]]:
    """The blocks in the order of their numbers, each with its stack."""
    return [(stack, block) for stack in stacks for block in stack.blocks]
