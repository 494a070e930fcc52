# SPDX-License-Identifier: Apache-2.0
"""What the dependency analysis finds: groups of units that can be removed, where they live, and what stands in the way.

A *unit* is the smallest thing that can go: an output channel with everything coupled to it, an attention head, a hidden
neuron. A *group* is a set of units that live on the same axes of the same parameters, so that they can be compared and
any number of them may go. Structurally Prune Anything (2403.18955) calls a unit a coupled channel.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.intp]
AxisKey = tuple[str, int]
"""A value by name, in the main graph or in the body of an If, Loop or Scan, and one of its axes, counted from 0."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What two runs of a model showed: the second had other sizes for its dynamic dimensions, and other data.

    Attributes:
        shapes: of every value (initializers too) in the first run; in a body, where it first ran. Bodies that never ran
            have none. Under the name `runs_of`, one axis of as many entries as a body ran.
        values: in the first run, of small tensors (at most 4096 elements) that do not depend on data: integers and
            booleans, floats computed from shapes, initializers.
        varying: names in `values` whose elements were not the same in the second run, or each time that the body ran,
            and truth values computed from such.
        dynamic: axes whose length was not the same in the second run, or each time that the body ran.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, NDArray[Any]]
    varying: frozenset[str]
    dynamic: frozenset[AxisKey] = frozenset()

    def static(self, name: str) -> NDArray[Any] | None:
        """The value of a small tensor that does not depend on the data or on dynamic sizes, else None."""
        return None if name in self.varying else self.values.get(name)


def runs_of(node: str, attribute: str) -> str:
    """The name under which a trace holds how often the body of a node ran, as a vector of that length."""
    return f"{node}:{attribute}:runs"


class Role(enum.StrEnum):
    """What a parameter axis does with the channels of a group."""

    WRITER = "writer"  # the layer computes the channels: one slice a channel
    READER = "reader"  # the layer sums over the channels
    CHANNELWISE = "channelwise"  # one entry a channel: bias, normalization, slope, depthwise kernel, mask


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """One axis of one parameter on which units of a group lie.

    Attributes:
        node: name of the node that reads the parameter.
        parameter: name of the initializer.
        axis: of the parameter.
        role: what the axis does.
        units: int [length of the axis], the unit of the group that each index belongs to; -1 for none.
    """

    node: str
    parameter: str
    axis: int
    role: Role
    units: IntArray


class Exactness(enum.StrEnum):
    """Whether removing a unit equals setting it to zero wherever it is summed."""

    EXACT = "exact"
    STATISTICS = "statistics"  # a normalization's mean or variance runs over the units


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Units that lie on the same parameter axes.

    Attributes:
        name: the parameter of the first writer (else of the first slice) and its axis; unique.
        size: number of units.
        width: indices that one unit takes on the axis of the first slice (a head of 64 dimensions: 64).
        slices: on parameters, in the order of the graph.
        exactness: see Exactness.
        cause: the node that makes it STATISTICS.
    """

    name: str
    size: int
    width: int
    slices: tuple[Slice, ...]
    exactness: Exactness = Exactness.EXACT
    cause: str = ""

    def on(self, role: Role) -> tuple[Slice, ...]:
        """The slices of one role."""
        return tuple(one for one in self.slices if one.role == role)


@dataclasses.dataclass(frozen=True)
class Barrier:
    """A node that froze channels of parameters, with the reason as a user would want to read it."""

    node: str
    op_type: str
    why: str
    channels: int


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A node that multiplies and adds: the product of its axes' lengths is its MACs in the traced run.

    Attributes:
        node: its name.
        op_type: Conv, MatMul, Gemm, ...
        axes: whose lengths multiply to the MACs: all of the output's, then the ones summed over, then, in a body, how
            often it ran.
    """

    node: str
    op_type: str
    axes: tuple[AxisKey, ...]


Pruned = Mapping[str, IntArray]
"""Group name -> the units to remove, ascending."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dependencies:
    """The analysis of one model.

    Attributes:
        groups: in the order of the graph.
        barriers: nodes that froze channels, most channels first.
        contractions: in the order of the graph.
        kept: the indices, ascending, that stay on every axis that changes when units are removed, of activations and
            parameters alike.
    """

    groups: tuple[Group, ...]
    barriers: tuple[Barrier, ...]
    contractions: tuple[Contraction, ...]
    kept: Callable[[Pruned], Mapping[AxisKey, IntArray]]
