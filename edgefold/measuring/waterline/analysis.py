# SPDX-License-Identifier: Apache-2.0
"""Waterline analysis (Lavin, arXiv 2404.03617): operations, bytes and floors of every node and block, beside its time.

A node's floor is the longer of two times: its operations at the machine's peak, and its bytes from the level of memory
that can hold them. Activations come from where they fit in, weights from where the weights of the whole model do, for
they are read once a run. A block's floor *unfused* is the sum of its nodes' floors; *fused* it is that of a single
kernel that reads the block's input and weights and writes its output: intensity that one layer has too much of then
serves another, as water finds one level in joined vessels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgefold.measuring.text_table import text_table
from edgefold.measuring.waterline.ceilings import Ceilings
from edgefold.measuring.waterline.node_times import RunNode
from edgefold.measuring.waterline.node_work import number, operations
from edgefold.measuring.waterline.operators import OPERATOR_HEADER, brief_operator, by_operator, operator_cells
from edgefold.measuring.waterline.spans import Span

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class NodeRow:
    """A node that ran.

    Attributes:
        node, operator: its name and type in the optimized graph.
        operations: two a multiply-accumulate; 0 where it only moves or maps elements.
        bytes: read and written: activations and stored weights.
        intensity: operations a byte.
        bound: what its floor is set by: "compute", or the level of memory.
        floor_us, time_us: microseconds.
        fraction: floor / time.
        block: number of the block it belongs to, as ``inspect`` counts them, the first where it computes layers of
            several; None outside of blocks.
    """

    node: str
    operator: str
    operations: int
    bytes: int
    intensity: float
    bound: str
    floor_us: float
    time_us: float
    fraction: float
    block: int | None


@dataclass(frozen=True)
class BlockRow:
    """A repeated residual block; or several that nodes which ran cannot be told apart by.

    Attributes:
        number, last: places among the blocks of the model, of the first and the last: equal where it is one.
        alone: whether no node of it computes layers outside of it too, whose share of the figures is unknown.
        nodes: how many of the nodes that ran are its.
        operations, bytes: sums over them; `fused_bytes` of one kernel for all, None where the sizes of what enters and
            leaves are unknown.
        floor_us, fused_floor_us, time_us: microseconds; the second is None where `fused_bytes` is.
        fraction: floor / time.
    """

    number: int
    last: int
    alone: bool
    nodes: int
    operations: int
    bytes: int
    fused_bytes: int | None
    floor_us: float
    fused_floor_us: float | None
    time_us: float
    fraction: float


@dataclass(frozen=True)
class Waterline:
    """A model beside its machine's ceilings.

    Attributes:
        model: the file.
        shapes: of the inputs.
        ceilings: of one core of this machine.
        nodes: in the order in which they ran.
        blocks: in order.
        floor_us, time_us: sums over the nodes.
        run_us: of a run without the profile, which counts whole microseconds and takes time itself; None where there
            was none.
    """

    model: str
    shapes: Mapping[str, tuple[int, ...]]
    ceilings: Ceilings
    nodes: tuple[NodeRow, ...]
    blocks: tuple[BlockRow, ...]
    floor_us: float
    time_us: float
    run_us: float | None = None

    @property
    def whole_us(self) -> float:
        """Of a run of the model: as it is without the profile, where that is known."""
        return self.time_us if self.run_us is None else self.run_us

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold inspect --waterline``."""
        return asdict(self)

    def to_text(self) -> str:
        """Ceilings, the blocks, the nodes that take most time, the operators, and the sum."""
        shown = sorted(self.nodes, key=lambda row: -row.time_us)[:_SHOWN]
        header = ("node", "operator", "Mop", "KB", "op/B", "bound by", "floor us", "time us", "of floor", "of time")
        rest = len(self.nodes) - len(shown)
        lines = [f"{self.model} at {_shapes_text(self.shapes)}, one thread", self.ceilings.to_text(), ""]
        if self.blocks:
            lines += [text_table(_BLOCK_HEADER, [_block_cells(row) for row in self.blocks]), *self._of_blocks(), ""]
        lines += [
            text_table(header, [_node_cells(row, self.time_us) for row in shown], left=2),
            *([f"... and {rest} more nodes"] if rest else []),
            "",
            text_table(OPERATOR_HEADER, [operator_cells(one) for one in by_operator(self.nodes)]),
            "",
            f"floor {self.floor_us:.0f} us of {self.whole_us:.0f} us in {len(self.nodes)} nodes: "
            f"{_percent(self.floor_us, self.whole_us)} of what one core of this machine could do",
        ]
        if self.time_us > _INFLATED * self.whole_us:
            lines.append(
                f"The nodes' times add up to {self.time_us:.0f} us: the profile counts whole microseconds and takes "
                "time itself, so that small nodes look slower than they are."
            )
        return "\n".join(lines)

    def _of_blocks(self) -> list[str]:
        """What the names of blocks in the table mean where they are no plain numbers."""
        lines = []
        if any(row.number != row.last for row in self.blocks):
            lines.append("A-B: blocks that share a node, so that their times are one.")
        if not all(row.alone for row in self.blocks):
            lines.append("*: a node of the block also computes layers outside of it, and counts in full.")
        return lines


