# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/results/moe.md: what can be done about the experts of a model, as steps that start from others'."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]
SEEDS = (0, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        name: of the row.
        steps: its steps; `MANY` and `HALF` stand for three quarters and half of the experts of a layer.
        base: the row whose model it starts from; the original in dispatch form where it is None.
        seeds: of calibration and of every random choice.
    """

    name: str
    steps: Sequence[Step]
    base: str | None = None
    seeds: Sequence[int] = SEEDS


HEAL: Step = {"pass": "heal", "steps": 800, "batch": 16, "loss": ["output"], "learning_rate": 2e-3, "patience": 2}
# The published merges and prunings, each in its own form.
PUBLISHED: Mapping[str, Step] = {
    "average, outputs grouped (Sub-MoE)": {"grouping": "outputs", "align": "none", "refit": "none"},
    "average, hierarchical (HC-SMoE)": {"grouping": "hierarchical", "align": "none", "refit": "none"},
    "average, logits grouped, aligned (M-SMoE)": {"grouping": "logits", "align": "weights", "refit": "none"},
    "plain least squares (MergeMoE)": {"grouping": "weights", "align": "none", "refit": "plain"},
    "plain least squares, outputs grouped": {"grouping": "outputs", "align": "none", "refit": "plain"},
    "average, random groups": {"grouping": "random", "align": "none", "average": "mean", "refit": "none"},
}
COMPRESSED: Mapping[str, Step] = {
    "low rank, shared bases": {"basis": "shared"},
    "low rank, own bases": {"basis": "own"},
    "low rank and a tenth whole units (MC-SMoE)": {"basis": "own", "sparse": 0.1},
    "low rank and two fifths whole units": {"basis": "own", "sparse": 0.4},
    "narrower experts": {},
    "narrower experts, equal widths": {"widths": "equal"},
}


def merge(count: str, **options: Any) -> Step:
    """Merging in the form of the options, every layer alike."""
    return {"pass": "merge-experts", "experts": count, "method": "merge", "budget": "uniform", **options}


def prune(count: str, **options: Any) -> Step:
    """Pruning in the form of the options."""
    return {"pass": "prune-experts", "experts": count, **options}


def quantized(bits: int, method: str = "shift-lut") -> Step:
    """Weights of the experts alone, rounded with second-order information; 2 bits of `shift` are -1, 0 and 1."""
    widths = {"weights": bits, "first_last": bits}
    return {"pass": "quantize", "method": method, "rounding": "gptq", "bias_correction": "there", **widths}


def rows() -> Iterator[Row]:
    """All rows, those that others start from first."""
    yield Row("original", (), seeds=(0,))
    for share, count in (("3/4", "MANY"), ("1/2", "HALF")):
        yield Row(f"{share}: merge-experts", ({"pass": "merge-experts", "experts": count},))
        yield Row(f"{share}: merge-experts, only merging", (merge(count),))
        yield Row(f"{share}: merging, random groups, aligned, refit", (merge(count, grouping="random"),))
        for name, options in PUBLISHED.items():
            yield Row(f"{share}: {name}", (merge(count, **options),))
        for criterion in ("reap", "frequency", "naee", "random"):
            yield Row(f"{share}: pruned by {criterion}", (prune(count, criterion=criterion, refit="none"),))
        yield Row(f"{share}: pruned by reap, refit", (prune(count),))
    yield from _low_rank()
    for bits in (4, 3, 2):
        yield Row(f"{bits}-bit experts", (quantized(bits),))
        yield Row(f"1/2: merge-experts, {bits}-bit", (quantized(bits),), "1/2: merge-experts")
    yield Row("ternary experts", (quantized(2, "shift"),))
    yield Row("original, healed", (HEAL,), seeds=(0,))
    yield Row("1/2: merge-experts, healed", (HEAL,), "1/2: merge-experts", (0,))
    yield Row("1/2: merge-experts, healed, 4-bit", (quantized(4),), "1/2: merge-experts, healed", (0,))


def _low_rank() -> Iterator[Row]:
    """Fewer numbers for each expert: low rank, whole units beside it (MC-SMoE's form, compact), whole units alone."""
    for share, keep in (("3/4", 0.75), ("1/2", 0.5)):
        yield Row(f"{share}: low rank, whitened", ({"pass": "low-rank", "keep": keep},))
        for name, options in COMPRESSED.items():
            yield Row(f"{share}: {name}", ({"pass": "compress-experts", "keep": keep, **options},))
    yield Row("1/2: narrower experts, 4-bit", (quantized(4),), "1/2: narrower experts")
