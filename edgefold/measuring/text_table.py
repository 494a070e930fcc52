# SPDX-License-Identifier: Apache-2.0
"""Tables as plain text: aligned, two spaces between columns, readable in a log and in a mail."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, notes: bool = False) -> str:
    """Aligns rows under a header.

    Args:
        header: names of the columns.
        rows: one text a column.
        left: how many columns, from the first, stand at the left of their width; the others are figures, at the right.
        notes: the last column is text too and stands at the left.
    """
    texts = {*range(left), len(header) - 1 if notes else 0}
    every = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in texts else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    )


def count_text(number: int | None) -> str:
    """A count with three figures and its unit: ``1.23 M``; a dash where it is unknown."""
    if number is None:
        return "-"
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}" if number < 1000 * factor else f"{number / factor:.0f} {unit}"
    return str(number)
