# SPDX-License-Identifier: Apache-2.0
"""A task: how a model is fed and scored. Parsed from the user's YAML file; the data are read only when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np

from edgefold.errors import UsageError
from edgefold.scoring.strict_yaml import read_yaml
from edgefold.scoring.task_data import TaskData, open_data
from edgefold.scoring.task_inputs import InputRule, make_input

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from edgefold.interface import ModelInterface, Port

Split = Literal["eval", "calibration"]
MetricName = Literal["top1", "top5", "mse", "psnr", "cosine", "agreement", "spearman_cosine", "perplexity"]
Count = Annotated[int, msgspec.Meta(ge=1)]


class MetricRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``metric`` part of a task: its name, the output it reads, and the target (labels, or a reference model)."""

    name: MetricName
    output: str | None = None
    labels: str | None = None
    reference: str | None = None
    samples: Count | None = None
    peak: Annotated[float, msgspec.Meta(gt=0)] | None = None


class CalibrationRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``calibration`` part of a task: data for choosing, never for the final score."""

    data: str
    samples: Count | None = None


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole task file, as written."""

    data: str
    inputs: dict[str, InputRule]
    metric: MetricRule
    calibration: CalibrationRule | None = None
    batch: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 1


@dataclass(frozen=True)
class Batch:
    """Some consecutive samples, ready to run.

    Attributes:
        feeds: model input name -> array [rows, ...]; ``rows`` exceeds ``count`` where the last batch was padded
            (by repeating its last sample) to the model's fixed batch. An input that is a scalar has the value of all.
        labels: the target's rows [count, ...]; None where the split has none.
        start: index of the first sample in the split.
        count: how many of the rows are samples.
    """

    feeds: dict[str, np.ndarray[Any, Any]]
    labels: np.ndarray[Any, Any] | None
    start: int
    count: int

    @property
    def rows(self) -> int:
        """Rows fed, padding included."""
        return next((len(value) for value in self.feeds.values() if value.ndim), self.count)

    def cut(self, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The samples' part of an output (padding dropped)."""
        return output[: self.count] if output.ndim and output.shape[0] == self.rows else output


@dataclass(frozen=True)
class Task:
    """A parsed and validated task file.

    Attributes:
        path: the file; data paths inside it are relative to its folder.
        rule: its content.
    """

    path: Path
    rule: TaskFile

    @property
    def metric(self) -> MetricRule:
        """The metric as the file states it."""
        return self.rule.metric

    @property
    def reference(self) -> Path | None:
        """The model whose outputs are the target, or None."""
        name = self.rule.metric.reference
        return None if name is None else self.path.parent / name

    @property
    def has_calibration(self) -> bool:
        """Whether the file names calibration data."""
        return self.rule.calibration is not None

    def data(self, split: Split) -> TaskData:
        """Opens the data file of a split.

        Raises:
            UsageError: the task has no calibration data, or the file cannot be opened.
        """
        if split == "eval":
            return open_data(self.path.parent / self.rule.data)
        if self.rule.calibration is None:
            raise UsageError(f"{self.path}: has no 'calibration'; add: calibration: {{data: FILE, samples: 512}}")
        return open_data(self.path.parent / self.rule.calibration.data)

    def samples(self, split: Split, limit: int | None = None) -> int:
        """How many samples a split has: the arrays' first dimension, ``samples`` and ``limit`` applied."""
        return _Source(self, split, limit).count

    def has_labels(self, split: Split) -> bool:
        """Whether the split holds the array that the metric names as labels."""
        return self.metric.labels is not None and self.metric.labels in self.data(split).names

    @property
    def calibration_has_metric(self) -> bool:
        """Whether there are calibration data, and the metric's target with them."""
        return self.has_calibration and (self.reference is not None or self.has_labels("calibration"))

    def batches(self, model: ModelInterface, split: Split = "eval", limit: int | None = None) -> Iterator[Batch]:
        """The split's samples in order, made into feeds of ``model``.

        A model whose inputs have a fixed first dimension is fed that many rows at once, the last batch padded.

        Args:
            model: the interface of the model that will run.
            split: evaluation or calibration data; labels come with the latter only if it holds the same array.
            limit: at most so many samples, from the start.

        Raises:
            UsageError: inputs, arrays or lengths that do not fit; the message lists what there is.
        """
        source = _Source(self, split, limit)
        ports = self.pair_inputs(model)
        batch = _fixed_batch(self, list(ports.values())) or self.rule.batch
        for start in range(0, source.count, batch):
            stop = min(start + batch, source.count)
            yield source.batch(ports, start, stop, batch)

    def pair_inputs(self, model: ModelInterface) -> dict[str, Port]:
        """Model input for each input of the task, by name; a single one on both sides is paired whatever its name.

        Raises:
            UsageError: an input on either side has no partner.
        """
        named, ports = self.rule.inputs, {port.name: port for port in model.inputs}
        if len(named) == 1 and len(ports) == 1:
            return dict(zip(named, ports.values(), strict=True))
        for name in named:
            if name not in ports:
                raise UsageError(f"{self.path}: names the input '{name}'; the model's inputs are {', '.join(ports)}")
        missing = [name for name in ports if name not in named]
        if missing:
            listed = ", ".join(missing)
            raise UsageError(f"{self.path}: says nothing of the model's inputs {listed}; add them to 'inputs'")
        return {name: ports[name] for name in named}


def load_task(path: str | os.PathLike[str]) -> Task:
    """Parses and validates a task file; its data stay unread.

    Raises:
        UsageError: see `edgefold.scoring.strict_yaml.read_yaml`; or a combination of keys that means nothing.
    """
    file = Path(path)
    rule = read_yaml(file, TaskFile, "task file")
    if not rule.inputs:
        raise UsageError(f"{file}: 'inputs' names no input; give one entry for each input of the model")
    for name, one in rule.inputs.items():
        problem = one.problem()
        if problem:
            raise UsageError(f"{file}: the input '{name}' {problem}")
    metric = rule.metric
    if (metric.labels is None) == (metric.reference is None):
        raise UsageError(f"{file}: 'metric' needs exactly one of 'labels' (an array) and 'reference' (a model)")
    if metric.reference is not None and metric.name in ("spearman_cosine", "perplexity"):
        raise UsageError(f"{file}: the metric {metric.name} needs 'labels'; with 'reference' use cosine or agreement")
    return Task(file, rule)


class _Source:
    """The opened arrays of one split, checked to be of one length."""

    def __init__(self, task: Task, split: Split, limit: int | None) -> None:
        self._task = task
        self._data = task.data(split)
        rules = task.rule.inputs
        self._arrays = {
            name: self._data.array(one.source, f"{task.path}: input '{name}'") for name, one in rules.items()
        }
        self._labels = self._read_labels(split)
        self._check_lengths()
        total = next(iter(self._arrays.values())).shape[0]
        first = task.metric.samples if split == "eval" else task.rule.calibration and task.rule.calibration.samples
        self.count: int = min(total, first or total, total if limit is None else limit)
        if self.count == 0:
            raise UsageError(f"{self._data.path}: holds no sample")

    def _read_labels(self, split: Split) -> np.ndarray[Any, Any] | None:
        name = self._task.metric.labels
        if name is None or (split == "calibration" and name not in self._data.names):
            return None
        return self._data.array(name, f"{self._task.path}: metric.labels")

    def _check_lengths(self) -> None:
        lengths = {rule.source: len(self._arrays[name]) for name, rule in self._task.rule.inputs.items()}
        if self._labels is not None:
            lengths[self._task.metric.labels or ""] = len(self._labels)
        if len(set(lengths.values())) > 1:
            parts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise UsageError(f"{self._data.path}: arrays of one task must have the same number of rows: {parts}")

    def batch(self, ports: dict[str, Port], start: int, stop: int, size: int) -> Batch:
        fixed = _fixed_batch(self._task, list(ports.values())) is not None
        feeds = {}
        for name, port in ports.items():
            where = f"{self._task.path}: input '{name}'"
            rows = self._arrays[name][start:stop]
            value = make_input(self._task.rule.inputs[name], rows, self._data, port.dtype, where)
            if fixed and stop - start < size:
                value = np.concatenate([value, np.repeat(value[-1:], size - (stop - start), axis=0)])
            feeds[port.name] = value if port.shape else _one_for_all(value, where)
        labels = None if self._labels is None else self._labels[start:stop]
        return Batch(feeds, labels, start, stop - start)


def _one_for_all(value: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """What a model takes as one number for all samples, such as a sampling rate."""
    if np.any(value != value[:1]):
        raise UsageError(f"{where} is one number for a whole batch, and its rows differ; set 'batch: 1'")
    return value[:1].reshape(())


def _fixed_batch(task: Task, ports: list[Port]) -> int | None:
    sizes = {size for port in ports if port.shape and isinstance(size := port.shape[0], int)}
    if len(sizes) > 1:
        shapes = "; ".join(str(port) for port in ports)
        raise UsageError(f"{task.path}: the model's inputs have different fixed first dimensions: {shapes}")
    return sizes.pop() if sizes else None
