# SPDX-License-Identifier: Apache-2.0
"""Many weight matrices of a model in low rank, at ranks that share one budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._layer_inputs import Inputs
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason
from edgefold.passes.factoring.nodes import factor
from edgefold.passes.factoring.ranks import Choices, by_error, uniform
from edgefold.passes.factoring.spectra import Spectrum

Ranks = Literal["error", "uniform"]

_MOMENT_BYTES = 192 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""


def factor_matrices(
    graph: ir.Graph,
    sites: Sequence[WeightedNode],
    share: float,
    calibration: Calibrates | None,
    *,
    work: Sequence[float],
    ranks: Ranks = "error",
    harm: Sequence[float] | None = None,
) -> Notes:
    """Puts two thin products in the place of one, in place, where the budget allows fewer numbers.

    Args:
        graph: of the nodes.
        sites: nodes with matrices that may be factored.
        share: of the cost of all of them that stays.
        calibration: gives the second moments that inputs are weighed by; None weighs all alike.
        work: what one weight of each matrix counts towards the budget.
        ranks: see `LowRank`.
        harm: what a relative error of each matrix counts, where not all count alike.
    """
    found = list(_spectra(sites, calibration))
    choices = [
        Choices(site.k * site.n * one, (site.k + site.n) * one, spectrum.errors() * weight)
        for site, spectrum, one, weight in zip(sites, found, work, harm or [1.0] * len(sites), strict=True)
    ]
    budget = share * sum(one.whole for one in choices)
    chosen = (by_error if ranks == "error" else uniform)(choices, budget) if share < 1 else [None] * len(sites)
    edits, skips = _factor(graph, sites, found, choices, chosen)
    return Notes(tuple(edits), tuple(skips), _stats(sites, found, chosen))


def _spectra(sites: Sequence[WeightedNode], calibration: Calibrates | None) -> Iterator[Spectrum]:
    """The spectrum of each matrix, a portion of second moments at a time."""
    for portion in _portions(sites):
        requests: list[Inputs | None] = [layer_inputs(site) for site in portion]
        moments = calibration.moments([one for one in requests if one is not None]) if calibration else {}
        for site, request in zip(portion, requests, strict=True):
            yield Spectrum.of(site.matrix().astype(np.float64), moments[request].xtx[0] if moments else None)


def _portions(sites: Sequence[WeightedNode]) -> Iterator[list[WeightedNode]]:
    ends = itertools.accumulate(8 * site.k**2 for site in sites)
    for _, portion in itertools.groupby(zip(sites, ends, strict=True), lambda pair: pair[1] // _MOMENT_BYTES):
        yield [site for site, _ in portion]


def _factor(
    graph: ir.Graph,
    sites: Sequence[WeightedNode],
    found: Sequence[Spectrum],
    choices: Sequence[Choices],
    chosen: Sequence[int | None],
) -> tuple[list[Edit], list[Skip]]:
    edits: list[Edit] = []
    skips: list[Skip] = []
    store = InitializerStore(graph)
    for site, spectrum, choice, rank in zip(sites, found, choices, chosen, strict=True):
        if rank is None:
            why = "it has no rank that costs less" if choice.most < 1 else "its weights are worth their cost"
            skips.append(
                Skip(site.label, SkipReason.WOULD_GROW if choice.most < 1 else SkipReason.NOTHING_TO_GAIN, why)
            )
            continue
        factor(site, *spectrum.factors(site.matrix().astype(np.float64), rank), store)
        edits.append(Edit(site.label, f"rank {rank} of {min(site.k, site.n)}: error {spectrum.errors()[rank]:.3g}"))
    return edits, skips


def _stats(
    sites: Sequence[WeightedNode], found: Sequence[Spectrum], chosen: Sequence[int | None]
) -> dict[str, float | int | str]:
    if not sites:
        return {}
    pairs = list(zip(sites, chosen, strict=True))
    errors = [0.0 if rank is None else float(one.errors()[rank]) for one, rank in zip(found, chosen, strict=True)]
    return {
        "matrices": len(sites),
        "factored": sum(rank is not None for rank in chosen),
        "weights_before": sum(site.k * site.n for site in sites),
        "weights_after": sum(site.k * site.n if rank is None else (site.k + site.n) * rank for site, rank in pairs),
        "error": float(np.mean(errors)),
    }
