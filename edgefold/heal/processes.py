# SPDX-License-Identifier: Apache-2.0
"""One training in several processes, on one machine or many, as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed

from edgefold.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Processes:
    """One process among those that train together.

    Attributes:
        rank: its number; process 0 scores, writes and reports.
        count: how many there are; 1 without ``torchrun``.
        device: what it computes on.
    """

    rank: int
    count: int
    device: torch.device

    def share(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The part of a batch that falls to the process; all parts have one size."""
        size = len(rows) // self.count
        return rows[self.rank * size : (self.rank + 1) * size]

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes."""
        if self.count == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(together)
        return [float(value) for value in together]

    def agreed(self, value: float) -> float:
        """The value of process 0, for what must not differ, such as clocks."""
        return self.sum(value if self.rank == 0 else 0.0)[0]

    def wrapped(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with gradients averaged over all processes."""
        if self.count == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def chosen_device(device: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" names in this process.

    Raises:
        UsageError: CUDA is asked for and torch sees none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; take --device cpu")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@contextlib.contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; alone without it.

    Args:
        device: "auto", "cpu" or "cuda"; with several processes on a machine each takes a GPU of its own.

    Raises:
        UsageError: CUDA is asked for and torch sees none.
    """
    chosen = chosen_device(device)
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    # gloo for the few numbers agreed on the CPU; nccl for gradients on GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, chosen)
    finally:
        distributed.destroy_process_group()
