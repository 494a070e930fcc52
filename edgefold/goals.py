# SPDX-License-Identifier: Apache-2.0
"""The two goals a user can state, and the search for the bits that meet them.

Judged on the calibration split only; the evaluation set is scored once before and once after, by the caller.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgefold.errors import UsageError

if TYPE_CHECKING:
    from edgefold.scoring.evaluate import Evaluation

log = logging.getLogger("edgefold")

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
FEWEST, MOST = 2.0, 8.0  # bits that a weight can have
RESOLUTION = 0.25  # bits; a finer search would follow the noise of the calibration score
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


def parse_drop(text: str, option: str = "--max-drop") -> Drop:
    """``1%`` is relative to the original's value; ``1pt`` is one point of the metric, absolute.

    Raises:
        UsageError: any other form.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%|pt)\s*", text)
    if not match:
        raise UsageError(f"{option} {text}: expected a percentage of the original's metric (1%) or points (1pt)")
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
    """One compression tried by the search: bits a weight on average, what came of it, and the artefact itself."""

    bits: float
    bytes: int
    loss: float | None
    payload: Any


def search(
    first: Attempt, build: Callable[[float], Attempt], *, max_loss: float | None, max_bytes: int | None
) -> tuple[Attempt, list[Attempt]]:
    """Halve the range of bits between what is too few and what is too many, in at most eight further compressions.

    Bits go to the layers that need them most (``edgefold.passes`` measures which), so that there is one number to look
    for: above it the file is too large, below it the loss.

    Args:
        first: the compression as the recipe has it.
        build: compresses with so many bits a weight on average.
        max_loss: in the unit of the goal; None when the user stated none.
        max_bytes: likewise.

    Returns:
        The best attempt (the smallest that meets both goals; without a limit of the loss the largest; failing these,
        the one that misses the loss the least), and all of them.
    """
    attempts = [first]
    if meets(first, max_loss, max_bytes):
        return first, attempts
    low, high = FEWEST, MOST
    while len(attempts) <= ROUNDS and high - low > RESOLUTION:
        last = attempts[-1]
        too_large = max_bytes is not None and last.bytes > max_bytes
        # Without a limit of the loss a model is worse than it need be as long as the size allows more bits.
        too_bad = not too_large if max_loss is None else last.loss is not None and last.loss > max_loss
        if too_large and too_bad:
            break  # more bits make it larger, fewer make it worse
        low, high = (last.bits, high) if too_bad else (low, last.bits)
        bits = round((low + high) / 2, 3)
        log.info("goals: trying %g bits a weight on average", bits)
        attempts.append(build(bits))
    return best_attempt(attempts, max_loss, max_bytes), attempts


def meets(attempt: Attempt, max_loss: float | None, max_bytes: int | None) -> bool:
    """Whether the attempt holds every goal that was stated."""
    small = max_bytes is None or attempt.bytes <= max_bytes
    good = max_loss is None or (attempt.loss is not None and attempt.loss <= max_loss)
    return small and good


def best_attempt(attempts: Sequence[Attempt], max_loss: float | None, max_bytes: int | None) -> Attempt:
    """The smallest attempt that meets all goals, the largest if size is the only one; else the least loss in excess."""
    good = [a for a in attempts if meets(a, max_loss, max_bytes)]
    if good and max_loss is None:
        return max(good, key=lambda a: a.bits)
    if good:
        return min(good, key=lambda a: (a.bytes, a.loss or 0.0))
    if max_loss is not None:
        return min(attempts, key=lambda a: (max((a.loss or 0.0) - max_loss, 0.0), a.bytes))
    return min(attempts, key=lambda a: (a.bytes, a.loss or 0.0))
