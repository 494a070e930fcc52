# SPDX-License-Identifier: Apache-2.0
"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgefold.heal.operators.node import Binding, BoundNode, Kernel


def _matmul(node: BoundNode) -> Kernel:
    del node
    return torch.matmul  # type: ignore[no-any-return]


def _gemm(node: BoundNode) -> Kernel:
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    turn_a, turn_b = node.integer("transA", 0), node.integer("transB", 0)

    def general(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = torch.matmul(a.t() if turn_a else a, b.t() if turn_b else b)
        product = product if alpha == 1.0 else alpha * product
        return product if c is None else product + (c if beta == 1.0 else beta * c)

    def linear(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        if c is not None and c.dim() != 1:
            return general(a, b, c)
        return functional.linear(a.t() if turn_a else a, b if turn_b else b.t(), c)

    return linear if alpha == 1.0 and beta == 1.0 else general


def _einsum(node: BoundNode) -> Kernel:
    equation = node.text("equation", "")
    return lambda *operands: torch.einsum(equation, *operands)


OPERATORS: Mapping[str, Binding] = {
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
