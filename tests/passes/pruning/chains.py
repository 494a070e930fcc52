# SPDX-License-Identifier: Apache-2.0
"""Dependencies of a chain of fully connected layers, made by hand: one group for each hidden vector."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgefold.passes.pruning.groups import (
    AxisKey,
    Contraction,
    Dependencies,
    Group,
    IntArray,
    Pruned,
    Role,
    Slice,
    Trace,
)


def chain(*sizes: int, widths: Mapping[int, int] | None = None) -> tuple[Dependencies, Trace]:
    """x0 [1, sizes[0]] @ w0 -> x1 @ w1 -> ...; hidden vector i has units of widths[i] channels (default 1)."""
    widths = widths or {}
    groups = [_group(i, sizes[i], widths.get(i, 1)) for i in range(1, len(sizes) - 1)]
    shapes = {f"x{i}": (1, size) for i, size in enumerate(sizes)}
    shapes |= {f"w{i}": (sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1)}

    def kept(pruned: Pruned) -> Mapping[AxisKey, IntArray]:
        found: dict[AxisKey, IntArray] = {}
        for number, group in enumerate(groups, start=1):
            if group.name in pruned:
                alive = np.flatnonzero(~np.isin(group.slices[0].units, pruned[group.name]))
                found |= dict.fromkeys([(f"w{number - 1}", 1), (f"x{number}", 1), (f"w{number}", 0)], alive)
        return found

    contractions = tuple(
        Contraction(f"fc{i}", "MatMul", ((f"x{i + 1}", 0), (f"x{i + 1}", 1), (f"w{i}", 0)))
        for i in range(len(sizes) - 1)
    )
    return Dependencies(tuple(groups), (), contractions, kept), Trace(shapes, {}, frozenset())


def _group(number: int, size: int, width: int) -> Group:
    units = np.repeat(np.arange(size // width), width)
    writer = Slice(f"fc{number - 1}", f"w{number - 1}", 1, Role.WRITER, units)
    reader = Slice(f"fc{number}", f"w{number}", 0, Role.READER, units)
    return Group(f"w{number - 1}:1", size // width, width, (writer, reader))
