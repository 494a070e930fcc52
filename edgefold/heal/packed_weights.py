# SPDX-License-Identifier: Apache-2.0
"""The packed weights of `ai.edgefold` nodes as something to train: latent floats, rounded to codes when stored.

A latent weight is the float that is moved by the gradient; what a node computes with is the nearest level of the
table that the weight's group of 32 chose (Hubara et al., 1609.07061, section 2). The choice of tables stays.

Training starts at random places that round to the codes, not at the levels: from there all weights of one direction
would reach the next level in the same step, each having moved by the learning rate at every one before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgefold.passes.quantization.codes import QuantizedMatrix
from edgefold.passes.quantization.packing import GROUP_DEPTH, pack_codes, unpack_codes, unpack_selectors
from edgefold.passes.quantization.selection import LevelLookup, cells_of

DOMAIN = "ai.edgefold"
QUANTIZED_LAYERS = ("ShiftMatMul", "ShiftConv", "FloatConv", "ShiftGather")
CODES, SELECTORS, TABLE, SCALES = 1, 2, 3, 4  # operands of each of them

SPREAD = 0.9  # share of the way to the middle between two levels; what lies in the middle rounds to either

Float = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class PackedWeights:
    """A stored matrix W [K, N] that `ai.edgefold` nodes read.

    Attributes:
        value: the initializer of the packed codes, by whose name the matrix goes.
        matrix: its content.
    """

    value: ir.Value
    matrix: QuantizedMatrix

    def latent(self) -> Float:
        """Where training starts: weights float32 [K, N] that round to the codes, spread over what does (seeded)."""
        matrix = self.matrix
        place = np.random.default_rng(0).uniform(-SPREAD, SPREAD, matrix.codes.shape).astype(np.float32)
        reach = _half_gaps(matrix.table)[(place > 0).astype(np.intp), _tables(matrix), matrix.codes]
        return (matrix.integers() + place * reach) * matrix.scales

    @property
    def spacing(self) -> float:
        """Distance from a level to the next, the root mean square over all weights."""
        matrix = self.matrix
        gaps = 2 * _half_gaps(matrix.table).mean(axis=(0, 2))
        return float(np.sqrt(np.square(gaps[matrix.selectors] * matrix.scales).mean()))

    def store(self, latent: Float) -> None:
        """Rounds latent weights [K, N] to codes and keeps them; a code whose level is the nearest stays as it is."""
        matrix = self.matrix
        scaled = np.divide(latent, np.where(matrix.scales > 0, matrix.scales, 1), dtype=np.float32)
        codes, levels = LevelLookup.of(matrix.table).nearest(cells_of(scaled), matrix.selectors)
        # A column of scale 0 is zero whatever its codes are, and stays so.
        moved = (levels != matrix.integers()) & (matrix.scales > 0)
        if moved.any():
            packed = pack_codes(np.where(moved, codes, matrix.codes), matrix.bits)
            self.value.const_value = ir.tensor(packed, name=self.value.name)


def packed_weights(model: ir.Model) -> dict[str, PackedWeights]:
    """The packed matrices of a model by the name of their codes, in the order of the graph.

    Codes that are read with different tables or scales are left out: they stand for several matrices.
    """
    found: dict[str, tuple[ir.Value | None, ...]] = {}
    packed: dict[str, PackedWeights] = {}
    ambiguous: set[str] = set()
    for node in _nodes(model):
        parts = tuple(node.inputs[CODES : SCALES + 1])
        codes, *rest = (None if part is None else part.const_value for part in parts)
        if codes is None or any(tensor is None for tensor in rest):
            continue
        name = str(parts[0].name) if parts[0] is not None else ""
        if found.setdefault(name, parts) != parts:
            ambiguous.add(name)
        elif name not in packed and parts[0] is not None:
            packed[name] = PackedWeights(parts[0], _matrix(node))
    return {name: weights for name, weights in packed.items() if name not in ambiguous}


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in model.graphs():
        yield from (node for node in graph if node.domain == DOMAIN and node.op_type in QUANTIZED_LAYERS)


def _matrix(node: ir.Node) -> QuantizedMatrix:
    codes, selectors, table, scales = (_array(node, position) for position in (CODES, SELECTORS, TABLE, SCALES))
    k, bits = int(node.attributes["k"].as_int()), int(node.attributes["bits"].as_int())
    return QuantizedMatrix(
        unpack_codes(codes, k, scales.size, bits),
        unpack_selectors(selectors, -(-k // GROUP_DEPTH), scales.size),
        table,
        scales,
        bits,
    )


def _array(node: ir.Node, position: int) -> NDArray[Any]:
    value = node.inputs[position]
    assert value is not None, "packed_weights looked"
    assert value.const_value is not None, "packed_weights looked"
    return value.const_value.numpy()


def _half_gaps(table: NDArray[np.int8]) -> Float:
    """From each level half the way to the one below, and to the one above: float32 [2, T, 2**bits].

    Beyond the last level it is as far as on its other side.
    """
    halves = np.empty((2, *table.shape), np.float32)
    for number, levels in enumerate(table.astype(np.float32)):
        distinct, positions = np.unique(levels, return_inverse=True)
        gaps = np.diff(distinct) / 2
        halves[0, number] = np.concatenate([gaps[:1], gaps])[positions]
        halves[1, number] = np.concatenate([gaps, gaps[-1:]])[positions]
    return halves


def _tables(matrix: QuantizedMatrix) -> NDArray[np.intp]:
    """The number of the table of each weight [K, N]."""
    return np.repeat(matrix.selectors.astype(np.intp), GROUP_DEPTH, axis=0)[: len(matrix.codes)]
