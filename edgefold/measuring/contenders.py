# SPDX-License-Identifier: Apache-2.0
"""The contenders of a bench: models opened, fed alike, and ONNX Runtime's own forms of the float one among them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefold.errors import ModelError, UsageError
from edgefold.float_caches import native_call
from edgefold.interface import ModelInterface
from edgefold.measuring.baselines import build_baseline
from edgefold.optional_inputs import optional_feeds
from edgefold.random_feeds import check_one_source, random_feeds
from edgefold.session import make_session, run, uses_library

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

    from edgefold.scoring.task import Task

log = logging.getLogger("edgefold")


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        model: the file that was named.
        path: the file that runs; another one for a form that was built.
        backend, note: as in `BenchRow`.
        run: runs it once; None where it could not be made.
    """

    model: Path
    path: Path
    backend: str
    note: str
    run: Callable[[], Any] | None


class Feeder:
    """Opens contenders and binds each to its inputs: the task's first batch, else seeded random data of the shapes.

    Raises:
        UsageError: a task and shapes; models of different batches.
    """

    def __init__(
        self,
        task: Task | None,
        shapes: Mapping[str, tuple[int, ...]],
        threads: int,
        values: Sequence[Mapping[str, float]] = (),
    ) -> None:
        check_one_source(task, shapes)
        self._task, self._shapes, self._threads = task, shapes, threads
        self._unused = [dict(one) for one in values]
        self._values = tuple(values)
        self._batches: dict[str, tuple[Path, int]] = {}
        self.fed: dict[str, tuple[int, ...]] = {}

    def contender(
        self, model: Path, path: Path, backend: str, note: str = "", config: Mapping[str, str] | None = None
    ) -> Contender:
        """A model with its optional inputs as they are by default."""
        session, feeds = self._opened(path, config)
        return self._bound(model, path, backend, note, session, feeds)

    def contenders(self, path: Path, backend: str, note: str, config: Mapping[str, str] | None) -> list[Contender]:
        """A model with each of the values that it has inputs for; as it is by default where there are none."""
        session, feeds = self._opened(path, config)
        names = {port.name for port in ModelInterface.of(session).optional}
        fitting = [one for one in self._values if names.issuperset(one)]
        self._unused = [one for one in self._unused if one not in fitting]
        return [
            self._bound(path, path, backend, _joined(note, one), session, {**feeds, **optional_feeds(session, one)})
            for one in fitting or [{}]
        ]

    def check_values(self) -> None:
        """Raises UsageError for values that no model took."""
        for one in self._unused:
            raise UsageError(f"--input {_joined('', one)}: no model has such an optional input")

    def _opened(
        self, path: Path, config: Mapping[str, str] | None
    ) -> tuple[ort.InferenceSession, dict[str, np.ndarray[Any, Any]]]:
        # Without the stop, threads of the contender that ran last would spin through the next one's turn.
        config = {"session.force_spinning_stop": "1", **(config or {})}
        session = make_session(path, threads=self._threads, config=config)
        interface = ModelInterface.of(session)
        if self._task is not None:
            batch = next(self._task.batches(interface))
            self._check_batch(path, {str(self._task.path): batch.rows})
            return session, batch.feeds
        feeds = random_feeds(interface, self._shapes)
        self._check_batch(path, {name: len(array) for name, array in feeds.items() if array.ndim})
        return session, feeds

    def _check_batch(self, path: Path, sizes: Mapping[str, int]) -> None:
        """Raises UsageError where another contender is fed other than so many samples from the same source."""
        for source, size in sizes.items():
            first, other = self._batches.setdefault(source, (path, size))
            if size != other:
                why = f"{first} runs {other} samples at a time, {path} {size}"
                raise UsageError(f"{why}: their times do not compare; export one batch, or let -d or --shape set it")

    def _bound(
        self,
        model: Path,
        path: Path,
        backend: str,
        note: str,
        session: ort.InferenceSession,
        feeds: dict[str, np.ndarray[Any, Any]],
    ) -> Contender:
        run(session, None, feeds)
        self.fed = self.fed or {name: array.shape for name, array in feeds.items()}
        return Contender(model, path, backend, note, native_call(session, feeds))


def _joined(note: str, values: Mapping[str, float]) -> str:
    """A row's note with the values that it was run with."""
    return ", ".join([*([note] if note else []), *(f"{name}={value:g}" for name, value in values.items())])


def as_given(path: Path, feeder: Feeder, widths: Mapping[int, Mapping[str, str]]) -> list[Contender]:
    """A model as it is, or once for each weight width and each set of values asked for."""
    backend = "edgefold" if uses_library(path) else "ort"
    if not widths:
        return feeder.contenders(path, backend, "", None)
    notes = {bits: f"weights at {bits} bits" for bits in widths}
    return [one for bits in widths for one in feeder.contenders(path, backend, notes[bits], widths[bits])]


def forms_of(
    models: Sequence[Path], against: Sequence[str], task: Task | None, folder: Path, feeder: Feeder
) -> list[Contender]:
    if not against:
        return []
    original = next((path for path in models if not uses_library(path)), None)
    if original is None:
        raise UsageError("--against needs the float model too, to build ONNX Runtime's forms of it: add -m ORIGINAL")
    found = []
    for kind in dict.fromkeys(against):
        log.info("building %s ...", kind)
        try:
            form = build_baseline(original, kind, task, folder)
            found.append(feeder.contender(original, form.path, kind, form.note))
        except ModelError as error:
            # A form that ORT cannot build or run is a finding, not the end of the bench.
            found.append(Contender(original, original, kind, str(error), None))
    return found
