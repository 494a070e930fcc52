# SPDX-License-Identifier: Apache-2.0
"""Runs of models for the prunability table: at several sizes, compared, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.interface import ModelInterface
from edgefold.probing_feeds import Sizes, first_sizes, make_feeds, other_sizes
from edgefold.session import make_session, run
from edgefold.verification import compare_outputs

Feeds = Mapping[str, np.ndarray[Any, Any]]
TIMED_SECONDS = 1.5
MIN_RUNS, MAX_RUNS = 5, 200
SEED = 0


class Runner:
    """A model in ONNX Runtime, one thread.

    Attributes:
        interface: what it takes and gives.
    """

    def __init__(self, model: ir.Model) -> None:
        self.session = make_session(model, threads=1)
        self.interface = ModelInterface.of(self.session)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray[Any, Any]]:
        names = [one.name for one in self.interface.outputs]
        return dict(zip(names, run(self.session, names, feeds), strict=True))


def sized_runs(model: ir.Model) -> tuple[list[Feeds], list[Feeds]]:
    """Feeds and outputs at the first sizes at which the model runs and, where it takes others, at those."""
    runner = Runner(model)
    first, feeds, found = first_run(runner, first_sizes(runner.interface, None, {}), SEED)
    try:
        _, other, others = first_run(runner, other_sizes(first), SEED + 1)
    except ModelError:  # static sizes, or ones that only look dynamic
        return [feeds], [found]
    return [feeds, other], [found, others]


def first_run(runner: Runner, trials: Iterable[Sizes], seed: int) -> tuple[Sizes, Feeds, Feeds]:
    for sizes in trials:
        feeds = make_feeds(runner.interface, sizes, None, seed)
        feeds = {name: np.ones_like(one) if "mask" in name else one for name, one in feeds.items()}
        try:
            return sizes, feeds, runner(feeds)
        except ModelError:  # not a size that the model takes
            continue
    raise ModelError("runs at no size that was tried")


def answers(model: ir.Model, feeds: list[Feeds]) -> list[Feeds]:
    runner = Runner(model)
    return [runner(one) for one in feeds]


def exposed(model: ir.Model, names: list[str]) -> ir.Model:
    """A copy that gives these values too."""
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            if value.name in names and not value.is_graph_output():
                copy.graph.outputs.append(value)
    return copy


def compare(reference: Feeds, other: Feeds) -> float:
    """Largest difference over the largest magnitude; 1 for a differing integer output."""
    found = compare_outputs(dict(reference), dict(other))
    return max(found.relative, 1.0 - found.agreement)


def speedup(before: ir.Model, after: ir.Model, feeds: Feeds) -> float:
    """Median time in ONNX Runtime, one thread, of the whole model over that of the cut one.

    Processor time of this thread, in which ONNX Runtime then works: other processes do not count.
    """
    runners = Runner(before), Runner(after)
    times: tuple[list[int], list[int]] = ([], [])
    for runner in runners:
        runner(feeds)
    while len(times[0]) < MIN_RUNS or (sum(map(sum, times)) < TIMED_SECONDS * 1e9 and len(times[0]) < MAX_RUNS):
        for runner, found in zip(runners, times, strict=True):
            runner(feeds)  # brings its own data into the caches
            started = time.thread_time_ns()
            runner(feeds)
            found.append(time.thread_time_ns() - started)
    whole, cut_down = (float(np.median(found)) for found in times)
    return whole / cut_down
