# SPDX-License-Identifier: Apache-2.0
"""The groups of blocks that share weights: as the user gave them, or the best ones for a budget of bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from edgefold.errors import ModelError, UsageError
from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.depth.sharing.grouping import Group, best_partition, cheapest_sources, runs
from edgefold.passes.depth.sharing.harm import Source, affordable_windows, measured, with_sources
from edgefold.passes.depth.sharing.places import SharingStack

Blocks = tuple[int, ...]
_ROUNDING = 1e-9  # of 1/3 of three equal blocks


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is asked for.

    Attributes:
        keep: fraction of the bytes of the matrices to store.
        groups: given by the user; empty to choose them.
        private: blocks that are in no group.
        source: whose weights a group takes.
        extra: bytes that each block of a group stores on top, by the first block of its stack.
    """

    keep: float
    groups: tuple[Blocks, ...]
    private: tuple[int, ...]
    source: Source
    extra: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Groups that share, each with its stack, in order; what was done in a simpler way; what was measured."""

    shared: tuple[tuple[SharingStack, Group], ...]
    skips: tuple[Skip, ...] = ()
    table: tuple[Mapping[str, Any], ...] = ()


def choose(model: ir.Model, stacks: Sequence[SharingStack], choice: Choice, context: Context) -> Chosen:
    """The groups of blocks that are to share their weights.

    Raises:
        UsageError: a given group names a block that is not there or lies across two stacks.
    """
    wanted = _given(stacks, choice.groups) if choice.groups else _all(stacks, choice)
    candidates, skips = _weighed(model, wanted, choice, context)
    if choice.groups:
        groups = tuple(cheapest_sources(candidates))
    else:
        groups, more = _within_budget(stacks, candidates, choice)
        skips += more
    by_number = {number: stack for stack in stacks for number in stack.numbers}
    shared = tuple((by_number[group.blocks[0]], group) for group in groups if group.shares)
    return Chosen(shared, tuple(skips), tuple(map(_row, candidates)))


def parts(
    stacks: Sequence[SharingStack], groups: Sequence[Blocks], private: Sequence[int], size: int | None
) -> list[tuple[SharingStack, Blocks]]:
    """All blocks: in the given groups, or so many by so many, or all of a run, and what is left or private alone.

    Raises:
        UsageError: as in `choose`.
    """
    found = _given(stacks, groups)
    if not groups:
        whole = [(stack, run) for stack in stacks for run in runs(stack.numbers, private)]
        found = [
            (one, run[at : at + (size or len(run))])
            for one, run in whole
            for at in range(0, len(run), size or len(run))
        ]
    grouped = {number for _, blocks in found for number in blocks}
    alone = [(stack, (number,)) for stack in stacks for number in stack.numbers if number not in grouped]
    return sorted([*found, *alone], key=lambda one: one[1])


def _given(stacks: Sequence[SharingStack], groups: Sequence[Blocks]) -> list[tuple[SharingStack, Blocks]]:
    found = []
    for blocks in groups:
        homes = [stack for stack in stacks if set(blocks) <= set(stack.numbers)]
        if not homes:
            there = "; ".join(f"{one.numbers[0]} to {one.numbers[-1]}" for one in stacks)
            raise UsageError(f"share-weights: groups: blocks {list(blocks)} are not of one stack; stacks are {there}")
        found.append((homes[0], blocks))
    return found


def _all(stacks: Sequence[SharingStack], choice: Choice) -> list[tuple[SharingStack, Blocks]]:
    found = [(stack, runs(stack.numbers, choice.private)) for stack in stacks]
    windows = affordable_windows([run for _, some in found for run in some], choice.source)
    return [(stack, blocks) for stack, some in found for blocks in windows if any(set(blocks) <= set(r) for r in some)]


def _weighed(
    model: ir.Model, wanted: Sequence[tuple[SharingStack, Blocks]], choice: Choice, context: Context
) -> tuple[list[Group], list[Skip]]:
    """Every group with each source that it may take, and the error that it makes."""
    groups = [
        (stack, group)
        for stack, blocks in wanted
        for group in with_sources(stack, blocks, choice.source, choice.extra.get(stack.first, 0))
    ]
    why = "without it groups are of equal length and take the weights of their first block"
    if context.perturb is None:
        return _unmeasured(groups), [Skip("model", SkipReason.NO_CALIBRATION, why)]
    try:
        return measured(model, groups, context.perturb), []
    except ModelError as error:
        return _unmeasured(groups), [Skip("model", SkipReason.FALLBACK, f"{error}: no errors measured; {why}")]


def _within_budget(
    stacks: Sequence[SharingStack], candidates: Iterable[Group], choice: Choice
) -> tuple[tuple[Group, ...], list[Skip]]:
    """The best partition of all blocks for the bytes that may be stored."""
    alone = [Group((number,), number, stack.nbytes) for stack in stacks for number in stack.numbers]
    total = sum(group.nbytes for group in alone)
    budget = int(choice.keep * total * (1 + _ROUNDING))
    best = best_partition([group.blocks[0] for group in alone], [*alone, *cheapest_sources(candidates)], budget)
    if best.nbytes <= budget:
        return best.groups, []
    detail = f"the private blocks and one group a stack are {best.nbytes / total:.3g} of the matrices, more than asked"
    return best.groups, [Skip("model", SkipReason.FALLBACK, detail)]


def _unmeasured(groups: Iterable[tuple[SharingStack, Group]]) -> list[Group]:
    """Groups with errors that make the best partition one of equal lengths."""
    return [dataclasses.replace(group, error=float(len(group.blocks) ** 2)) for _, group in groups]


def _row(group: Group) -> Mapping[str, Any]:
    source = "mean" if group.source is None else group.source
    return {"blocks": list(group.blocks), "source": source, "error": float(f"{group.error:.4g}")}
