# SPDX-License-Identifier: Apache-2.0
"""From classes to groups: units on the same axes of the same parameters, and what stays when some of them go."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgefold.passes.pruning.classes import Classes
from edgefold.passes.pruning.groups import AxisKey, Exactness, Group, IntArray, Pruned, Role, Slice
from edgefold.passes.pruning.rules import Axes, Findings


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
    readers: Mapping[str, str], values: Mapping[str, Axes], classes: Classes, findings: Findings
) -> Grouping:
    """Groups the units that live on parameters.

    Args:
        readers: float parameters in the order of their first use, each with the name of the node that uses it.
        values: labels of all axes of all values.
        classes: the solution for the labels.
        findings: roles of parameter axes and normalized labels, from the rules.
    """
    places = _places(readers, values, classes)
    members, group_of = _partition(places, len(classes.of))
    slices: dict[int, list[Slice]] = {}
    for place in places:
        role = findings.roles.get((place.parameter, place.axis), Role.CHANNELWISE)
        groups = np.where(place.units >= 0, group_of[place.units], 0)
        for group in dict.fromkeys(groups[groups > 0].tolist()):
            units = np.where(groups == group, np.searchsorted(members[group], place.units), -1)
            one = Slice(readers[place.parameter], place.parameter, place.axis, role, units)
            _append(slices.setdefault(group, []), one)
    causes = _causes(classes, findings)
    names = _names(slices)
    return Grouping(
        tuple(_group(names[group], members[group], found, causes) for group, found in slices.items()),
        {name: members[group] for group, name in names.items()},
    )


def _places(readers: Mapping[str, str], values: Mapping[str, Axes], classes: Classes) -> list[_Place]:
    keys = [(name, axis) for name in readers for axis in range(len(values[name]))]
    found: list[list[_Place]] = [[] for _ in keys]
    arrays = [values[name][axis] for name, axis in keys]
    ends = np.cumsum([len(labels) for labels in arrays])
    for _, units in classes.units(np.concatenate([np.empty(0, np.intp), *arrays])):
        owners = np.searchsorted(ends, np.flatnonzero(units >= 0), side="right")
        for index in dict.fromkeys(owners.tolist()):
            name, axis = keys[index]
            found[index].append(_Place(name, axis, units[ends[index] - len(arrays[index]) : ends[index]]))
    return [place for places in found for place in places]


def _partition(places: Sequence[_Place], count: int) -> tuple[list[IntArray], IntArray]:
    """Units that lie on exactly the same places have one number, from 1: the units of each, and the number of each."""
    part = np.zeros(count, np.intp)
    used = 1
    for place in places:
        members = np.unique(place.units[place.units >= 0])
        before, finer = np.unique(part[members], return_inverse=True)
        part[members] = used + finer
        used += len(before)
    order = np.argsort(part, kind="stable")
    return np.split(order, np.searchsorted(part[order], np.arange(1, used))), part


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


def _names(slices: Mapping[int, Sequence[Slice]]) -> dict[int, str]:
    """The parameter that is written first and its axis; a number for the second group that starts there."""
    taken: collections.Counter[str] = collections.Counter()
    names = {}
    for group, found in slices.items():
        first = next((one for one in found if one.role == Role.WRITER), found[0])
        name = f"{first.parameter}:{first.axis}"
        taken[name] += 1
        names[group] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return names


def _group(name: str, units: IntArray, slices: Sequence[Slice], causes: Mapping[int, str]) -> Group:
    first = slices[0].units
    width = int(np.bincount(first[first >= 0]).max())
    cause = next((causes[unit] for unit in units.tolist() if unit in causes), "")
    exactness = Exactness.STATISTICS if cause else Exactness.EXACT
    return Group(name, len(units), width, tuple(slices), exactness, cause)


def kept_by(
    grouping: Grouping, values: Mapping[str, Axes], classes: Classes
) -> Callable[[Pruned], Mapping[AxisKey, IntArray]]:
    """The function from units to remove to the indices that stay on every axis that changes."""
    keys: dict[int, list[AxisKey]] = collections.defaultdict(list)  # many values share one array of labels
    shared: dict[int, IntArray] = {}
    for name, axes in values.items():
        for axis, labels in enumerate(axes):
            keys[id(labels)].append((name, axis))
            shared[id(labels)] = labels
    arrays = list(shared.values())
    ends = np.cumsum([len(labels) for labels in arrays])
    roots = classes.roots(np.concatenate([np.empty(0, np.intp), *arrays]))

    def kept(pruned: Pruned) -> Mapping[AxisKey, IntArray]:
        units = [grouping.units[name][chosen] for name, chosen in pruned.items()]
        lost = classes.gone(np.concatenate([np.empty(0, np.intp), *units]))[roots]
        result: dict[AxisKey, IntArray] = {}
        for index in dict.fromkeys(np.searchsorted(ends, np.flatnonzero(lost), side="right").tolist()):
            stays = np.flatnonzero(~lost[ends[index] - len(arrays[index]) : ends[index]])
            result.update(dict.fromkeys(keys[id(arrays[index])], stays))
        return result

    return kept
