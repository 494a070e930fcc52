# SPDX-License-Identifier: Apache-2.0
"""The waterline as a picture (SVG): a roofline on which every node is a disc as large as its share of the time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from edgefold.measuring.svg import document, line, text
from edgefold.measuring.waterline.analysis import NodeRow, Waterline
from edgefold.measuring.waterline.ceilings import Level

_WIDTH, _HEIGHT = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 50, 60
_LABELLED = 8
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#332288", "#994455")


def draw(found: Waterline) -> str:
    """An SVG document: operations a second over operations a byte, both logarithmic, under the machine's ceilings."""
    rows = [row for row in found.nodes if row.operations and row.time_us]
    plane = _Plane(rows, found)
    title = f"{Path(found.model).parent.name}/{Path(found.model).name}: {_percent(found)} of what one core could do"
    total = sum(row.time_us for row in found.nodes)
    heading = text(_LEFT, 24, title, size=15)
    return document(_WIDTH, _HEIGHT, [heading, *plane.axes(), *plane.ceilings(found), *_discs(rows, plane, total)])


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
        return _LEFT + (math.log10(intensity) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, speed: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (math.log10(speed) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> Iterator[str]:
        """Lines of decades with their figures."""
        for power in range(self._x[0], self._x[1] + 1):
            x = self.x(10.0**power)
            yield line(x, _TOP, x, _HEIGHT - _BOTTOM, "#e4e4e4")
            yield text(x, _HEIGHT - _BOTTOM + 18, f"{10.0**power:g}", "middle")
        for power in range(self._y[0], self._y[1] + 1):
            y = self.y(10.0**power)
            yield line(_LEFT, y, _WIDTH - _RIGHT, y, "#e4e4e4")
            yield text(_LEFT - 6, y + 4, f"{10.0 ** (power - 9):g}", "end")
        yield text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 18, "operations a byte", "middle")
        yield text(_LEFT - 6, _TOP - 10, "GOP/s", "end")

    def ceilings(self, found: Waterline) -> Iterator[str]:
        """Level lines of arithmetic, rising lines of the levels of memory up to the higher of these."""
        limits = found.ceilings
        for name, speed in (("float", limits.float_operations), ("8-bit", limits.integer_operations)):
            y = self.y(speed)
            yield line(_LEFT, y, _WIDTH - _RIGHT, y, "#222222")
            yield text(_WIDTH - _RIGHT + 6, y + 4, f"{name} {speed / 1e9:.0f} GOP/s")
        top = max(limits.float_operations, limits.integer_operations)
        for level in limits.levels:
            yield from self._slope(level, top)

    def _slope(self, level: Level, top: float) -> Iterator[str]:
        rate = level.bytes_per_second
        start = max(10.0 ** self._x[0], 10.0 ** self._y[0] / rate)
        end = min(10.0 ** self._x[1], top / rate)
        if start < end:
            yield line(self.x(start), self.y(start * rate), self.x(end), self.y(end * rate), "#999999")
            place = (self.x(start) + 4, self.y(start * rate) - 6)
            yield text(*place, f"{level.name} {rate / 1e9:.0f} GB/s", fill="#777777")


def _discs(rows: Sequence[NodeRow], plane: _Plane, total: float) -> Iterator[str]:
    """Nodes, the slowest first so that small ones lie on top; the eight slowest have their names in a legend."""
    operators = list(dict.fromkeys(row.operator for row in rows))
    ranked = sorted(rows, key=lambda row: -row.time_us)
    for rank, row in enumerate(ranked):
        x, y, radius = plane.x(row.intensity), plane.y(_speed(row)), 4 + 40 * math.sqrt(row.time_us / total)
        colour = _COLOURS[operators.index(row.operator) % len(_COLOURS)]
        tip = f"{row.node} ({row.operator}): {row.time_us:.0f} us, {100 * row.fraction:.0f} % of its floor"
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity="0.6">'
            f"<title>{escape(tip)}</title></circle>"
        )
        if rank < _LABELLED:
            yield text(x, y + 4, str(rank + 1), "middle")
    right = _WIDTH - _RIGHT + 6
    for number, operator in enumerate(operators[: len(_COLOURS)]):
        y = _HEIGHT - _BOTTOM - 16 * number
        yield f'<circle cx="{right + 5}" cy="{y - 4}" r="5" fill="{_COLOURS[number]}"/>'
        yield text(right + 16, y, operator)
    for rank, row in enumerate(ranked[:_LABELLED]):
        name = row.node if len(row.node) <= 24 else f"...{row.node[-21:]}"
        yield text(right, _TOP + 60 + 15 * rank, f"{rank + 1} {name}", size=10)


def _speed(row: NodeRow) -> float:
    return row.operations / row.time_us * 1e6


def _percent(found: Waterline) -> str:
    return f"{100 * found.floor_us / found.whole_us:.0f} %" if found.whole_us else "nothing"


def _decades(low: float, high: float) -> tuple[int, int]:
    return math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
