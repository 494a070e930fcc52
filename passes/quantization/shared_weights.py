# SPDX-License-Identifier: Apache-2.0
"""Weights that several nodes share, by name or by content, also transposed, are kept together."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgefold.passes._constants import feeds_graph_output, readers
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Skip, SkipReason
from edgefold.passes.quantization.codebook import LUT_TABLES
from edgefold.passes.quantization.codes import Method
from edgefold.passes.quantization.packing import packed_bytes

_BORDER_BYTES = 1024
"""What a small convolution may grow by: left float, it would make its neighbours leave the integers and come back."""


@dataclasses.dataclass(frozen=True)
class WeightGroup:
    """Nodes that apply one and the same matrix W [K, N], which is stored once.

    Attributes:
        sites: the nodes; never empty.
        bits: the widest width that one of them asks for.
        method: of the widest one; `shift` where `shift-lut` has no form for the width.
    """

    sites: tuple[WeightedNode, ...]
    bits: int
    method: Method

    @property
    def name(self) -> str:
        """Name of the stored tensor that the packed ones are named after."""
        return str(self.sites[0].weight.root.name)


def group_by_content(
    sites: Sequence[WeightedNode], bits: Mapping[ir.Node, int], methods: Mapping[ir.Node, Method]
) -> tuple[list[WeightGroup], list[Skip]]:
    """Groups nodes whose matrices are equal, and refuses those that packing would make larger.

    Matrices are compared by a hash of their content in the orientation [K, N], so it does not matter in how many
    tensors, which way round, or behind which views they are stored.
    """
    skips: list[Skip] = []
    by_digest: dict[tuple[int, int, bytes], list[WeightedNode]] = {}
    for site in _releasable(sites, skips):
        matrix = site.matrix()
        if not np.isfinite(matrix).all():
            detail = f"tensor {site.weight.root.name}"
            skips.append(Skip(site.label, SkipReason.NOT_FINITE, detail))
            continue
        digest = hashlib.blake2b(matrix.data, digest_size=16).digest()
        by_digest.setdefault((site.k, site.n, digest), []).append(site)
    groups = []
    for members in by_digest.values():
        widest = max(members, key=lambda site: bits[site.node])
        group = WeightGroup(tuple(members), bits[widest.node], method_at(methods[widest.node], bits[widest.node]))
        stored = sum({site.weight.root: site.weight.nbytes for site in members}.values())
        packed = packed_bytes(widest.k, widest.n, group.bits, _tables(group.method, group.bits))
        if packed >= stored + (_BORDER_BYTES if widest.kind == "conv" else 0):
            detail = f"{packed} bytes packed, {stored} now"
            skips.extend(Skip(site.label, SkipReason.WOULD_GROW, detail) for site in members)
        else:
            groups.append(group)
    return groups, skips


def method_at(method: Method, bits: int) -> Method:
    """The method that a width has: `shift` where `shift-lut` has none."""
    return "shift" if method == "shift-lut" and bits not in LUT_TABLES else method


def _tables(method: Method, bits: int) -> int:
    """How many tables a matrix has."""
    return {"rtn": 1, "shift": 9 - bits, "shift-lut": LUT_TABLES.get(bits, 1)}[method]


def _releasable(sites: Sequence[WeightedNode], skips: list[Skip]) -> list[WeightedNode]:
    """The nodes whose stored weights can go away with them; keeping both forms would make the file grow."""
    nodes = {site.node for site in sites}
    kept = []
    for site in sites:
        root = site.weight.root
        others = [node for node, _ in readers(root) if node not in nodes]
        if feeds_graph_output(root):
            skips.append(Skip(site.label, SkipReason.GRAPH_OUTPUT, f"tensor {root.name}"))
        elif others:
            detail = f"tensor {root.name} is read by {others[0].name or others[0].op_type}"
            skips.append(Skip(site.label, SkipReason.SHARED_WEIGHT, detail))
        else:
            kept.append(site)
    return kept
