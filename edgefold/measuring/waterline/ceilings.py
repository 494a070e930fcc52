# SPDX-License-Identifier: Apache-2.0
"""The ceilings of this machine, one thread: multiply-adds a second by type, bytes a second from each level of memory.

Measured once by loops of the runtime (`runtime/kernels/peak`) and kept in the user's cache folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgefold.errors import EdgefoldError, UsageError
from edgefold.measuring.devices import LOCAL, device
from edgefold.measuring.kept import keep, kept_file

ENVIRONMENT = "EDGEFOLD_CEILINGS"
"""Names the file to use instead of the one in the user's cache folder; one from another device can be put there."""

Number = Literal["float", "integer"]

_FLOAT, _INTEGER, _READ = 0, 1, 2  # PeakLoop of the runtime
_SECONDS = 0.004  # of one try: short enough that some try is not interrupted
_TRIES = 60
_BLOCK = 512
_MEMORY_BYTES = 2**28


@dataclass(frozen=True)
class Level:
    """A level of memory.

    Attributes:
        name: "L1", "L2", ..., "memory".
        bytes: what it holds for one core; None for the main memory.
        bytes_per_second: read by one core from a buffer that fills half of it.
    """

    name: str
    bytes: int | None
    bytes_per_second: float


@dataclass(frozen=True)
class Ceilings:
    """What one core of this machine reaches in loops that do one thing only.

    Attributes:
        isa: the instruction set of the loops, as EDGEFOLD_ISA spells it.
        float_operations: float32 operations a second, two a multiply-add.
        integer_operations: the same of 8-bit factors, by the multiplication of the integer kernels.
        levels: from the nearest memory to the farthest.
    """

    isa: str
    float_operations: float
    integer_operations: float
    levels: tuple[Level, ...]

    def operations(self, number: Number) -> float:
        """Operations a second on factors of that type."""
        return self.float_operations if number == "float" else self.integer_operations

    def level(self, size: int) -> Level:
        """The nearest level that holds `size` bytes."""
        return next((one for one in self.levels if one.bytes is None or size <= one.bytes), self.levels[-1])

    def to_text(self) -> str:
        """The ceilings in a line."""
        speeds = ", ".join(f"{one.name} {one.bytes_per_second / 1e9:.0f}" for one in self.levels)
        return (
            f"ceilings of one core ({self.isa}): float {self.float_operations / 1e9:.0f} GOP/s, "
            f"8-bit {self.integer_operations / 1e9:.0f} GOP/s; GB/s from {speeds}"
        )


def ceilings() -> Ceilings:
    """The ceilings of this machine and instruction set; measured when no file holds them yet (three seconds).

    Raises:
        EdgefoldError: the compiled module is missing.
        UsageError: the file that the environment names holds something else.
    """
    from edgefold.runtime import kernels

    isa = next(one.isa for one in kernels() if one.family == "peak" and one.chosen)
    path = kept_file(ENVIRONMENT, "ceilings", isa)
    if path.is_file():
        return _read(path)
    found = _measure(isa)
    keep(path, asdict(found))
    return found


def _read(path: Path) -> Ceilings:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        levels = tuple(Level(**one) for one in fields.pop("levels"))
        return Ceilings(levels=levels, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: no ceilings of a machine ({error}); delete it to measure again") from None


def _measure(isa: str) -> Ceilings:
    sizes = [(one.name, None if math.isinf(one.bytes) else int(one.bytes)) for one in device(LOCAL).levels]
    # Half a cache: the other half is for what else runs.
    buffers = [(name, size, _MEMORY_BYTES if size is None else size // 2 // _BLOCK * _BLOCK) for name, size in sizes]
    levels = tuple(Level(name, size, _speed(_READ, buffer)) for name, size, buffer in buffers)
    return Ceilings(isa, _speed(_FLOAT), _speed(_INTEGER), levels)


def _speed(loop: int, size: int = 0) -> float:
    """Operations or bytes a second, best of many short tries: whatever disturbs a loop only makes it slower."""
    from edgefold import _kernels

    run = next(row for row in _kernels.operator_families()["peak"] if row.chosen())
    work, seconds = run(loop, 1, size)
    for _ in range(5):  # turns of one try, from a first guess
        turns = max(1, round(_SECONDS * work / max(seconds, 1e-9) / max(run(loop, 1, size)[0], 1)))
        work, seconds = run(loop, turns, size)
    best = 0.0
    for _ in range(_TRIES if turns > 1 else 5):
        work, seconds = run(loop, turns, size)
        if seconds <= 0:
            raise EdgefoldError("the clock of this machine stands still")
        best = max(best, work / seconds)
    return best
