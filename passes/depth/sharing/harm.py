# SPDX-License-Identifier: Apache-2.0
"""What it costs, in error of the outputs on calibration data, that a group of blocks shares the weights of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from edgefold.passes.base import Perturb
from edgefold.passes.depth.sharing.grouping import Group, windows
from edgefold.passes.depth.sharing.places import SharingStack
from edgefold.passes.depth.sharing.tying import exchanged

Source = Literal["best", "first", "last", "mean"]
MOST_RUNS = 600
"""Runs of the model over the calibration data that the choice of groups may take; long stacks get shorter groups."""


def affordable_windows(runs: Sequence[tuple[int, ...]], source: Source) -> list[tuple[int, ...]]:
    """All groups of consecutive blocks, without the longest ones where to measure all would take too long."""
    longest = max(map(len, runs), default=0)
    found = windows(runs, longest)
    while longest > 2 and sum(len(_sources(blocks, source)) for blocks in found) > MOST_RUNS:
        longest -= 1
        found = windows(runs, longest)
    return found


def measured(model: ir.Model, groups: Sequence[tuple[SharingStack, Group]], perturb: Perturb) -> list[Group]:
    """The groups with the error of the outputs that each makes while all other blocks keep their weights.

    Args:
        model: whose initializers the stacks name; not changed.
        groups: to be measured.
        perturb: see `edgefold.perturbing`.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
    """
    exposed = model.clone()
    for value in {value.name: value for stack, _ in groups for place in stack.places for value in place.values}:
        initializer = exposed.graph.initializers[str(value)]
        if initializer not in exposed.graph.inputs:
            exposed.graph.inputs.append(initializer)
    errors = perturb(exposed, (exchanged(stack, [group]) for stack, group in groups))
    return [dataclasses.replace(group, error=error) for (_, group), error in zip(groups, errors, strict=True)]


def with_sources(stack: SharingStack, blocks: tuple[int, ...], source: Source, extra: int) -> list[Group]:
    """The group with each source that may be taken; every block stores ``extra`` bytes of its own."""
    return [Group(blocks, one, stack.nbytes + extra * len(blocks)) for one in _sources(blocks, source)]


def _sources(blocks: tuple[int, ...], source: Source) -> list[int | None]:
    if source == "best":
        return list(blocks)
    return [{"first": blocks[0], "last": blocks[-1], "mean": None}[source]]
