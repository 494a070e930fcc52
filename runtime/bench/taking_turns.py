# SPDX-License-Identifier: Apache-2.0
"""Timings of contenders that take turns, so that all see the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np


def taking_turns(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    in_a_row: int = 1,
    rounds: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, np.ndarray]:
    """Microseconds of every call.

    Args:
        calls: by contender; each is called once more, untimed, at the start.
        seconds: after which no new round begins.
        in_a_row: calls of a contender before the next one's turn.
        rounds: at least so many, however long they take.
        clock: in nanoseconds; ``time.thread_time_ns`` leaves out the time in which other processes had the core.
    """
    times: dict[str, list[int]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    done = 0
    while time.perf_counter() < end or done < rounds:
        done += 1
        for name, call in calls.items():
            for _ in range(in_a_row):
                start = clock()
                call()
                times[name].append(clock() - start)
    return {name: np.array(values) * 1e-3 for name, values in times.items()}