_SHOWN = 30
_INFLATED = 1.1
_BLOCK_HEADER = ("block", "nodes", "Mop", "KB", "KB fused", "floor us", "fused floor us", "time us", "of floor")


def analyse(
    model: str,
    shapes: Mapping[str, tuple[int, ...]],
    ran: Sequence[RunNode],
    spans: Sequence[Span | None],
    limits: Ceilings,
) -> Waterline:
    """Sets what ran beside what the machine could do.

    Args:
        model: the file.
        shapes: of its inputs.
        ran: the nodes.
        spans: the block, or blocks, of each node.
        limits: the machine's ceilings.
    """
    weights = sum(one.weight_bytes for one in ran)
    rows = tuple(_row(one, span, weights, limits) for one, span in zip(ran, spans, strict=True))
    found = []
    for span in sorted({span for span in spans if span is not None}, key=lambda one: one.first):
        members = [at for at, its in enumerate(spans) if its == span]
        found.append(_block(span, [ran[at] for at in members], [rows[at] for at in members], weights, limits))
    floor, time = (sum(getattr(row, name) for row in rows) for name in ("floor_us", "time_us"))
    return Waterline(model, shapes, limits, rows, tuple(found), floor, time)


def _row(one: RunNode, span: Span | None, all_weights: int, limits: Ceilings) -> NodeRow:
    work = operations(one)
    compute = work / limits.operations(number(one))
    memory, level = _seconds(one.activation_bytes, one.weight_bytes, all_weights, limits)
    size = one.activation_bytes + one.weight_bytes
    floor = max(compute, memory)
    return NodeRow(
        node=one.name,
        operator=one.operator,
        operations=work,
        bytes=size,
        intensity=work / max(size, 1),
        bound="compute" if compute >= memory else level,
        floor_us=floor * 1e6,
        time_us=one.seconds * 1e6,
        fraction=min(floor / one.seconds, 1.0) if one.seconds else 1.0,
        block=None if span is None else span.first,
    )


def _seconds(activations: int, weights: int, all_weights: int, limits: Ceilings) -> tuple[float, str]:
    """Time to move a node's bytes, and the level that takes most of it."""
    moved = limits.level(activations)
    stored = limits.level(all_weights)
    parts = (activations / moved.bytes_per_second, weights / stored.bytes_per_second)
    return sum(parts), (moved if parts[0] >= parts[1] else stored).name


def _block(
    span: Span, members: Sequence[RunNode], rows: Sequence[NodeRow], all_weights: int, limits: Ceilings
) -> BlockRow:
    weights = sum(one.weight_bytes for one in members)
    fused_floor = None
    if span.border is not None:
        compute = sum(operations(one) / limits.operations(number(one)) for one in members)
        fused_floor = max(compute, _seconds(span.border, weights, all_weights, limits)[0]) * 1e6
    time = sum(row.time_us for row in rows)
    floor = sum(row.floor_us for row in rows)
    return BlockRow(
        number=span.first,
        last=span.last,
        alone=span.alone,
        nodes=len(rows),
        operations=sum(row.operations for row in rows),
        bytes=sum(row.bytes for row in rows),
        fused_bytes=None if span.border is None else span.border + weights,
        floor_us=floor,
        fused_floor_us=fused_floor,
        time_us=time,
        fraction=min(floor / time, 1.0) if time else 1.0,
    )


def _node_cells(row: NodeRow, total: float) -> tuple[str, ...]:
    name = row.node if len(row.node) <= 44 else f"...{row.node[-41:]}"
    return (
        name,
        brief_operator(row.operator),
        f"{row.operations / 1e6:.2f}" if row.operations else "-",
        f"{row.bytes / 1024:.0f}",
        f"{row.intensity:.1f}" if row.operations else "-",
        row.bound,
        f"{row.floor_us:.1f}",
        f"{row.time_us:.0f}",
        _percent(row.floor_us, row.time_us),
        _percent(row.time_us, total),
    )


def _block_cells(row: BlockRow) -> tuple[str, ...]:
    name = f"{row.number}" if row.number == row.last else f"{row.number}-{row.last}"
    fused = "-" if row.fused_bytes is None else f"{row.fused_bytes / 1024:.0f}"
    fused_floor = "-" if row.fused_floor_us is None else f"{row.fused_floor_us:.1f}"
    sizes = (f"{row.bytes / 1024:.0f}", fused)
    times = (f"{row.floor_us:.1f}", fused_floor, f"{row.time_us:.0f}")
    return (name if row.alone else f"{name}*", str(row.nodes), f"{row.operations / 1e6:.2f}", *sizes, *times,
            _percent(row.floor_us, row.time_us))  # fmt: skip


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())
