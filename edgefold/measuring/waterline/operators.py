# SPDX-License-Identifier: Apache-2.0
"""The nodes of a model by operator: how many there are, and how much time all of one kind lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgefold.measuring.waterline.analysis import NodeRow

OPERATOR_HEADER = ("operator", "nodes", "floor ms", "time ms", "lost ms")


@dataclass(frozen=True)
class OperatorGap:
    """All nodes of one operator.

    Attributes:
        operator: its name, with the domain where it is not ONNX's own.
        nodes: how many ran.
        floor_ms, time_ms: sums over them, milliseconds.
        lost_ms: time - floor, node by node, where a node is slower than its floor.
    """

    operator: str
    nodes: int
    floor_ms: float
    time_ms: float
    lost_ms: float


def by_operator(nodes: Sequence[NodeRow]) -> tuple[OperatorGap, ...]:
    """Sums over the nodes of each operator; the one that loses most time first."""
    operators = [_operator(name, nodes) for name in dict.fromkeys(row.operator for row in nodes)]
    return tuple(sorted(operators, key=lambda one: -one.lost_ms))


def short_operator(operator: str) -> str:
    """The operator without its domain."""
    return operator.rpartition(".")[2]


def brief_operator(operator: str) -> str:
    """The operator with its domain in two letters."""
    return operator.replace("com.microsoft.", "ms.").replace("ai.edgefold.", "ef.")


def operator_cells(one: OperatorGap) -> tuple[str, ...]:
    """What stands under `OPERATOR_HEADER`."""
    figures = (f"{round(time, 4):.3g}" for time in (one.floor_ms, one.time_ms, one.lost_ms))
    return (short_operator(one.operator), str(one.nodes), *figures)


def _operator(name: str, nodes: Sequence[NodeRow]) -> OperatorGap:
    its = [row for row in nodes if row.operator == name]
    floor, time = (sum(getattr(row, key) for row in its) / 1e3 for key in ("floor_us", "time_us"))
    lost = sum(max(row.time_us - row.floor_us, 0.0) for row in its) / 1e3
    return OperatorGap(name, len(its), floor, time, lost)
