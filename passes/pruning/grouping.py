# SPDX-License-Identifier: Apache-2.0
"""From classes to groups: units on the same axes of the same parameters, and what stays when some of them go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgefold.passes.pruning.classes import NEVER, Classes
from edgefold.passes.pruning.groups import AxisKey, Exactness, Group, IntArray, Pruned, Role, Slice
from edgefold.passes.pruning.rules import Findings


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """One factor of one parameter axis, and the class at each of its indices that decides; -1 for none."""

    parameter: str
    axis: int
    units: IntArray


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """Groups, and the classes that their units are.

    Attributes:
        groups: in the order of the graph.
        units: group name -> the class of each of its units, ascending.
    """

    groups: tuple[Group, ...]
    units: Mapping[str, IntArray]


def group_units(
    readers: Mapping[str, str], axes: Mapping[AxisKey, IntArray], classes: Classes, findings: Findings
) -> Grouping:
    """Groups the units that live on parameters.

    Args:
        readers: float parameters in the order of their first use, each with the name of the node that uses it.
        axes: labels of all axes of all values.
        classes: the solution for the labels.
        findings: roles of parameter axes and normalized labels, from the rules.
    """
    places = [
        _Place(name, axis, units)
        for name in readers
        for axis in _axes_of(name, axes)
        for _, units in classes.units(axes[name, axis])
    ]
    part = _partition(places, len(classes.of))
    members: dict[int, IntArray] = {}
    slices: dict[int, list[Slice]] = {}
    for place in places:
        for group in dict.fromkeys(part[place.units[place.units >= 0]].tolist()):
            if group not in members:
                members[group] = np.flatnonzero(part == group)
            inside = (place.units >= 0) & (part[place.units] == group)
            units = np.where(inside, np.searchsorted(members[group], place.units), -1)
            role = findings.roles.get((place.parameter, place.axis), Role.CHANNELWISE)
            one = Slice(readers[place.parameter], place.parameter, place.axis, role, units)
            _append(slices.setdefault(group, []), one)
    causes = _causes(classes, findings)
    groups: dict[str, Group] = {}
    units_of: dict[str, IntArray] = {}
    for group, found in slices.items():
        name = _name(found, groups)
        cause = next((causes[unit] for unit in members[group].tolist() if unit in causes), "")
        groups[name] = _group(name, len(members[group]), found, cause)
        units_of[name] = members[group]
    return Grouping(tuple(groups.values()), units_of)


def _axes_of(name: str, axes: Mapping[AxisKey, IntArray]) -> list[int]:
    found: list[int] = []
    while (name, len(found)) in axes:
        found.append(len(found))
    return found


def _partition(places: Sequence[_Place], count: int) -> IntArray:
    """A number for each class, the same exactly for units that lie on the same places. 0: on none."""
    part = np.zeros(count, np.intp)
    used = 1
    for place in places:
        members = np.unique(place.units[place.units >= 0])
        before, finer = np.unique(part[members], return_inverse=True)
        part[members] = used + finer
        used += len(before)
    return part


def _append(slices: list[Slice], new: Slice) -> None:
    """Adds a slice, to the last one where that is of the same axis and leaves its indices free."""
    last = slices[-1] if slices else None
    if (
        last is not None
        and (last.parameter, last.axis) == (new.parameter, new.axis)
        and not ((last.units >= 0) & (new.units >= 0)).any()
    ):
        slices[-1] = dataclasses.replace(last, units=np.maximum(last.units, new.units))
    else:
        slices.append(new)


def _causes(classes: Classes, findings: Findings) -> dict[int, str]:
    """Units over which a normalization runs, and the first such node."""
    causes: dict[int, str] = {}
    for labels, node in findings.statistics:
        for _, units in classes.units(labels):
            for unit in np.unique(units[units >= 0]).tolist():
                causes.setdefault(unit, node)
    return causes


def _name(slices: Sequence[Slice], taken: Mapping[str, Group]) -> str:
    first = next((one for one in slices if one.role == Role.WRITER), slices[0])
    name = f"{first.parameter}:{first.axis}"
    same = sum(other == name or other.startswith(f"{name}#") for other in taken)
    return f"{name}#{same + 1}" if same else name


def _group(name: str, size: int, slices: Sequence[Slice], cause: str) -> Group:
    first = slices[0].units
    width = int(np.bincount(first[first >= 0]).max())
    exactness = Exactness.STATISTICS if cause else Exactness.EXACT
    return Group(name, size, width, tuple(slices), exactness, cause)


def kept_by(
    grouping: Grouping, axes: Mapping[AxisKey, IntArray], classes: Classes
) -> Callable[[Pruned], Mapping[AxisKey, IntArray]]:
    """The function from units to remove to the indices that stay on every axis that changes."""
    live: dict[int, tuple[IntArray, list[AxisKey]]] = {}  # many values share one array of labels
    for key, labels in axes.items():
        if id(labels) in live:
            live[id(labels)][1].append(key)
        elif (classes.reasons(labels) == NEVER).any():
            live[id(labels)] = (labels, [key])

    def kept(pruned: Pruned) -> Mapping[AxisKey, IntArray]:
        units = [grouping.units[name][chosen] for name, chosen in pruned.items()]
        gone = classes.gone(np.concatenate([np.empty(0, np.intp), *units]))
        result: dict[AxisKey, IntArray] = {}
        for labels, keys in live.values():
            lost = (labels >= 0) & gone[classes.of[np.maximum(labels, 0)]]
            if lost.any():
                result.update(dict.fromkeys(keys, np.flatnonzero(~lost)))
        return result

    return kept
