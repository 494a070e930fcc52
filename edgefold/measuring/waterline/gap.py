# SPDX-License-Identifier: Apache-2.0
"""The efficiency gap (Lavin, arXiv 2404.03617): how far the times of several models and backends are from their floors.

A model's time is its floor divided by the fraction of the machine that it uses. The floor tells what a smaller or
cheaper model could gain, the gap what better kernels could; the operators in which the gap lies tell where to begin.

The time is that of a run without ONNX Runtime's profile, which counts whole microseconds and takes time itself. Those
of operators and blocks are the profile's, so that they may add up to more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgefold.measuring.text_table import text_table
from edgefold.measuring.waterline.analysis import BlockRow, Waterline
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
        floor_ms: sum over its nodes, milliseconds.
        time_ms: of a run without the profile.
        profiled_ms: the sum of its nodes' times in the profile.
        fraction: floor / time.
        operators: the one that loses most time first.
        blocks: its residual blocks, in order.
    """

    model: str
    form: str
    floor_ms: float
    time_ms: float
    profiled_ms: float
    fraction: float
    operators: tuple[OperatorGap, ...]
    blocks: tuple[BlockRow, ...] = ()


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
        """The rows, the residual blocks of each, then the operators that lose most time over all of them."""
        rows = [cells(row) for row in self.rows]
        blocks = [blocks_cells(row) for row in self.rows if row.blocks]
        losses = [(row.model, row.form, *operator_cells(one)) for row, one in self.losses()]
        return "\n".join((
            self.ceilings.to_text() + "; one thread",
            "",
            text_table(HEADER, rows, left=2, notes=True),
            "",
            *((text_table(BLOCKS_HEADER, blocks, left=2), "") if blocks else ()),
            text_table(LOSSES_HEADER, losses, left=3),
            "",
            "Times of models are of runs without a profile. Those of blocks and operators are from ONNX Runtime's,",
            "which counts whole microseconds and takes time itself: where nodes are small they add up to more.",
        ))  # fmt: skip

    def losses(self) -> list[tuple[GapRow, OperatorGap]]:
        """The operators that lose most, over all rows; none that loses less than a fiftieth of its row's."""
        all_of_them = ((row, one) for row in self.rows for one in row.operators if one.lost_ms > row.profiled_ms / 50)
        return sorted(all_of_them, key=lambda pair: -pair[1].lost_ms)


HEADER = ("model", "form", "floor ms", "time ms", "of floor", "lost most in (ms)")
BLOCKS_HEADER = ("model", "form", "blocks", "nodes", "floor us", "fused floor us", "time us", "of floor")
LOSSES_HEADER = ("model", "form", *OPERATOR_HEADER)


def gap_row(model: str, form: str, found: Waterline) -> GapRow:
    """Sums up the waterline of one form of a model.

    Args:
        model: name of what it is a form of.
        form: name that tells it from the others.
        found: what was measured.
    """
    floor, time, profiled = (us / 1e3 for us in (found.floor_us, found.whole_us, found.time_us))
    fraction = min(floor / time, 1.0) if time else 1.0
    return GapRow(model, form, floor, time, profiled, fraction, by_operator(found.nodes), found.blocks)


def lost_most(row: GapRow, most: int = 3) -> str:
    """The operators in which a form loses most, with milliseconds: ``Conv 4.1, Add 0.3``."""
    named = (one for one in row.operators[:most] if one.lost_ms > row.profiled_ms / 50)
    return ", ".join(f"{short_operator(one.operator)} {one.lost_ms:.2g}" for one in named)


def cells(row: GapRow) -> tuple[str, ...]:
    """What stands under `HEADER`."""
    figures = (f"{row.floor_ms:.3g}", f"{row.time_ms:.3g}", f"{100 * row.fraction:.0f} %")
    return (row.model, row.form, *figures, lost_most(row))


def blocks_cells(row: GapRow) -> tuple[str, ...]:
    """Sums over a form's residual blocks, as they stand under `BLOCKS_HEADER`."""
    number = sum(block.last - block.number + 1 for block in row.blocks)
    nodes = sum(block.nodes for block in row.blocks)
    floor, time = sum(block.floor_us for block in row.blocks), sum(block.time_us for block in row.blocks)
    fused = [block.fused_floor_us for block in row.blocks if block.fused_floor_us is not None]
    fused_floor = f"{sum(fused):.0f}" if len(fused) == len(row.blocks) else "-"
    share = f"{100 * min(floor / time, 1.0):.0f} %" if time else "-"
    return (row.model, row.form, str(number), str(nodes), f"{floor:.0f}", fused_floor, f"{time:.0f}", share)
