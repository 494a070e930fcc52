# SPDX-License-Identifier: Apache-2.0
"""What a report says of a selection: costs before and after, units removed, and what stood in the way."""

from __future__ import annotations

from collections.abc import Mapping

from edgefold.passes.pruning.budget import Budget
from edgefold.passes.pruning.candidates import Candidates
from edgefold.passes.pruning.groups import Dependencies, Group, Role
from edgefold.passes.pruning.selection import Selection

_NAMED_BARRIERS = 3


def outcome(
    selection: Selection, budget: Budget, dependencies: Dependencies, found: Candidates
) -> Mapping[str, float | int | str]:
    """Statistics of the pass; the key `finding` is there when the budget was out of reach."""
    kept = budget.kept(selection.pruned)
    stats: dict[str, float | int | str] = {}
    for goal in budget.goals:
        stats[f"{goal.name}.kept"] = round(goal.cost(kept) / max(goal.whole, 1e-30), 4)
    for group in found.groups:
        kind = kind_of(group)
        removed = len(selection.pruned.get(group.name, ()))
        stats[f"units.{kind}"] = int(stats.get(f"units.{kind}", 0)) + group.size
        stats[f"removed.{kind}"] = int(stats.get(f"removed.{kind}", 0)) + removed
    if not selection.met:
        stats["finding"] = _shortfall(selection, budget, dependencies, found)
    return dict(sorted(stats.items()))


def kind_of(group: Group) -> str:
    """What a unit of the group is to a reader of the report."""
    if group.width > 1:
        return "heads" if _contiguous(group) else "dims"
    return "channels" if group.on(Role.WRITER) or group.on(Role.READER) else "entries"


def _contiguous(group: Group) -> bool:
    """Whether a unit's indices lie side by side on the first slice."""
    units = group.slices[0].units
    owned = units[units >= 0]
    return bool((owned[: group.width] == owned[0]).all())


def _shortfall(selection: Selection, budget: Budget, dependencies: Dependencies, found: Candidates) -> str:
    kept = budget.kept(selection.pruned)
    missed = [goal for goal in budget.goals if goal.excess(kept) > 1]
    asked = ", ".join(
        f"{goal.name} {goal.share:.3g} asked, {goal.cost(kept) / goal.whole:.3g} reached" for goal in missed
    )
    held = [f"{one.node} ({one.op_type}: {one.why}, {one.channels} channels)" for one in dependencies.barriers]
    others = [f"{skip.node} ({skip.reason}, {skip.detail})" for skip in found.skips[len(dependencies.barriers) :]]
    named = "; ".join([*held[:_NAMED_BARRIERS], *others[:_NAMED_BARRIERS]])
    return f"prune-channels: {asked}, with all units gone that floor and multiple allow" + (
        f". Held by {named}." if named else "."
    )
