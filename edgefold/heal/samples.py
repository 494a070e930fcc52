# SPDX-License-Identifier: Apache-2.0
"""The calibration data as healing uses it: in memory, split into a part to train on and a part to stop by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgefold.errors import UsageError
from edgefold.padding import padding_mask

if TYPE_CHECKING:
    from edgefold.interface import ModelInterface
    from edgefold.passes.heal import Heal
    from edgefold.scoring.task import Task

Array = np.ndarray[Any, Any]
MAX_BYTES = 8 << 30  # inputs held in memory
POOL = 16  # batches whose samples are put in order of length


@dataclasses.dataclass(frozen=True)
class Padding:
    """What was added behind shorter samples, which a batch of them need not be computed with.

    Attributes:
        lengths: of each row without it, [rows].
        names: the inputs [rows, positions, ...] that have it.
    """

    lengths: Array
    names: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs ready to be fed, and which rows are for what.

    Attributes:
        feeds: model input name -> array [rows, ...].
        scalars: of the other inputs, which have one value for all rows.
        labels: the task's target [rows, ...], or None where no loss asks for it.
        training: row numbers to train on.
        held_out: row numbers that training never sees.
        chunk: rows that the model takes at once where its batch is fixed, or None.
        padding: of the inputs, where the model takes any length.
        vocabulary: the input that holds tokens, and how many the model knows; None where none does.
    """

    feeds: dict[str, Array]
    labels: Array | None
    training: Array
    held_out: Array
    chunk: int | None
    padding: Padding | None = None
    vocabulary: tuple[str, int] | None = None
    scalars: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    @property
    def sizes(self) -> tuple[int, int]:
        """How many samples are trained on, and how many are held out."""
        return len(self.training), len(self.held_out)

    def take(self, rows: Array) -> dict[str, Array]:
        """The feeds of some rows, as long as the longest of them."""
        if self.padding is None:
            return {name: value[rows] for name, value in self.feeds.items()} | dict(self.scalars)
        names, longest = self.padding.names, self.padding.lengths[rows].max()
        cut = {name: value[rows, :longest] if name in names else value[rows] for name, value in self.feeds.items()}
        return cut | dict(self.scalars)

    def batches(self, size: int, seed: int, epoch: int) -> Array:
        """Row numbers of an epoch's batches [batches, size], shuffled; a remainder smaller than a batch sits out.

        Padded samples meet others of about their length: those of `POOL` batches are sorted before they are dealt out.
        """
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(self.training)
        count = len(order) // size
        order = order[: count * size]
        if self.padding is not None:
            pools = np.split(order, np.arange(POOL * size, len(order), POOL * size))
            order = np.concatenate([by_length(pool, self.padding) for pool in pools])
            return random.permutation(order.reshape(count, size))
        return order.reshape(count, size)


def by_length(rows: Array, padding: Padding | None) -> Array:
    """The rows, shortest first where they have lengths."""
    return rows if padding is None else rows[np.argsort(padding.lengths[rows], kind="stable")]


def read_samples(task: Task, interface: ModelInterface, options: Heal, seed: int) -> Samples:
    """Read the calibration data of a task; its ``samples`` does not limit them, ``options.samples`` does.

    Raises:
        UsageError: there are none, too few to split, more than fit, or labels are asked for that are not there.
    """
    data, chunk = _all_of(task, options.samples), _fixed_batch(interface)
    parts: dict[str, list[Array]] = {}
    scalars: dict[str, Array] = {}
    labels: list[Array] = []
    held = 0
    for batch in data.batches(interface, "calibration"):
        for name, value in batch.feeds.items():
            if value.ndim:
                parts.setdefault(name, []).append(value[: batch.count])
                held += value.nbytes
            elif scalars.setdefault(name, value) != value:
                raise UsageError(f"{task.path}: healing takes samples of all batches together, and '{name}' differs")
        if batch.labels is not None:
            labels.append(batch.labels)
        if held > MAX_BYTES:
            raise UsageError(f"{task.path}: the calibration inputs exceed {MAX_BYTES >> 30} GiB; give --samples N")
    if "labels" in options.loss and not labels:
        raise UsageError(
            f"--loss labels: the calibration data of {task.path} have no array '{task.metric.labels}'; "
            "take --loss output, which needs none"
        )
    feeds = {name: np.concatenate(values) for name, values in parts.items()}
    training, held_out = _split(len(next(iter(feeds.values()))), options.held_out, chunk or 1, seed, task)
    target = np.concatenate(labels) if "labels" in options.loss else None
    padding = _padding(feeds, interface)
    return Samples(feeds, target, training, by_length(held_out, padding), chunk, padding, scalars=scalars)


def _padding(feeds: Mapping[str, Array], interface: ModelInterface) -> Padding | None:
    """The padding at the end that a mask tells of; None where the number of positions is fixed or on other axes too."""
    mask = padding_mask(feeds)
    shapes = {port.name: port.shape for port in interface.inputs}
    positions = shapes[mask][1] if mask is not None else None
    if mask is None or not isinstance(positions, str):
        return None
    if any(positions in (*shape[:1], *shape[2:]) for shape in shapes.values()):
        return None
    real = np.not_equal(feeds[mask], 0)
    if real[:, -1].all():
        return None
    lengths = real.shape[1] - real[:, ::-1].argmax(axis=1)
    return Padding(lengths, frozenset(name for name, shape in shapes.items() if positions in shape))


def _all_of(task: Task, samples: int | None) -> Task:
    """The task with as much calibration data as healing is to use."""
    if task.rule.calibration is None:
        raise UsageError(f"{task.path}: healing trains on calibration data; add: calibration: {{data: FILE}}")
    calibration = msgspec.structs.replace(task.rule.calibration, samples=samples)
    return dataclasses.replace(task, rule=msgspec.structs.replace(task.rule, calibration=calibration))


def _fixed_batch(interface: ModelInterface) -> int | None:
    """The first dimension of the inputs where it is fixed; that they agree the task has checked."""
    sizes = [port.shape[0] for port in interface.inputs if port.shape and isinstance(port.shape[0], int)]
    return int(sizes[0]) if sizes else None


def _split(rows: int, share: float, chunk: int, seed: int, task: Task) -> tuple[Array, Array]:
    """Rows to train on and rows to stop by, each a multiple of ``chunk``."""
    order = np.random.default_rng(seed).permutation(rows)
    count = max(chunk, round(rows * share) // chunk * chunk)
    training = (rows - count) // chunk * chunk
    if training < chunk:
        parts = f" in batches of {chunk}" if chunk > 1 else ""
        raise UsageError(
            f"{task.path}: {rows} calibration samples are too few to train on and to stop by{parts}; give more"
        )
    return np.sort(order[count : count + training]), np.sort(order[:count])
