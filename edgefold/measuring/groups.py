# SPDX-License-Identifier: Apache-2.0
"""What prune-channels could remove from a model: its groups, their share of the work, and what holds the rest."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefold.measuring.svg import check_name, write
from edgefold.measuring.text_table import text_table
from edgefold.random_feeds import check_shapes

if TYPE_CHECKING:
    from edgefold.files.loading import LoadedModel
    from edgefold.passes.pruning.groups import Dependencies, Group

_NAMED_NODES = 2


@dataclass(frozen=True)
class GroupRow:
    """A group of units that may go.

    Attributes:
        name: a parameter and its axis, which identify the group.
        kind: channels, heads or dims.
        units: how many.
        width: channels that one unit takes.
        writers, readers: names of the layers that compute and that sum over the channels.
        exactness: `exact`, or `statistics` where a normalization averages over the units.
        cause: the node that makes it `statistics`.
        macs: share of the model's multiply-accumulates that go when all units but one do.
    """

    name: str
    kind: str
    units: int
    width: int
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    exactness: str
    cause: str
    macs: float


@dataclass(frozen=True)
class BarrierRow:
    """A node that holds channels, and why."""

    node: str
    operator: str
    why: str
    channels: int


@dataclass(frozen=True)
class GroupListing:
    """The groups of a model.

    Attributes:
        model: the file.
        groups: in the order of the graph.
        barriers: most channels first.
        units: of all groups.
        macs: share of the multiply-accumulates that go when each exact group keeps one unit.
        picture: the file that shows the groups, where one was asked for.
    """

    model: str
    groups: tuple[GroupRow, ...]
    barriers: tuple[BarrierRow, ...]
    units: int
    macs: float
    picture: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold inspect --groups``."""
        return asdict(self)

    def to_text(self) -> str:
        """The groups as a table, then what holds the channels that are in none."""
        count = len(self.groups)
        lines = [
            f"{self.model}: {count} group{'' if count == 1 else 's'} of {self.units} units; with one unit left in each "
            f"exact group, {100 * self.macs:.1f} % of the multiply-accumulates would go"
        ]
        if self.groups:
            header = ("group", "kind", "exact", "units", "width", "MACs", "written by -> read by")
            lines += ["", text_table(header, [_cells(row) for row in self.groups], left=3, notes=True)]
        lines += ["", "Channels of no group are held by:" if self.barriers else "No channel is held by an operator."]
        lines += [f"  {row.node} ({row.operator}): {row.why}; {row.channels} channels" for row in self.barriers]
        return "\n".join([*lines, *([f"Picture: {self.picture}"] if self.picture else [])])


def list_groups(
    loaded: LoadedModel, shapes: Mapping[str, tuple[int, ...]] | None = None, picture: str | None = None
) -> GroupListing:
    """Finds the groups of a model, which runs twice for it on small random inputs.

    Args:
        loaded: the model.
        shapes: sizes of inputs with dynamic dimensions; guessed where nothing is given.
        picture: SVG file to write.

    Raises:
        ModelError: the model does not run.
        UsageError: a shape for an input that does not exist, or one that contradicts the model; `picture` has another
            ending than .svg.
    """
    from edgefold.measuring.groups_picture import draw
    from edgefold.passes.pruning.analysis import Analysis
    from edgefold.passes.pruning.budget import macs
    from edgefold.passes.pruning.groups import Exactness
    from edgefold.probing import probe

    check_name(picture)
    check_shapes({value.name or "": value.shape for value in loaded.model.graph.inputs}, shapes or {})
    known = Analysis.of(loaded.model.clone(), functools.partial(probe, shapes=shapes))
    dependencies = known.dependencies
    cost = macs(dependencies, known.trace)
    whole = max(cost({}), 1.0)

    def share(groups: Sequence[Group]) -> float:
        return 1 - cost(dependencies.kept({group.name: np.arange(1, group.size) for group in groups})) / whole

    if picture is not None:
        write(picture, draw(dependencies))
    return GroupListing(
        model=str(loaded.path),
        groups=tuple(_row(group, share([group])) for group in dependencies.groups),
        barriers=_barriers(dependencies),
        units=sum(group.size for group in dependencies.groups),
        macs=share([group for group in dependencies.groups if group.exactness == Exactness.EXACT]),
        picture=picture or "",
    )


def _row(group: Group, share: float) -> GroupRow:
    from edgefold.passes.pruning.groups import Role
    from edgefold.passes.pruning.outcome import kind_of

    writers, readers = (tuple(dict.fromkeys(one.node for one in group.on(role))) for role in (Role.WRITER, Role.READER))
    return GroupRow(
        group.name, kind_of(group), group.size, group.width, writers, readers, str(group.exactness), group.cause, share
    )


def _barriers(dependencies: Dependencies) -> tuple[BarrierRow, ...]:
    return tuple(BarrierRow(one.node, one.op_type, one.why, one.channels) for one in dependencies.barriers)


def _cells(row: GroupRow) -> tuple[str, ...]:
    exact = "yes" if row.exactness == "exact" else f"no: {row.cause}"
    layers = f"{_short(row.writers)} -> {_short(row.readers)}"
    return row.name, row.kind, exact, str(row.units), str(row.width), f"{100 * row.macs:.1f} %", layers


def _short(nodes: Sequence[str]) -> str:
    more = len(nodes) - _NAMED_NODES
    return ", ".join(nodes[:_NAMED_NODES]) + (f" and {more} more" if more > 0 else "") or "-"
