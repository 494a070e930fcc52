# SPDX-License-Identifier: Apache-2.0
"""How far a training has come, kept in a file so that an interrupted one goes on, to the bit, where it was.

The file is a plain ``.npz`` archive of arrays, read without pickle.
"""

from __future__ import annotations

import dataclasses
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgefold.errors import UsageError

log = logging.getLogger("edgefold")
FILE = "training.npz"


class Epoch(msgspec.Struct, frozen=True):
    """The record of one epoch; the first is that of the model as it came.

    Attributes:
        step: steps of the optimizer so far.
        training: mean loss over the epoch's steps, or None before the first.
        held_out: loss on the rows that training never sees.
        learning_rate: of the last step.
        seconds: spent since the beginning.
    """

    step: int
    training: float | None
    held_out: float
    learning_rate: float | None
    seconds: float

    def __str__(self) -> str:
        trained = "" if self.training is None else f"training loss {self.training:.5g}, "
        return f"step {self.step}: {trained}held-out loss {self.held_out:.5g}, {self.seconds:.0f} s"


class Progress(msgspec.Struct):
    """Everything of a training that is not a tensor.

    Attributes:
        step: steps of the optimizer so far.
        seconds: spent on them.
        processor_seconds: the same in time of all processor cores of process 0.
        best_step: the step whose weights are the best so far; 0 is the model as it came.
        best_loss: held-out loss of those, or None before the first was judged.
        worse: epochs since then.
        loss_sum: of the training losses since the last epoch ended, ``loss_count`` of them.
        history: a record for each epoch.
    """

    step: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    best_step: int = 0
    best_loss: float | None = None
    worse: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[Epoch] = []

    def end_epoch(self, record: Epoch) -> None:
        """Take in a record; ``best_step`` is its step where it is the best so far."""
        self.history.append(record)
        self.loss_sum, self.loss_count = 0.0, 0
        self.worse += 1
        if self.best_loss is None or record.held_out < self.best_loss:
            self.best_loss, self.best_step, self.worse = record.held_out, record.step, 0


@dataclasses.dataclass(frozen=True)
class TrainingFile:
    """Where the state of a training lies.

    Attributes:
        folder: made when the first state is saved.
        fingerprint: of models, data and options; the state of another training is never taken up.
    """

    folder: Path
    fingerprint: str

    def save(self, progress: Progress, tensors: Mapping[str, list[Tensor]], optimizer: torch.optim.Optimizer) -> None:
        """Write the state, atomically."""
        arrays = {f"{role}.{n}": _array(tensor) for role, listed in tensors.items() for n, tensor in enumerate(listed)}
        for index, state in optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{index}.{key}": _array(value) for key, value in state.items() if value is not None}
        said = msgspec.json.encode((self.fingerprint, progress))
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{FILE}.new"
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, state=np.frombuffer(said, np.uint8), **arrays)
        partial.replace(self.folder / FILE)

    def load(self, tensors: Mapping[str, list[Tensor]], optimizer: torch.optim.Optimizer) -> Progress | None:
        """Fill the tensors and the optimizer from the file; None, and nothing filled, where there is no state to use.

        Raises:
            UsageError: the file is damaged.
        """
        path = self.folder / FILE
        if not path.is_file():
            return None
        try:
            with path.open("rb") as stream:
                arrays = dict(np.load(stream, allow_pickle=False))
            fingerprint, progress = msgspec.json.decode(arrays.pop("state").tobytes(), type=tuple[str, Progress])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise UsageError(
                f"{path}: not a state of a training ({error}); remove it, or start without --resume"
            ) from None
        if fingerprint != self.fingerprint:
            log.warning("--resume: the training beside the output is of another call; starting over")
            return None
        for role, listed in tensors.items():
            for index, tensor in enumerate(listed):
                tensor.copy_(torch.from_numpy(arrays.pop(f"{role}.{index}")))
        _fill(optimizer, arrays)
        return progress

    def discard(self) -> None:
        """Remove the state, and the folder if nothing else is in it."""
        for name in (FILE, f"{FILE}.new"):
            (self.folder / name).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _fill(optimizer: torch.optim.Optimizer, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        _, index, key = name.split(".", 2)
        weight, tensor = weights[int(index)], torch.from_numpy(value)
        if tensor.shape == weight.shape:  # the fused step takes for granted that both lie in memory in the same order
            tensor = torch.empty_like(weight).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array
