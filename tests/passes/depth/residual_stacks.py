# SPDX-License-Identifier: Apache-2.0
"""Small stacks of residual blocks as ONNX text: a normalized two-layer branch added to the stream."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from graphs import Array, graph, weights

from edgefold.calibration import Calibration
from edgefold.passes import Context
from edgefold.perturbing import perturb
from edgefold.probing import probe

WIDTH, HIDDEN = 32, 48


def block(number: int, start: str, end: str) -> str:
    """A pre-norm residual block that reads and writes the named stream values."""
    n = number
    return f"""
    [h{n}_norm] n{n} = LayerNormalization({start}, g{n}, s{n})
    [h{n}_up] u{n} = MatMul(n{n}, up{n})
    [h{n}_bias] b{n} = Add(u{n}, c{n})
    [h{n}_relu] r{n} = Relu(b{n})
    [h{n}_down] d{n} = MatMul(r{n}, down{n})
    [h{n}_add] {end} = Add({start}, d{n})"""


def tensors(number: int, width: int, hidden: int, like: int | None = None) -> dict[str, Array]:
    """Weights of a block; near those of another one where it is told to be like it."""
    seed = 10 * (number if like is None else like)
    spread = 0.0 if like is None else 0.02
    up = weights(width, hidden, seed=seed) + spread * weights(width, hidden, seed=900 + number)
    down = weights(hidden, width, seed=seed + 1) + spread * weights(hidden, width, seed=800 + number)
    return {
        f"g{number}": 1 + 0.1 * weights(width, seed=10 * number + 2),
        f"s{number}": 0.1 * weights(width, seed=10 * number + 3),
        f"up{number}": (up / np.sqrt(width)).astype(np.float32),
        f"c{number}": 0.1 * weights(hidden, seed=10 * number + 4),
        f"down{number}": (down / np.sqrt(4 * hidden)).astype(np.float32),
    }


def stack(blocks: int, *, alike: Sequence[Sequence[int]] = (), width: int = WIDTH, hidden: int = HIDDEN) -> ir.Model:
    """A model of so many blocks between two projections.

    Args:
        blocks: how many.
        alike: groups of blocks with nearly the same weights.
        width: of the stream.
        hidden: of the branches.
    """
    like = {number: group[0] for group in alike for number in group}
    parts = {"w_in": weights(width, width, seed=1) / 6, "w_out": weights(width, 8, seed=2) / 6}
    text = f"g (float[N, {width}] x) => (float[N, 8] y) {{\n    [in] x0 = MatMul(x, w_in)"
    for number in range(blocks):
        text += block(number, f"x{number}", f"x{number + 1}")
        parts |= tensors(number, width, hidden, like.get(number))
    return graph(f"{text}\n    [out] y = MatMul(x{blocks}, w_out) }}", parts)


def batches(count: int = 4, rows: int = 192) -> list[Array]:
    """Inputs of the stack."""
    return [weights(rows, WIDTH, seed=70 + number) for number in range(count)]


def context_of(model: ir.Model, **more: object) -> Context:
    """What the pipeline would hand to a pass, on those batches."""
    data = batches()

    def feeds() -> Iterator[dict[str, Array]]:
        return ({"x": one} for one in data)

    return Context(
        calibration=Calibration(model, feeds),
        probe=functools.partial(probe, feeds={"x": data[0][:8]}),
        perturb=functools.partial(perturb, feeds=feeds),
        **more,  # type: ignore[arg-type]
    )
