# SPDX-License-Identifier: Apache-2.0
"""The two goals a user can state, and the search over per-node bit widths that tries to meet them.

Judged on the calibration split only; the evaluation set is scored once before and once after, by the caller.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from edgefold.scoring.evaluate import Evaluation

log = logging.getLogger("edgefold")

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
WIDER = {2: 3, 3: 4, 4: 6, 5: 8, 6: 8, 7: 8}
NARROWER = {8: 6, 7: 6, 6: 4, 5: 4, 4: 3, 3: 2}
ENDS_AT_ONE = ("cosine", "spearman_cosine")
ROUNDS = 8  # compressions that a search may cost


@dataclasses.dataclass(frozen=True)
class Drop:
    """The largest loss of the metric that is accepted, relative to the original's value or in points.

    A point is one unit of a metric given in percent, decibels or its own unit, and one hundredth of a metric that
    ends at 1 (cosine, Spearman).
    """

    amount: float
    relative: bool

    def loss_of(self, original: Evaluation, now: Evaluation) -> float:
        """``loss`` of two scores of one metric."""
        return self.loss(original.metric, original.value, now.value, lower_is_worse=original.worse == "lower")

    def loss(self, metric: str, original: float, value: float, *, lower_is_worse: bool) -> float:
        """How much worse ``value`` is than ``original``, in per cent or points as the goal is."""
        worse = original - value if lower_is_worse else value - original
        if self.relative:
            return 100 * worse / max(abs(original), 1e-12)
        return worse * 100 if metric in ENDS_AT_ONE else worse

    def __str__(self) -> str:
        return f"{self.amount:g}{'%' if self.relative else 'pt'}"


def parse_drop(text: str) -> Drop:
    """``1%`` is relative to the original's value; ``1pt`` is one point of the metric, absolute.

    Raises:
        UsageError: any other form.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|pt)\s*", text)
    if not match:
        raise UsageError(f"--max-drop {text}: expected a percentage of the original's metric (1%) or points (1pt)")
    return Drop(float(match[1]), match[2] == "%")


def parse_size(text: str) -> int:
    """Bytes of ``4MB`` (10**6), ``4MiB`` (2**20), ``500kB`` or a plain number of bytes.

    Raises:
        UsageError: any other form, or zero.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmg]?i?b)?\s*", text.lower())
    if not match or float(match[1]) == 0:
        raise UsageError(f"--max-size {text}: expected a size as in 4MB, 500kB or 2MiB")
    return int(float(match[1]) * UNITS[match[2] or "b"])


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One compression tried by the search: per-node widths, what came of it, and the artefact itself."""

    widths: Mapping[str, int]
    bytes: int
    loss: float | None
    payload: Any


def search(
    first: Attempt,
    widths: Mapping[str, int],
    ranking: Sequence[str],
    build: Callable[[Mapping[str, int]], Attempt],
    *,
    max_loss: float | None,
    max_bytes: int | None,
) -> tuple[Attempt, list[Attempt]]:
    """Change per-node widths until the goals hold, in at most eight further compressions; deterministic.

    While the loss is too large the nodes that add the most error are widened, twice as many each round; while the
    file is too large the nodes that add the least are narrowed.

    Args:
        first: the compression as the recipe has it.
        widths: width of every node that may change, by node name.
        ranking: node names by the error each adds, largest first.
        build: compresses with the given widths.
        max_loss: in the unit of the goal; None when the user stated none.
        max_bytes: likewise.

    Returns:
        The best attempt (meets both goals; else the drop; else the smallest loss), and all of them.
    """
    attempts, current, share = [first], dict(widths), 0.1
    order = [name for name in ranking if name in current]
    for _ in range(ROUNDS):
        last = attempts[-1]
        if meets(last, max_loss, max_bytes) or not order:
            break
        count = max(1, round(share * len(order)))
        if max_loss is not None and last.loss is not None and last.loss > max_loss:
            changed = _shift_widths(current, order[:count], WIDER)
        else:
            changed = _shift_widths(current, order[::-1][:count], NARROWER)
        if changed == current:
            if count == len(order):
                break
            share = min(1.0, share * 2)
            continue
        current, share = changed, min(1.0, share * 2)
        log.info("goal missed: trying again with %d node widths changed", sum(current[n] != widths[n] for n in widths))
        attempts.append(build({name: bits for name, bits in current.items() if bits != widths[name]}))
    return best_attempt(attempts, max_loss, max_bytes), attempts


def meets(attempt: Attempt, max_loss: float | None, max_bytes: int | None) -> bool:
    """Whether the attempt holds every goal that was stated."""
    small = max_bytes is None or attempt.bytes <= max_bytes
    good = max_loss is None or (attempt.loss is not None and attempt.loss <= max_loss)
    return small and good


def best_attempt(attempts: Sequence[Attempt], max_loss: float | None, max_bytes: int | None) -> Attempt:
    """The smallest attempt that meets all goals; failing that, the one that misses the loss the least."""
    good = [a for a in attempts if meets(a, max_loss, max_bytes)]
    if good:
        return min(good, key=lambda a: (a.bytes, a.loss or 0.0))
    if max_loss is not None:
        return min(attempts, key=lambda a: (max((a.loss or 0.0) - max_loss, 0.0), a.bytes))
    return min(attempts, key=lambda a: (a.bytes, a.loss or 0.0))


def _shift_widths(widths: Mapping[str, int], names: Sequence[str], table: Mapping[int, int]) -> dict[str, int]:
    return {name: table.get(bits, bits) if name in names else bits for name, bits in widths.items()}
