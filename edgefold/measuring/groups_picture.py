# SPDX-License-Identifier: Apache-2.0
"""The groups of a model as a picture (SVG): one row a layer, what it reads and what it writes; one colour, one fate."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from edgefold.measuring.svg import document, text
from edgefold.passes.pruning.groups import Role

if TYPE_CHECKING:
    from edgefold.passes.pruning.groups import Dependencies, Group, Slice

_ROW, _BAR, _NAME, _LENGTH = 18, 12, 300, 320
_GOLDEN_ANGLE = 137.508  # of the colour circle: neighbours in the graph get colours far apart
_HELD = "#cfcfcf"

Bar = list[tuple["Group", "Slice"]]


def draw(dependencies: Dependencies) -> str:
    """An SVG document: the layers from top to bottom, each with its input channels and its output channels.

    Channels of one colour go together, unit by unit; grey ones stay. Product axes show their first factor.
    """
    angles = {group.name: number * _GOLDEN_ANGLE % 360 for number, group in enumerate(dependencies.groups)}
    hues = {name: _colour(angle / 360) for name, angle in angles.items()}
    rows = _rows(dependencies)
    longest = max((len(bar[0][1].units) for bars in rows.values() for bar in bars if bar), default=1)
    height = _ROW * (len(rows) + 2)
    lines = [text(x, _ROW - 5, words) for x, words in _columns()]
    for number, (node, bars) in enumerate(rows.items(), start=1):
        top = number * _ROW + 3
        lines.append(text(4, top + _BAR - 2, node if len(node) <= 48 else f"...{node[-45:]}"))
        for (left, _), bar in zip(_columns()[1:], bars, strict=True):
            lines += _bar(bar, left, top, _LENGTH / longest, hues)
    return document(_NAME + 2 * _LENGTH + 30, height, lines, size=11)


def _columns() -> Sequence[tuple[int, str]]:
    return (4, "layer"), (_NAME, "channels it reads"), (_NAME + _LENGTH + 20, "channels it writes")


def _colour(hue: float) -> str:
    """`#rrggbb` of a hue from 0 to 1; not every viewer of SVG knows hsl()."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, 0.55, 0.62))


def _rows(dependencies: Dependencies) -> Mapping[str, tuple[Bar, Bar]]:
    """Layer -> its slices as a reader and as a writer, in the order of the graph."""
    rows: dict[str, tuple[Bar, Bar]] = {one.node: ([], []) for one in dependencies.contractions}
    for group in dependencies.groups:
        for one in group.slices:
            if one.node in rows and one.role != Role.READER:
                rows[one.node][1].append((group, one))
            elif one.node in rows:
                rows[one.node][0].append((group, one))
    return rows


def _bar(bar: Bar, left: float, top: int, scale: float, hues: Mapping[str, str]) -> Iterator[str]:
    """A grey bar as long as the axis, with the runs of each group over it."""
    if not bar:
        return
    axis = bar[0][1].axis
    yield f'<rect x="{left}" y="{top}" width="{len(bar[0][1].units) * scale:.2f}" height="{_BAR}" fill="{_HELD}"/>'
    taken = np.zeros(len(bar[0][1].units), dtype=bool)
    for group, one in bar:
        if one.axis != axis or len(one.units) != len(taken):
            continue
        shown = (one.units >= 0) & ~taken
        taken |= shown
        edges = np.flatnonzero(np.diff(np.concatenate([[0], shown.astype(int), [0]])))
        for start, end in edges.reshape(-1, 2):
            tip = f"{group.name}: {group.size} units of {group.width}"
            yield (
                f'<rect x="{left + start * scale:.2f}" y="{top}" width="{(end - start) * scale:.2f}" height="{_BAR}" '
                f'fill="{hues[group.name]}"><title>{escape(tip)}</title></rect>'
            )
