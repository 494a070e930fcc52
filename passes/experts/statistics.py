# SPDX-License-Identifier: Apache-2.0
"""What the choice of experts goes by: how often each one is chosen, how strongly, and how alike their outputs are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.experts.dispatch import Array
from edgefold.passes.experts.feed_forward import FeedForward

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]

_CHUNK_BYTES = 64 << 20  # of the outputs of all experts held at once
_TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of the E experts of one layer over calibration rows.

    Attributes:
        usage: float64 [E], share of all choices that fall on each expert.
        saliency: float64 [E], mean over the rows that choose the expert of gate times length of its output (REAP,
            arXiv 2510.13999, equation 9); 0 where no row does.
        similarity: float64 [E, E], mean over all rows of the cosine between the outputs of two experts (Sub-MoE, arXiv
            2506.23266, section 3.2); every expert sees every row.
        mean_outputs: float64 [E, n], mean output over all rows (HC-SMoE, arXiv 2410.08589, section 3.2.1).
        gated: float64 [E, E], mean over all rows of the inner product of two gated outputs.
    """

    usage: Vector
    saliency: Vector
    similarity: Matrix
    mean_outputs: Matrix
    gated: Matrix


def statistics(experts: Sequence[FeedForward], x: Array, gates: Array) -> Statistics:
    """Runs every expert on every row.

    Args:
        experts: of one layer.
        x: [rows, d].
        gates: [rows, E], 0 where an expert is not chosen.
    """
    count, width = len(experts), experts[0].outputs
    chosen, strength = (gates > 0).sum(axis=0).astype(np.float64), np.zeros(count)
    similarity, gated = np.zeros((count, count)), np.zeros((count, count))
    sums = np.zeros((count, width))
    for part in _chunks(len(x), count * width):
        outputs = np.stack([expert(x[part]) for expert in experts])  # [E, rows, n]
        lengths = np.linalg.norm(outputs, axis=2)
        strength += np.einsum("re,er->e", gates[part], lengths, dtype=np.float64)
        sums += outputs.sum(axis=1, dtype=np.float64)
        similarity += _inner(outputs / np.maximum(lengths, _TINY)[:, :, None])
        gated += _inner(outputs * gates[part].T[:, :, None])
    rows = max(1, len(x))
    return Statistics(
        chosen / max(chosen.sum(), 1), strength / np.maximum(chosen, 1), similarity / rows, sums / rows, gated / rows
    )


def logit_similarity(logits: Array) -> Matrix:
    """Cosines between the router's logits of two experts over all rows (M-SMoE, arXiv 2310.01334), float64 [E, E]."""
    columns: Matrix = logits.astype(np.float64) / np.maximum(np.linalg.norm(logits, axis=0), _TINY)
    return columns.T @ columns


def _inner(outputs: Array) -> Matrix:
    flat = outputs.reshape(len(outputs), -1)
    return (flat @ flat.T).astype(np.float64)


def _chunks(rows: int, row_elements: int) -> Iterator[slice]:
    step = max(1, _CHUNK_BYTES // (4 * row_elements))
    yield from (slice(start, start + step) for start in range(0, rows, step))
