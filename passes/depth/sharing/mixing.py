# SPDX-License-Identifier: Apache-2.0
"""Mixtures of shared atoms as nodes: ``x W_l`` becomes ``sum_s c_ls (x D_s) + (x U_l) V_l``.

Each atom is one initializer that products with activations read, so that ``quantize`` packs it once, ``heal`` trains it
once, and the memory of ONNX Runtime shrinks with the file. Mixed into ``W_l`` before any product, from constants, they
would be folded when the file is loaded: dense matrices in memory, none that ``quantize`` could pack.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes._initializers import InitializerStore
from edgefold.passes._weighted_nodes import WeightedNode, weighted_node
from edgefold.passes.depth.sharing.corrections import behind

Matrix = NDArray[np.float64]


def mix(
    graph: ir.Graph,
    store: InitializerStore,
    uses: Sequence[tuple[WeightedNode, ir.Value]],
    atoms: Matrix,
    shares: Matrix,
) -> None:
    """Adds its share of every atom to what each layer gives.

    Args:
        graph: changed in place.
        store: of the graph.
        uses: each layer, which multiplies by its own product already, and the value that the atoms multiply.
        atoms: [S, K, N].
        shares: [L, S].
    """
    dtype = uses[0][0].weight.dtype
    name = uses[0][0].weight.root.name

    def stored(what: str, array: Matrix) -> ir.Value:
        return store.add_own(what, np.ascontiguousarray(array, dtype=dtype.numpy()))

    kept = [stored(f"{name}.atom{number}", atom) for number, atom in enumerate(atoms)]
    for (site, data), row in zip(uses, shares, strict=True):
        nodes: list[ir.Node] = []
        terms: list[ir.Value] = []
        for number, (atom, share) in enumerate(zip(kept, row, strict=True)):
            nodes.append(_node("MatMul", [data, atom], f"{site.label}_atom{number}", dtype))
            scaled = [nodes[-1].outputs[0], stored(f"{site.label}.share{number}", share)]
            nodes.append(_node("Mul", scaled, f"{site.label}_share{number}", dtype))
            terms.append(nodes[-1].outputs[0])
        total = terms[0]
        for number, term in enumerate(terms[1:], 1):
            nodes.append(_node("Add", [total, term], f"{site.label}_sum{number}", dtype))
            total = nodes[-1].outputs[0]
        graph.insert_before(site.node, nodes)
        now = weighted_node(site.node)
        assert isinstance(now, WeightedNode)
        behind(graph, now.output, "Add", total, f"{site.label}_of_atoms")


def _node(op_type: str, inputs: Sequence[ir.Value], name: str, dtype: ir.DataType) -> ir.Node:
    node = ir.node(op_type, inputs, name=name)
    node.outputs[0].name, node.outputs[0].dtype = f"{name}_output", dtype
    return node
