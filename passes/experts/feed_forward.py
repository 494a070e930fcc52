# SPDX-License-Identifier: Apache-2.0
"""One expert as a function: a feed-forward layer with one hidden layer, gated or not, in numpy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefold.passes.experts.activation import Expression, evaluate
from edgefold.passes.experts.dispatch import Array, Expert, Product


@dataclasses.dataclass(frozen=True, eq=False)
class FeedForward:
    """An expert that can be run.

    Attributes:
        weights: its products, [in, out] each: d inputs, f hidden units, n outputs.
        activation: of the hidden units, over the products that read the input.
    """

    weights: Expert
    activation: Expression

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return int(self.weights.down.weight.shape[0])

    @property
    def outputs(self) -> int:
        """Length of an output row."""
        return int(self.weights.down.weight.shape[1])

    @property
    def unit_weights(self) -> int:
        """Numbers of all matrices that belong to one hidden unit."""
        return sum(int(product.weight.shape[0]) for product in self.weights.inputs) + self.outputs

    def hidden(self, x: Array) -> Array:
        """What the hidden units give for rows x [rows, d], [rows, f]."""
        values = [_apply(product, x) for product in self.weights.inputs]
        return evaluate(self.activation, values, x.dtype).astype(x.dtype, copy=False)

    def __call__(self, x: Array) -> Array:
        """Outputs for rows x [rows, d], [rows, n]."""
        return _apply(self.weights.down, self.hidden(x))

    def units(self) -> Array:
        """All weights of each hidden unit in a row, [f, inputs' weights and biases, then outputs' weights]."""
        firsts = [product.weight.T for product in self.weights.inputs]
        biases = [product.bias[:, None] for product in self.weights.inputs if product.bias is not None]
        return np.concatenate([*firsts, *biases, self.weights.down.weight], axis=1)

    def permuted(self, order: NDArray[np.intp]) -> FeedForward:
        """The same function with its hidden units in another order."""
        return self.of_units(order, bias=True)

    def of_units(self, units: NDArray[np.intp], *, bias: bool) -> FeedForward:
        """What some of the hidden units give, with or without the bias behind the last matrix."""
        firsts = tuple(
            Product(product.weight[:, units], None if product.bias is None else product.bias[units])
            for product in self.weights.inputs
        )
        return self._with(firsts, Product(self.weights.down.weight[units], self.weights.down.bias if bias else None))

    def last(self) -> NDArray[np.float64]:
        """The last matrix with its bias, if it has one, as one more row: float64 [f or f + 1, n]."""
        down = self.weights.down
        rows = [down.weight] if down.bias is None else [down.weight, down.bias[None]]
        return np.concatenate(rows).astype(np.float64)

    def with_last(self, last: NDArray[np.float64]) -> FeedForward:
        """The same hidden units with another last matrix, in the form of `last`."""
        down = self.weights.down
        rows = last.astype(down.weight.dtype)
        bias = None if down.bias is None else rows[self.width]
        return self._with(self.weights.inputs, Product(np.ascontiguousarray(rows[: self.width]), bias))

    def _with(self, inputs: tuple[Product, ...], down: Product) -> FeedForward:
        return dataclasses.replace(self, weights=Expert(inputs, down))


def average(experts: Sequence[FeedForward], shares: NDArray[np.float64]) -> FeedForward:
    """The expert whose every weight is the weighted mean of those given.

    Args:
        experts: of equal form.
        shares: float64 [len(experts)], not negative; all count alike where their sum is 0.
    """
    weights = shares / shares.sum() if shares.sum() > 0 else np.full(len(experts), 1 / len(experts))
    mean = functools.partial(_mean_product, shares=weights)
    firsts = zip(*(expert.weights.inputs for expert in experts), strict=True)
    merged = Expert(tuple(map(mean, firsts)), mean([expert.weights.down for expert in experts]))
    return dataclasses.replace(experts[0], weights=merged)


def layer_output(experts: Sequence[FeedForward], gates: Array, x: Array) -> Array:
    """The sum of the experts' outputs by their gates, [rows, n]; rows with gate 0 are not computed.

    Args:
        experts: M of them.
        gates: [rows, M].
        x: [rows, d].
    """
    total = np.zeros((len(x), experts[0].outputs), dtype=x.dtype)
    for expert, column in zip(experts, gates.T, strict=True):
        rows = np.flatnonzero(column)
        total[rows] += column[rows, None] * expert(x[rows])
    return total


def _apply(product: Product, x: Array) -> Array:
    result = x @ product.weight
    return result if product.bias is None else result + product.bias


def _mean_product(products: Sequence[Product], shares: NDArray[np.float64]) -> Product:
    biases = [product.bias for product in products if product.bias is not None]
    bias = _mean(biases, shares) if len(biases) == len(products) else None
    return Product(_mean([product.weight for product in products], shares), bias)


def _mean(arrays: Sequence[Array], shares: NDArray[np.float64]) -> Array:
    total = np.tensordot(shares, np.stack(arrays).astype(np.float64), axes=1)
    return np.asarray(total, dtype=arrays[0].dtype)
