# SPDX-License-Identifier: Apache-2.0
"""What depth compression works on: residual blocks, their halves, and stacks of equal blocks."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Part:
    """A block, or a half of it: what a residual stream passes through.

    Attributes:
        start: the stream value that enters; for the first block of a stack the value before it.
        end: the stream value that leaves: behind the Add, the LayerNorm (post-LN) or the ReLU after the Add.
        nodes: in graph order; nothing outside them reads what they make but `end`, else the part has an `obstacle`.
        parameters: initializers in canonical order of use: the k-th of one block of a stack corresponds to the k-th of
            any other; the same value may occur twice.
        kind: "block", "attention", "feed-forward", "convolution" or "other".
        obstacle: why it cannot be cut out; None where it can.
    """

    start: ir.Value
    end: ir.Value
    nodes: tuple[ir.Node, ...]
    parameters: tuple[ir.Value, ...]
    kind: str
    obstacle: str | None


@dataclass(frozen=True)
class Block(Part):
    """A residual block; `halves` is empty where no inner stream value divides it."""

    halves: tuple[Part, ...]


@dataclass(frozen=True)
class Stack:
    """A maximal run of blocks of equal structure, in order, with a name as a person would say it."""

    blocks: tuple[Block, ...]
    name: str
