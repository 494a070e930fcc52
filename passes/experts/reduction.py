# SPDX-License-Identifier: Apache-2.0
"""The two ways to fewer experts in a layer, merging and pruning, behind one face: fit, judge, write."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
import onnx_ir as ir

from edgefold.passes.experts.alignment import match_activations, match_weights
from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.dispatched import DispatchedLayer, replace_dispatched
from edgefold.passes.experts.evidence import Evidence
from edgefold.passes.experts.feed_forward import FeedForward, average, layer_output
from edgefold.passes.experts.grouping import Groups
from edgefold.passes.experts.refit import gated, joint, plain
from edgefold.passes.experts.router import Mask, keep_gates, membership, sum_gates

Align = Literal["none", "weights", "activations"]
Average = Literal["mean", "frequency"]
Refit = Literal["none", "plain", "gated", "joint"]

_TINY = 1e-30


class Reduction(Protocol):
    """A way to fewer experts in one layer.

    Attributes:
        name: in reports.
        evidence: of the layer; for pruning, with the gates of those that stay only.
    """

    name: ClassVar[str]

    @property
    def evidence(self) -> Evidence: ...

    def fit(self, evidence: Evidence) -> list[FeedForward]:
        """The new experts, fitted on some rows."""

    def gates(self, evidence: Evidence) -> Array:
        """Their gates on some rows, [rows, M]."""

    def write(self, graph: ir.Graph, layer: DispatchedLayer, experts: Sequence[FeedForward]) -> None:
        """Puts the new experts, and the gates for them, into the graph."""

    def discard(self) -> None:
        """Undoes what was prepared in the graph, where another way is taken."""

    def __str__(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Merging:
    """Every group of experts becomes one: aligned to the most used member, averaged, its last matrix solved anew."""

    name: ClassVar[str] = "merge"

    experts: Sequence[FeedForward]
    groups: Groups
    evidence: Evidence
    align: Align = "activations"
    average: Average = "frequency"
    refit: Refit = "joint"

    def fit(self, evidence: Evidence) -> list[FeedForward]:
        merged = [self._merged(group, evidence) for group in self.groups]
        if self.refit == "joint":
            return joint(merged, self.gates(evidence), evidence.x, evidence.wanted)
        return merged

    def gates(self, evidence: Evidence) -> Array:
        return np.asarray(evidence.gates @ membership(self.groups))

    def write(self, graph: ir.Graph, layer: DispatchedLayer, experts: Sequence[FeedForward]) -> None:
        gates = sum_gates(graph, layer.gates, self.groups)
        replace_dispatched(graph, layer, gates, [one.weights for one in experts])

    def discard(self) -> None:
        """Nothing was prepared."""

    def __str__(self) -> str:
        return "merged " + " ".join("+".join(map(str, group)) for group in self.groups)

    def _merged(self, group: tuple[int, ...], evidence: Evidence) -> FeedForward:
        if len(group) == 1:
            return self.experts[group[0]]
        gates = evidence.gates[:, list(group)]
        usage = (gates > 0).sum(axis=0).astype(np.float64)
        x = evidence.x[gates.any(axis=1)]
        members = self._aligned([self.experts[number] for number in group], int(np.argmax(usage)), x)
        shares = usage if self.average == "frequency" else np.ones(len(group))
        merged = average(members, shares)
        if self.refit == "gated":
            return gated(merged, members, gates, evidence.x)
        return plain(merged, members, shares, evidence.x) if self.refit == "plain" else merged

    def _aligned(self, members: Sequence[FeedForward], reference: int, x: Array) -> list[FeedForward]:
        """The members with their hidden units in the order of the one that all others are matched to."""
        if self.align == "none":
            return list(members)
        match, seen = (
            (match_weights, [one.units() for one in members])
            if self.align == "weights"
            else (match_activations, [one.hidden(x) for one in members])
        )
        return [
            one if number == reference else one.permuted(match(seen[reference], seen[number]))
            for number, one in enumerate(members)
        ]


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Some experts go, and the router chooses among the rest; the last matrices of these may be solved anew."""

    name: ClassVar[str] = "prune"

    experts: Sequence[FeedForward]
    kept: tuple[int, ...]
    evidence: Evidence
    mask: Mask
    refit: bool = True

    def fit(self, evidence: Evidence) -> list[FeedForward]:
        stay = [self.experts[number] for number in self.kept]
        return joint(stay, evidence.gates, evidence.x, evidence.wanted) if self.refit else stay

    def gates(self, evidence: Evidence) -> Array:
        return evidence.gates

    def write(self, graph: ir.Graph, layer: DispatchedLayer, experts: Sequence[FeedForward]) -> None:
        self.mask.keep(self.kept)
        gates = keep_gates(graph, layer.gates, self.kept)
        replace_dispatched(graph, layer, gates, [one.weights for one in experts])

    def discard(self) -> None:
        self.mask.remove()

    def __str__(self) -> str:
        return "kept " + " ".join(map(str, self.kept))


def held_out_error(reduction: Reduction) -> float:
    """Relative error of the layer's output on the second half of the rows, fitted on the first."""
    first, second = reduction.evidence.halves()
    return relative_error(reduction.fit(first), reduction.gates(second), second)


def relative_error(experts: Sequence[FeedForward], gates: Array, evidence: Evidence) -> float:
    """Squared error of a layer's output over the energy of what is wanted; gates are [rows, len(experts)]."""
    error = np.square(layer_output(experts, gates, evidence.x) - evidence.wanted).sum(dtype=np.float64)
    return float(error / max(np.square(evidence.wanted).sum(dtype=np.float64), _TINY))
