# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing of contenders in one process on pinned processors; only the ratios of one run mean anything."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgefold.errors import UsageError

# A turn lasts about so long, so that a contender runs with its own data in the caches, as it would alone.
TURN_SECONDS = 0.02
MAX_SAMPLES = 2000
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Times of one contender, in milliseconds.

    Attributes:
        median, p10, p90: percentiles over the timed runs, without those that were interrupted where enough were not.
        runs: how many these were.
        disturbed: whether there were not enough without, so that other work on the machine shows in the figures.
    """

    median: float
    p10: float
    p90: float
    runs: int
    disturbed: bool = False


class _Sample(NamedTuple):
    milliseconds: float
    interrupted: bool


def interleave(contenders: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Timing]:
    """Times the contenders in turns, each turn after one run that is not counted.

    A slow drift of the machine (clock, temperature, neighbours) then reaches all alike. The first contender of a round
    changes from round to round. Runs that other work interrupts are left out as far as can be: longer runs are hit
    more often than shorter ones, so that the ratio of both would be that of the load.

    Args:
        contenders: name -> one run.
        seconds: budget of all together; at least five rounds are made, of at least one run each, but never more than
            twice the budget plus the two rounds in which the slowest contender is first run.
    """
    names = list(contenders)
    samples: dict[str, list[_Sample]] = {name: [] for name in names}
    estimates = {name: _warm_up(contenders[name]) for name in names}
    start, rounds = time.perf_counter(), 0
    while True:
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            runs = max(1, min(100, int(TURN_SECONDS / estimates[name])))
            samples[name] += _turn(contenders[name], runs)
        rounds += 1
        spent = time.perf_counter() - start
        enough = rounds >= MIN_ROUNDS or spent > 2 * seconds
        if enough and (spent > seconds or all(len(one) >= MAX_SAMPLES for one in samples.values())):
            return {name: _timing(one) for name, one in samples.items()}


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """Binds this thread, and those it starts, to ``threads`` processors, one a physical core where there are enough.

    Yields:
        The processors' numbers.

    Raises:
        UsageError: this process may not use so many processors.
    """
    before = os.sched_getaffinity(0)
    if threads > len(before):
        raise UsageError(f"--threads {threads}: this process may use {len(before)} processors")
    chosen = tuple(_one_per_core(sorted(before))[:threads])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


def _warm_up(run: Callable[[], Any]) -> float:
    """Runs twice; the second run's seconds."""
    run()
    return max(_turn(run, 1)[0].milliseconds * 1e-3, 1e-7)


def _turn(run: Callable[[], Any], runs: int) -> list[_Sample]:
    run()
    samples = []
    for _ in range(runs):
        before = _interruptions()
        start = time.perf_counter_ns()
        run()
        taken = (time.perf_counter_ns() - start) * 1e-6
        samples.append(_Sample(taken, _interruptions() > before))
    return samples


def _interruptions() -> int:
    """How often the processor was taken away from this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _timing(samples: Sequence[_Sample]) -> Timing:
    calm = [one.milliseconds for one in samples if not one.interrupted]
    disturbed = len(calm) < min(MIN_ROUNDS, len(samples))
    times = [one.milliseconds for one in samples] if disturbed else calm
    p10, median, p90 = np.percentile(times, [10, 50, 90])
    return Timing(float(median), float(p10), float(p90), len(times), disturbed)


def _one_per_core(processors: list[int]) -> list[int]:
    """The processors, those first that share no core with one before them."""
    first: list[int] = []
    siblings: list[int] = []
    seen: set[str] = set()
    for processor in processors:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        core = path.read_text(encoding="ascii").strip() if path.exists() else str(processor)
        core = re.split(r"[,-]", core)[0]
        (siblings if core in seen else first).append(processor)
        seen.add(core)
    return first + siblings
