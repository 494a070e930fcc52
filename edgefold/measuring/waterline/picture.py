# SPDX-License-Identifier: Apache-2.0
"""The waterline as a picture (SVG): a roofline on which every node is a disc as large as its share of the time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edgefold.measuring.svg import document, line, text, turned
from edgefold.measuring.waterline.analysis import NodeRow, Waterline
from edgefold.measuring.waterline.ceilings import Level
from edgefold.measuring.waterline.operators import brief_operator

_WIDTH, _HEIGHT = 1080, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 710, 50, 500  # of the plane; the ceilings' names stand at its right
_LEGEND = 836  # where the column of the legend begins, at the right of these names
_LINE = 16  # from a baseline to the next
_LETTER = 7.0  # as wide as a figure is
_LABELLED = 8
_NAME = 27  # letters
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#332288", "#994455", "#bbbbbb")


def draw(found: Waterline) -> str:
    """An SVG document: operations a second over operations a byte, both logarithmic, under the machine's ceilings."""
    rows = sorted((row for row in found.nodes if row.operations and row.time_us), key=lambda row: -row.time_us)
    plane = _Plane(rows, found)
    title = f"{Path(found.model).parent.name}/{Path(found.model).name}: {_percent(found)} of what one core could do"
    total = sum(row.time_us for row in found.nodes)
    heading = text(_LEFT, 24, title, size=15)
    elements = [*plane.axes(), *plane.ceilings(found), *_discs(rows, plane, total), *_numbers(rows, plane)]
    return document(_WIDTH, _HEIGHT, [heading, *elements, *_legend(rows)])


class _Plane:
    """The plane of intensity and speed, whole decades of both."""

    def __init__(self, rows: Sequence[NodeRow], found: Waterline) -> None:
        intensities = [row.intensity for row in rows] or [1.0]
        speeds = [_speed(row) for row in rows] or [1e9]
        top = max(found.ceilings.float_operations, found.ceilings.integer_operations, *speeds)
        self._x = _decades(min(intensities), max(*intensities, 100.0))
        self._y = _decades(min(speeds), top)

    def x(self, intensity: float) -> float:
        low, high = self._x
        return _LEFT + (math.log10(intensity) - low) / (high - low) * (_RIGHT - _LEFT)

    def y(self, speed: float) -> float:
        low, high = self._y
        return _BOTTOM - (math.log10(speed) - low) / (high - low) * (_BOTTOM - _TOP)

    def axes(self) -> Iterator[str]:
        """Lines of decades with their figures."""
        for power in range(self._x[0], self._x[1] + 1):
            x = self.x(10.0**power)
            yield line(x, _TOP, x, _BOTTOM, "#e4e4e4")
            yield text(x, _BOTTOM + 18, f"{10.0**power:g}", "middle")
        for power in range(self._y[0], self._y[1] + 1):
            y = self.y(10.0**power)
            yield line(_LEFT, y, _RIGHT, y, "#e4e4e4")
            yield text(_LEFT - 6, y + 4, f"{10.0 ** (power - 9):g}", "end")
        yield text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "operations a byte", "middle")
        yield text(_LEFT - 6, _TOP - 10, "GOP/s", "end")

    def ceilings(self, found: Waterline) -> Iterator[str]:
        """Level lines of arithmetic, rising lines of the levels of memory up to the higher of these."""
        limits = found.ceilings
        below = -math.inf  # where the name of the ceiling above leaves room
        named = (("float", limits.float_operations), ("8-bit", limits.integer_operations))
        for name, speed in sorted(named, key=lambda one: -one[1]):
            y = self.y(speed)
            yield line(_LEFT, y, _RIGHT, y, "#222222")
            below = max(y + 4, below + _LINE)
            yield text(_RIGHT + 6, below, f"{name} {speed / 1e9:.0f} GOP/s")
        for level in limits.levels:
            yield from self._slope(level, max(limits.float_operations, limits.integer_operations))

    def _slope(self, level: Level, top: float) -> Iterator[str]:
        rate = level.bytes_per_second
        start = max(10.0 ** self._x[0], 10.0 ** self._y[0] / rate)
        end = min(10.0 ** self._x[1], top / rate)
        if start < end:
            ends = (self.x(start), self.y(start * rate), self.x(end), self.y(end * rate))
            yield line(*ends, "#999999")
            words = f"{level.name} {rate / 1e9:.0f} GB/s"
            if math.dist(ends[:2], ends[2:]) > _LETTER * len(words):  # else it would run over the ceilings
                lifted = (ends[0] + 4, ends[1] - 8, ends[2] + 4, ends[3] - 8)
                yield text(*lifted[:2], words, fill="#777777", turn=turned(*lifted))


