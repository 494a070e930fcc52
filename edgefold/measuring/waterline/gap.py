# SPDX-License-Identifier: Apache-2.0
"""The efficiency gap (Lavin, arXiv 2404.03617): how far the times of several models and backends are from their floors.

A model's time is its floor divided by the fraction of the machine that it uses. The floor tells what a smaller or
cheaper model could gain, the gap what better kernels could; the operators in which the gap lies tell where to begin.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgefold.measuring.text_table import text_table
from edgefold.measuring.waterline.analysis import Waterline
from edgefold.measuring.waterline.ceilings import Ceilings
from edgefold.measuring.waterline.operators import (
    OPERATOR_HEADER,
    OperatorGap,
    by_operator,
    operator_cells,
    short_operator,
)


@dataclass(frozen=True)
class GapRow:
    """A model on a backend.

    Attributes:
        model: what it is a form of.
        form: what tells it from the other forms of that model.
        floor_ms, time_ms: sums over its nodes, milliseconds.
        fraction: floor / time.
        operators: the one that loses most time first.
    """

    model: str
    form: str
    floor_ms: float
    time_ms: float
    fraction: float
    operators: tuple[OperatorGap, ...]


@dataclass(frozen=True)
class EfficiencyGap:
    """Several models and backends beside one machine's ceilings.

    Attributes:
        ceilings: of one core.
        rows: in the order given.
    """

    ceilings: Ceilings
    rows: tuple[GapRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold inspect --waterline`` with several models."""
        return asdict(self)

    def to_text(self) -> str:
        """The rows, then the operators that lose most time over all of them."""
        rows = [cells(row) for row in self.rows]
        losses = [(row.model, row.form, *operator_cells(one)) for row, one in self.losses()]
        return "\n".join((
            self.ceilings.to_text() + "; one thread",
            "",
            text_table(HEADER, rows, left=2, notes=True),
            "",
            text_table(LOSSES_HEADER, losses, left=3),
            "",
            "Times are sums over nodes, of a profile that counts whole microseconds and takes time itself: models of",
            "many small nodes look slower than they are. With one -m the time without the profile is shown too.",
        ))  # fmt: skip

    def losses(self) -> list[tuple[GapRow, OperatorGap]]:
        """The operators that lose most, over all rows; none that loses less than a fiftieth of its row's time."""
        all_of_them = ((row, one) for row in self.rows for one in row.operators if one.lost_ms > row.time_ms / 50)
        return sorted(all_of_them, key=lambda pair: -pair[1].lost_ms)


HEADER = ("model", "form", "floor ms", "time ms", "of floor", "lost most in (ms)")
LOSSES_HEADER = ("model", "form", *OPERATOR_HEADER)


def gap_row(model: str, form: str, found: Waterline) -> GapRow:
    """Sums up the waterline of one form of a model.

    Args:
        model: name of what it is a form of.
        form: name that tells it from the others.
        found: what was measured.
    """
    ranked = by_operator(found.nodes)
    floor, time = found.floor_us / 1e3, found.time_us / 1e3
    return GapRow(model, form, floor, time, min(floor / time, 1.0) if time else 1.0, ranked)


def lost_most(row: GapRow, most: int = 3) -> str:
    """The operators in which a form loses most, with milliseconds: ``Conv 4.1, Add 0.3``."""
    named = (one for one in row.operators[:most] if one.lost_ms > row.time_ms / 50)
    return ", ".join(f"{short_operator(one.operator)} {one.lost_ms:.2g}" for one in named)


def cells(row: GapRow) -> tuple[str, ...]:
    """What stands under `HEADER`."""
    figures = (f"{row.floor_ms:.3g}", f"{row.time_ms:.3g}", f"{100 * row.fraction:.0f} %")
    return (row.model, row.form, *figures, lost_most(row))
