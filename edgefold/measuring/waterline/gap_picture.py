# SPDX-License-Identifier: Apache-2.0
"""The efficiency gap as a picture (SVG): a line from the floor of every model on every backend to its measured time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from edgefold.measuring.svg import document, line, text
from edgefold.measuring.waterline.gap import EfficiencyGap, GapRow, lost_most

_LEFT, _PLANE, _RIGHT = 290, 460, 330
_TOP, _ROW, _BOTTOM = 64, 20, 44
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_STEPS = (1, 2, 5)
_NAME = 22  # letters
_LETTER = 7.4  # as wide as one is on average, or wider


def draw(gap: EfficiencyGap) -> str:
    """An SVG document: milliseconds, logarithmic, from left to right; one line a row, models from top to bottom."""
    low = math.log10(min((row.floor_ms for row in gap.rows if row.floor_ms), default=0.1)) - 0.1
    high = math.log10(max((row.time_ms for row in gap.rows if row.time_ms), default=1.0)) + 0.1
    bottom = _TOP + _ROW * (len(gap.rows) + sum(_begins(gap.rows)))

    def x(milliseconds: float) -> float:
        return _LEFT + (math.log10(max(milliseconds, 10.0**low)) - low) / (high - low) * _PLANE

    words = "Open circle: the least time that one core of this machine allows. Disc: measured. The line: the gap. "
    words += "Operators: milliseconds of ONNX Runtime's profile."
    heading = [text(12, 24, "Efficiency gap", size=15), text(12, 42, words, fill="#555555")]
    axis: list[str] = []
    for power in range(math.floor(low), math.ceil(high) + 1):
        for milliseconds in (step * 10.0**power for step in _STEPS):
            if low <= math.log10(milliseconds) <= high:
                place = x(milliseconds)
                axis += [line(place, _TOP - 8, place, bottom, "#e4e4e4")]
                axis += [text(place, bottom + 16, f"{milliseconds:g}", "middle")]
    axis.append(text(_LEFT + _PLANE / 2, bottom + 34, "milliseconds, one thread", "middle"))
    rows = _rows(gap, x)
    ends = (x(row.time_ms) + 20 + _LETTER * len(_label(row)) for row in gap.rows)
    return document(max((_LEFT + _PLANE + _RIGHT, *ends)), bottom + _BOTTOM, [*heading, *axis, *rows])


def _begins(rows: tuple[GapRow, ...]) -> list[bool]:
    """Whether a row is the first of its model: a line of space stands before it."""
    return [place == 0 or rows[place - 1].model != row.model for place, row in enumerate(rows)]


def _rows(gap: EfficiencyGap, x: Callable[[float], float]) -> Iterator[str]:
    forms = list(dict.fromkeys(row.form for row in gap.rows))
    y = _TOP - _ROW
    for row, begins in zip(gap.rows, _begins(gap.rows), strict=True):
        y += _ROW * (2 if begins else 1)
        if begins:
            yield text(12, y + 4, _short(row.model))
        colour = _COLOURS[forms.index(row.form) % len(_COLOURS)]
        floor, time = x(row.floor_ms), x(row.time_ms)
        yield text(_LEFT - 12, y + 4, _short(row.form), "end", colour)
        yield f'<line x1="{floor:.1f}" y1="{y:.1f}" x2="{time:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="3"/>'
        yield f'<circle cx="{floor:.1f}" cy="{y:.1f}" r="5" fill="white" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{time:.1f}" cy="{y:.1f}" r="5.5" fill="{colour}"/>'
        yield text(time + 10, y + 4, _label(row))


def _label(row: GapRow) -> str:
    """The share of the machine, and the operator that loses most; a line has room for no more."""
    operator = lost_most(row, 1)
    lost = f"; lost most in {operator}" if operator else ""
    return f"{100 * row.fraction:.0f} % of {row.time_ms:.3g} ms{lost}"


def _short(name: str) -> str:
    """A name that leaves room for the other one."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