def _discs(rows: Sequence[NodeRow], plane: _Plane, total: float) -> Iterator[str]:
    """Nodes, the slowest first so that small ones lie on top."""
    operators = _operators(rows)
    for row in rows:
        x, y, radius = plane.x(row.intensity), plane.y(_speed(row)), 4 + 40 * math.sqrt(row.time_us / total)
        tip = f"{row.node} ({row.operator}): {row.time_us:.0f} us, {100 * row.fraction:.0f} % of its floor"
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_colour(operators, row)}" fill-opacity="0.6">'
            f"<title>{escape(tip)}</title></circle>"
        )


def _numbers(rows: Sequence[NodeRow], plane: _Plane) -> Iterator[str]:
    """The places of the slowest nodes in the legend, above all discs; those that would collide are written as one."""
    labels: list[tuple[float, float, list[int]]] = []
    for rank, row in enumerate(rows[:_LABELLED], 1):
        x, y, ranks = plane.x(row.intensity), plane.y(_speed(row)), [rank]
        while (other := next((one for one in labels if _collide(one, (x, y, ranks))), None)) is not None:
            labels.remove(other)
            x, y, ranks = *other[:2], sorted((*other[2], *ranks))
        labels.append((x, y, ranks))
    for x, y, ranks in labels:
        yield text(x, y + 4, _ranges(ranks), "middle")


def _collide(one: tuple[float, float, list[int]], other: tuple[float, float, list[int]]) -> bool:
    width = _LETTER * (len(_ranges(one[2])) + len(_ranges(other[2]))) / 2
    return abs(one[0] - other[0]) < width + 4 and abs(one[1] - other[1]) < _LINE - 2


def _ranges(numbers: Sequence[int]) -> str:
    """``1-3, 5`` for 1, 2, 3 and 5."""
    starts = [one for one in numbers if one - 1 not in numbers]
    ends = [one for one in numbers if one + 1 not in numbers]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _legend(rows: Sequence[NodeRow]) -> Iterator[str]:
    """The colours of operators, then the slowest nodes with their times, in a column of their own."""
    operators = _operators(rows)
    y = _TOP + 4
    for number, operator in enumerate(operators[: len(_COLOURS)]):
        others = number == len(_COLOURS) - 1 < len(operators) - 1
        yield f'<circle cx="{_LEGEND + 5}" cy="{y - 4}" r="5" fill="{_COLOURS[number]}"/>'
        yield text(_LEGEND + 16, y, "others" if others else brief_operator(operator))
        y += _LINE
    for rank, row in enumerate(rows[:_LABELLED], 1):
        y += _LINE
        name = row.node if len(row.node) <= _NAME else f"...{row.node[3 - _NAME :]}"
        yield text(_LEGEND, y, f"{rank} {name}", size=10)
        yield text(_WIDTH - 10, y, f"{row.time_us:.0f} us", "end", size=10)


def _operators(rows: Sequence[NodeRow]) -> list[str]:
    return list(dict.fromkeys(row.operator for row in rows))


def _colour(operators: Sequence[str], row: NodeRow) -> str:
    return _COLOURS[min(operators.index(row.operator), len(_COLOURS) - 1)]


def _speed(row: NodeRow) -> float:
    return row.operations / row.time_us * 1e6


def _percent(found: Waterline) -> str:
    return f"{100 * found.floor_us / found.whole_us:.0f} %" if found.whole_us else "nothing"


def _decades(low: float, high: float) -> tuple[int, int]:
    return math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
