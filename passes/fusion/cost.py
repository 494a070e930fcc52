# SPDX-License-Identifier: Apache-2.0
"""What moving a block's intermediate tensors costs, fused and unfused, on a device with these caches.

Fusing changes no arithmetic, only where intermediate values lie between two steps. So the model counts nothing but
their bytes: each is read or written at the speed of the levels that hold what passes between two uses of it (the
waterline analysis of Lavin, arXiv 2404.03617, with the levels of a cache hierarchy). Of what a level is too small for,
it holds as much as it can, as caches that replace lines nearly at random do; the next level holds the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

NODE_SECONDS = 3e-7
"""What ONNX Runtime spends on a node beside its kernel (0.27 us measured on Zen 4, 1.31.1)."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A cache, or the memory behind all of them.

    Attributes:
        name: "L2".
        bytes: what one core may use of it; infinite for memory.
        gigabytes_per_second: read by one core.
    """

    name: str
    bytes: float
    gigabytes_per_second: float


@dataclasses.dataclass(frozen=True)
class Device:
    """Where a model will run.

    Attributes:
        name: of the file in ``targets/devices``, or "local".
        levels: smallest first; the last one is memory.
    """

    name: str
    levels: tuple[Level, ...]

    def shares(self, working_set: float) -> list[tuple[Level, float]]:
        """Where bytes lie that are used again after so many others, and which share of them."""
        found: list[tuple[Level, float]] = []
        nearer = 0.0
        for level in self.levels:
            held = min(1.0, level.bytes / working_set) if working_set else 1.0
            if held > nearer:
                found.append((level, held - nearer))
            nearer = held
        return found


# Read by one core of an AMD EPYC (Zen 4), GB/s; the decision needs no more than their order.
TYPICAL_SPEEDS = {"L1": 215.0, "L2": 117.0, "L3": 71.0, "memory": 18.0}
TYPICAL = Device(
    "typical",
    tuple(
        Level(name, size, TYPICAL_SPEEDS[name])
        for name, size in (("L1", 32 << 10), ("L2", 512 << 10), ("L3", 4 << 20), ("memory", math.inf))
    ),
)
"""What is assumed where nobody knows the device."""


@dataclasses.dataclass(frozen=True)
class Move:
    """Some bytes that are written or read again.

    Attributes:
        what: a word for the report.
        bytes: in all.
        working_set: bytes that pass between two uses of the same value.
    """

    what: str
    bytes: float
    working_set: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """One way to run a block: its nodes, and the bytes they move."""

    nodes: int
    moves: tuple[Move, ...]

    def seconds(self, device: Device) -> float:
        """What it costs beside its arithmetic."""
        moved = (
            share * move.bytes / level.gigabytes_per_second
            for move in self.moves
            for level, share in device.shares(move.working_set)
        )
        return self.nodes * NODE_SECONDS + sum(moved) * 1e-9


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a block is fused, and why."""

    fuse: bool
    unfused_us: float
    fused_us: float
    why: str


def decide(unfused: Plan, fused: Plan, device: Device) -> Decision:
    """Fuses where the fused plan moves its bytes in no more time."""
    before, after = unfused.seconds(device), fused.seconds(device)
    where = f"unfused {_levels(unfused.moves, device)}; fused {_levels(fused.moves, device)}"
    return Decision(after <= before, round(before * 1e6, 2), round(after * 1e6, 2), where)


def _levels(moves: Sequence[Move], device: Device) -> str:
    return ", ".join(f"{move.what} {move.bytes / 1024:.0f} KB in {_place(move, device)}" for move in moves) or "nothing"


def _place(move: Move, device: Device) -> str:
    """L1, or L1 (62%) and L2."""
    *nearer, (last, _) = device.shares(move.working_set)
    return " and ".join([*(f"{level.name} ({share:.0%})" for level, share in nearer), last.name])
