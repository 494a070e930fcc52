# SPDX-License-Identifier: Apache-2.0
"""Widths of their own for all matrices, so that a budget of bits buys the least error at the model's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir

from edgefold.passes.base import Context, Skip, SkipReason
from edgefold.passes.quantization.bit_allocation import allocate
from edgefold.passes.quantization.codes import Method
from edgefold.passes.quantization.sensitivity import Sensitivity, sensitivities
from edgefold.passes.quantization.shared_weights import WeightGroup, method_at

Weighting = Literal["size", "macs"]


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Groups with the widths that the budget buys.

    Attributes:
        groups: as given, in their order.
        table: a row a matrix that counts: its size, its width, and what each width would cost.
        skips: what had to be done in a simpler way.
    """

    groups: list[WeightGroup]
    table: tuple[Mapping[str, Any], ...]
    skips: list[Skip]


def mix_widths(
    model: ir.Model,
    groups: Sequence[WeightGroup],
    average: float,
    weighting: Weighting,
    context: Context,
    *,
    methods: Mapping[ir.Node, Method],
    fixed: frozenset[ir.Node],
) -> Mixed:
    """Chooses the width of every matrix but those of embeddings.

    Args:
        model: as it is before any of them is quantized.
        groups: matrices with the widths that they have otherwise.
        average: bits of a weight, or of a weight of a multiply-accumulate, that may be spent on average.
        weighting: which of the two.
        context: its calibration data tell what the outputs are sensitive to.
        methods: of the nodes.
        fixed: nodes whose width stays, and counts.
    """
    counted = [group for group in groups if any(site.kind != "gather" for site in group.sites)]
    measured, skips = sensitivities(model, counted, [methods[group.sites[0].node] for group in counted], context)
    if weighting == "macs" and not any(row.macs for row in measured):
        skips.append(Skip("model", SkipReason.FALLBACK, "multiply-accumulates are not known: weights are counted"))
        weighting = "size"
    rows = [
        _row(row, group, stays=any(site.node in fixed for site in group.sites))
        for group, row in zip(counted, measured, strict=True)
    ]
    found = _widths(rows, average, weighting)
    widths = dict(zip(map(id, counted), found, strict=True))
    mixed = [_at(group, widths[id(group)], methods) if id(group) in widths else group for group in groups]
    table = tuple({**row, "bits": bits} for row, bits in zip(rows, found, strict=True))
    return Mixed(mixed, table, skips)


def widths_for(table: Sequence[Mapping[str, Any]], average: float, weighting: Weighting) -> dict[str, int]:
    """The width of every node that a table of `mix_widths` names, for another budget."""
    found = _widths(table, average, weighting)
    return {node: bits for row, bits in zip(table, found, strict=True) for node in row["nodes"]}


def _widths(rows: Sequence[Mapping[str, Any]], average: float, weighting: Weighting) -> list[int]:
    sizes = [row["macs" if weighting == "macs" else "weights"] for row in rows]
    errors = [
        {row["bits"]: 0.0} if row["fixed"] else {int(bits): error for bits, error in row["errors"].items()}
        for row in rows
    ]
    return allocate(errors, sizes, average)


def _at(group: WeightGroup, bits: int, methods: Mapping[ir.Node, Method]) -> WeightGroup:
    return dataclasses.replace(group, bits=bits, method=method_at(methods[group.sites[0].node], bits))


def _row(row: Sensitivity, group: WeightGroup, *, stays: bool) -> dict[str, Any]:
    """For JSON, whose keys are text."""
    return {
        "nodes": [site.label for site in group.sites],
        "weights": row.weights,
        "macs": row.macs,
        "bits": group.bits,
        "fixed": stays,
        "errors": {str(width): float(f"{error:.4g}") for width, error in row.errors.items()},
    }
