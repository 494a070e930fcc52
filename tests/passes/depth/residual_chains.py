# SPDX-License-Identifier: Apache-2.0
"""Chains of small residual blocks, with their parts written down by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from graphs import graph, weights

from edgefold.passes.depth.blocks import Block, Part

WIDTH, HIDDEN = 32, 40


def chain(count: int, *, silent: tuple[int, ...] = (), last: str = "h{count}") -> ir.Model:
    """``h[i+1] = h[i] + Relu(h[i] W[i]) U[i]``, from x over h0 to y = h[count] V.

    Args:
        count: of blocks.
        silent: blocks whose U is zero.
        last: what the graph gives: of `y` and stream values, comma-separated.
    """
    outputs = last.format(count=count).split(", ")
    lines = ["h0 = MatMul(x, v)"]
    arrays = {"v": weights(WIDTH, WIDTH, seed=99)}
    for i in range(count):
        lines += [f"[up{i}] a{i} = MatMul(h{i}, w{i})", f"[act{i}] r{i} = Relu(a{i})"]
        lines += [f"[down{i}] d{i} = MatMul(r{i}, u{i})", f"[sum{i}] h{i + 1} = Add(h{i}, d{i})"]
        arrays[f"w{i}"] = weights(WIDTH, HIDDEN, seed=i)
        arrays[f"u{i}"] = weights(HIDDEN, WIDTH, seed=50 + i) * np.float32(0 if i in silent else 0.1 * 1.5 ** (i % 3))
    if "y" in outputs:
        lines.append(f"[head] y = MatMul(h{count}, v)")
    given = ", ".join(f"float[n, {WIDTH}] {name}" for name in outputs)
    return graph(f"g (float[n, {WIDTH}] x) => ({given}) {{ {' '.join(lines)} }}", arrays)


def blocks(model: ir.Model) -> list[Block]:
    """The blocks of a `chain`."""
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    nodes = {str(node.name): node for node in model.graph}
    stored = model.graph.initializers
    found: list[Block] = []
    while f"up{len(found)}" in nodes:
        i = len(found)
        own = tuple(nodes[f"{name}{i}"] for name in ("up", "act", "down", "sum"))
        found.append(
            Block(values[f"h{i}"], values[f"h{i + 1}"], own, (stored[f"w{i}"], stored[f"u{i}"]), "block", None, ())
        )
    return found


def feeds(rows: int = 5) -> dict[str, np.ndarray]:
    return {"x": weights(rows, WIDTH, seed=7)}


def part(start: ir.Value, end: ir.Value) -> Part:
    return Part(start, end, (), (), "other", None)
