# SPDX-License-Identifier: Apache-2.0
"""Blocks share the first factor of their matrices: ``x W_l`` becomes ``(x D) C_l`` with D stored once for a group.

Unlike one matrix for several blocks this saves time too, for each product gets smaller. Where a basis of its own at the
same bytes serves a block better, as it mostly does where inputs differ, it gets that: independent whitened low rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._constants import remove_if_unread
from edgefold.passes._initializers import InitializerStore
from edgefold.passes._layer_inputs import Inputs
from edgefold.passes._moments import Moments
from edgefold.passes._weighted_nodes import WeightedNode, layer_inputs
from edgefold.passes.base import Calibrates, Edit, Notes, Skip, SkipReason
from edgefold.passes.depth.sharing.atoms import Mixtures, mixtures
from edgefold.passes.depth.sharing.factors import affordable_rank, relative_error, shared_basis
from edgefold.passes.depth.sharing.mixing import mix
from edgefold.passes.depth.sharing.places import Place, SharingStack
from edgefold.passes.depth.sharing.refit import Level

Matrix = NDArray[np.float64]
Bases = Literal["best", "shared", "own"]


@dataclasses.dataclass(frozen=True)
class Factored:
    """What was factored.

    Attributes:
        notes: edits, skips, and the figures of the factors.
        levels: the second factors, in the order of the graph, for a refit.
    """

    notes: Notes
    levels: list[Level]


@dataclasses.dataclass(frozen=True)
class _Factors:
    """Bases, and for each layer its basis, coefficients and relative error; atoms that are mixed beside them."""

    bases: list[Matrix]
    layers: list[tuple[int, Matrix, float]]
    mixed: Mixtures | None = None

    @property
    def error(self) -> float:
        return float(np.mean([error for _, _, error in self.layers]))

    @property
    def common(self) -> int:
        """How many matrices layers share."""
        return len(self.mixed.atoms) if self.mixed else len(self.bases) if len(self.bases) < len(self.layers) else 0


def factor(
    graph: ir.Graph,
    groups: Sequence[tuple[SharingStack, tuple[int, ...]]],
    keep: float,
    bases: Bases | Literal["atoms"],
    original: Calibrates,
) -> Factored:
    """Factors the matrices of blocks, group by group.

    Args:
        graph: changed in place.
        groups: blocks of a stack whose matrices at the same place share a basis; one block alone has its own.
        keep: fraction of the bytes of each matrix that the factors store.
        bases: what groups do: share, or not, or what leaves the smaller error; or they share whole matrices, of which
            each layer is a mixture beside factors of its own.
        original: statistics of the unchanged model.
    """
    store = InitializerStore(graph)
    edits: list[Edit] = []
    skips: list[Skip] = []
    errors: list[float] = []
    shared = 0
    nodes: list[ir.Node] = []
    for stack, blocks in groups:
        moments = original.moments([_inputs(site) for place in stack.places for site in _sites(place, stack, blocks)])
        for place in stack.places:
            sites = _sites(place, stack, blocks)
            refusal = _refusal(place, sites, blocks, keep)
            if refusal is not None:
                skips.append(refusal)
                continue
            found = _best(sites, moments, keep, bases)
            if bases == "atoms" and len(sites) > 1 and found.mixed is None:
                why = "keep leaves no room for an atom of these blocks: factors of their own instead"
                skips.append(Skip(str(place.values[0].name), SkipReason.FALLBACK, why))
            shared += found.common
            errors += [error for _, _, error in found.layers]
            edits += _replace(graph, store, sites, found)
            nodes += [site.node for site in sites]
    order = {node: index for index, node in enumerate(graph)}
    stats: dict[str, float | int | str] = {"factored": len(nodes)}
    stats["atoms" if bases == "atoms" else "shared_bases"] = shared
    if errors:
        stats["factor_error"] = round(float(np.mean(errors)), 6)
    return Factored(
        Notes(tuple(edits), tuple(skips), stats), [[[node]] for node in sorted(nodes, key=order.__getitem__)]
    )


def _sites(place: Place, stack: SharingStack, blocks: tuple[int, ...]) -> list[WeightedNode]:
    return [site for number in blocks for site in place.sites(number - stack.first)]


def _refusal(place: Place, sites: Sequence[WeightedNode], blocks: tuple[int, ...], keep: float) -> Skip | None:
    """Why the matrices at a place stay whole; None where each block multiplies by its own once."""
    name = str(place.values[0].name)
    if len(sites) != len(blocks) or any(site.geometry or site.on_left or site.weight.views for site in sites):
        return Skip(name, SkipReason.NOT_APPLICABLE, "only products x W have factors")
    if affordable_rank(sites[0].k, [site.n for site in sites], keep) == 0:
        return Skip(name, SkipReason.WOULD_GROW, "too small for factors")
    return None


def _best(
    sites: Sequence[WeightedNode],
    moments: Mapping[Inputs, Moments],
    keep: float,
    bases: Bases | Literal["atoms"],
) -> _Factors:
    """Factors with one basis for all layers, or with one for each, or beside atoms: as asked for, or what is better."""
    if bases == "atoms" and len(sites) > 1:
        matrices = [site.matrix().astype(np.float64) for site in sites]
        mixed = mixtures(matrices, [moments[_inputs(site)].xtx[0] for site in sites], keep)
        if mixed is not None:
            layers = [(index, up, mixed.errors[index]) for index, (_, up) in enumerate(mixed.own)]
            return _Factors([down for down, _ in mixed.own], layers, mixed)
    tried = []
    if bases in ("best", "shared") or len(sites) == 1:
        tried.append(_solved([list(range(len(sites)))], sites, moments, keep))
    if bases != "shared" and len(sites) > 1:
        tried.append(_solved([[index] for index in range(len(sites))], sites, moments, keep))
    return min(tried, key=lambda one: one.error)


def _solved(
    parts: Sequence[Sequence[int]], sites: Sequence[WeightedNode], moments: Mapping[Inputs, Moments], keep: float
) -> _Factors:
    found: list[Matrix] = []
    layers: list[tuple[int, Matrix, float]] = []
    for part in parts:
        matrices = [sites[index].matrix().astype(np.float64) for index in part]
        grams = [moments[_inputs(sites[index])].xtx[0] for index in part]
        rank = affordable_rank(sites[0].k, [sites[index].n for index in part], keep)
        basis, coefficients = shared_basis(matrices, grams, rank)
        layers += [
            (len(found), own, relative_error(matrix, gram, basis, own))
            for matrix, gram, own in zip(matrices, grams, coefficients, strict=True)
        ]
        found.append(basis)
    return _Factors(found, layers)


def _inputs(site: WeightedNode) -> Inputs:
    inputs = layer_inputs(site)
    assert inputs is not None, "places leave lookups out"
    return inputs


def _replace(
    graph: ir.Graph, store: InitializerStore, sites: Sequence[WeightedNode], found: _Factors
) -> Iterator[Edit]:
    """Puts a product with the basis before each node, its coefficients in the place of its weights, atoms beside it."""
    dtype = sites[0].weight.dtype.numpy()
    read = [site.data for site in sites]
    bases: dict[int, ir.Value] = {}
    for site, (index, coefficients, error) in zip(sites, found.layers, strict=True):
        name = str(site.weight.root.name)
        if index not in bases:
            bases[index] = store.add_own(f"{name}.basis", np.ascontiguousarray(found.bases[index], dtype=dtype))
        down = ir.node("MatMul", [site.data, bases[index]], name=f"{site.label}_basis")
        down.outputs[0].name, down.outputs[0].dtype = f"{down.name}_output", site.weight.dtype
        graph.insert_before(site.node, down)
        array = (coefficients if site.stored == "kn" else coefficients.T) / site.alpha
        stored = store.add_own(f"{name}.coefficients", np.ascontiguousarray(array, dtype=dtype))
        site.node.replace_input_with(site.operand, down.outputs[0])
        site.node.replace_input_with(1 - site.operand, stored)
        remove_if_unread(site.weight)
        yield Edit(site.label, f"rank {coefficients.shape[0]}, basis {bases[index].name}, error {error:.3g}")
    if found.mixed is not None:
        mix(graph, store, list(zip(sites, read, strict=True)), found.mixed.atoms, found.mixed.shares)
