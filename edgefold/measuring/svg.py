# SPDX-License-Identifier: Apache-2.0
"""Elements of pictures as text (SVG), which every browser shows and no library is needed for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

from edgefold.errors import UsageError

INK = "#222222"


def check_name(path: str | None) -> None:
    """Raises UsageError where a file of another format is asked for; to be called before the work."""
    if path is not None and not path.endswith(".svg"):
        raise UsageError(f"--picture {path}: expected a file name that ends in .svg")


def write(path: str, picture: str) -> None:
    """Writes a picture."""
    Path(path).write_text(picture, encoding="utf-8")


def document(width: float, height: float, elements: Iterable[str], size: int = 12) -> str:
    """A picture with a white ground; `size` is that of its letters."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif"'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'{head} font-size="{size}">', ground, *elements, "</svg>", ""])


def text(
    x: float, y: float, words: str, anchor: str = "start", fill: str = INK, size: int | None = None, turn: str = ""
) -> str:
    """Words whose baseline begins at (x, y), or is centred ("middle") or ends ("end") there.

    `turn` is none, or what `turned` gives.
    """
    given = (("text-anchor", anchor, "start"), ("fill", fill, INK), ("font-size", size, None), ("transform", turn, ""))
    form = "".join(f' {name}="{value}"' for name, value, usual in given if value != usual)
    return f'<text x="{x:.1f}" y="{y:.1f}"{form}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def turned(x1: float, y1: float, x2: float, y2: float) -> str:
    """The turn of words that begin at the first place and run towards the second."""
    return f"rotate({math.degrees(math.atan2(y2 - y1, x2 - x1)):.1f} {x1:.1f} {y1:.1f})"
