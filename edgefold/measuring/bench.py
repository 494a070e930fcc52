# SPDX-License-Identifier: Apache-2.0
"""Latency of models beside ONNX Runtime's own forms of the same model, all in one interleaved run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefold.errors import EdgefoldError, ModelError, UsageError
from edgefold.float_caches import native_call
from edgefold.interface import ModelInterface
from edgefold.measuring.baselines import KINDS, build_baseline
from edgefold.measuring.latency import Timing, interleave, pinned
from edgefold.measuring.machine import Machine, this_machine
from edgefold.measuring.text_table import text_table
from edgefold.optional_inputs import optional_feeds
from edgefold.random_feeds import random_feeds
from edgefold.session import make_session, run, uses_library

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

    from edgefold.scoring.task import Task

log = logging.getLogger("edgefold")

SECONDS_PER_CONTENDER = 4.0
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class BenchRow:
    """One contender.

    Attributes:
        model: the file; for a form that was built, the file it was built from.
        backend: "ort" (stock ONNX Runtime), "edgefold" (with the operator library), or the form that was built.
        bytes: size of the file (without external data).
        median_ms, p10_ms, p90_ms: one run of the whole batch; None where it could not be run.
        ratio: ORT fp32 median / this median, above 1 is faster; None without an fp32 row.
        runs: how many runs were timed.
        note: how the form was made, what stays float, or why there is no figure.
    """

    model: str
    backend: str
    bytes: int | None
    median_ms: float | None
    p10_ms: float | None
    p90_ms: float | None
    ratio: float | None
    runs: int
    note: str


@dataclass(frozen=True)
class Bench:
    """One bench.

    Attributes:
        rows: the contenders.
        machine: where.
        isa: what EdgeFold's kernels use: family -> instruction set; empty without the compiled library.
        onnxruntime: its version.
        threads: threads inside an operator.
        processors: the processors that the run was bound to.
        inputs: input name -> shape that was fed.
        busy: whether other work on the machine interrupted nearly all runs of some row.
    """

    rows: tuple[BenchRow, ...]
    machine: Machine
    isa: dict[str, str]
    onnxruntime: str
    threads: int
    processors: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]]
    busy: bool = False

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold bench``."""
        return asdict(self)

    def to_text(self) -> str:
        """A table with what is needed to read it."""
        header = ("model", "backend", "median ms", "p10", "p90", "ratio", "")
        table = text_table(header, [_cells(row) for row in self.rows], left=2, notes=True)
        fed = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in self.inputs.items())
        isa = "/".join(dict.fromkeys(self.isa.values())) or "not built"
        where = f"{self.machine.cpu}, {self.threads} thread(s) on processor(s) {', '.join(map(str, self.processors))}"
        return (
            f"{table}\n\n{where}; ONNX Runtime {self.onnxruntime}; EdgeFold kernels: {isa}; fed {fed}.\n"
            "ratio: median of ORT fp32 / median of the row; above 1 is faster."
            + (
                "\nOther work on this machine interrupted nearly all runs of a row; its figures are those of the load."
                if self.busy
                else ""
            )
        )


@dataclass(frozen=True)
class _Contender:
    model: Path
    path: Path
    backend: str
    note: str
    run: Callable[[], Any] | None


def bench(
    models: Sequence[Path],
    *,
    task: Task | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    against: Sequence[str] = (),
    device: str = "local",
    threads: int = 1,
    seconds: float | None = None,
    widths: Mapping[Path, Mapping[int, Mapping[str, str]]] | None = None,
    values: Sequence[Mapping[str, float]] = (),
) -> Bench:
    """Times models and ONNX Runtime's forms of the first float one among them.

    Every contender is fed the task's first batch, else seeded random data of ``shapes``.

    Args:
        models: ONNX files.
        task: gives the batch, and calibrates the static int8 form.
        shapes: sizes of dynamic inputs where there is no task.
        against: forms to build; see `edgefold.measuring.baselines.KINDS`.
        device: "local".
        threads: threads inside an operator; all contenders alike.
        seconds: budget; None: four seconds a contender, at most a minute.
        widths: for models that store several weight widths, the session configuration of each that is timed.
        values: of optional inputs; a model that has those of an entry is timed with each such entry.

    Raises:
        UsageError: another device, an unknown form, a dynamic dimension without a size, too many threads, values for
            inputs that no model has.
        ModelError: one of ``models`` cannot be run.
    """
    import onnxruntime as ort

    if device != "local":
        raise UsageError(f"--device {device}: only 'local' is supported; run bench on the device itself")
    for kind in against:
        if kind not in KINDS:
            raise UsageError(f"--against {kind}: expected one of {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="edgefold-bench-") as folder, pinned(threads) as processors:
        feeder = _Feeder(task, shapes or {}, threads, values)
        forms = _forms(models, against, task, Path(folder), feeder)
        # A model that is itself the fp32 form stands in the table once.
        already = {form.path for form in forms if form.backend == "ort-fp32"}
        listed = [path for path in models if path not in already]
        contenders = [one for path in listed for one in _as_given(path, feeder, (widths or {}).get(path, {}))]
        feeder.check_values()
        contenders = sorted([*forms, *contenders], key=lambda one: one.backend != "ort-fp32")
        runs = {str(index): one.run for index, one in enumerate(contenders) if one.run is not None}
        if not runs:
            raise ModelError(contenders[0].note)
        log.info("timing %d contenders ...", len(runs))
        budget = min(MAX_SECONDS, SECONDS_PER_CONTENDER * len(runs)) if seconds is None else seconds
        timings = interleave(runs, budget)
        rows = _rows(contenders, timings)
    busy = any(one.disturbed for one in timings.values())
    return Bench(rows, this_machine(), _isa(), ort.__version__, threads, processors, feeder.fed, busy)


class _Feeder:
    """Opens contenders and binds each to its inputs."""

    def __init__(
        self,
        task: Task | None,
        shapes: Mapping[str, tuple[int, ...]],
        threads: int,
        values: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self._task, self._shapes, self._threads = task, shapes, threads
        self._unused = [dict(one) for one in values]
        self._values = tuple(values)
        self.fed: dict[str, tuple[int, ...]] = {}

    def contender(
        self, model: Path, path: Path, backend: str, note: str = "", config: Mapping[str, str] | None = None
    ) -> _Contender:
        """A model with its optional inputs as they are by default."""
        session, feeds = self._opened(path, config)
        return self._bound(model, path, backend, note, session, feeds)

    def contenders(self, path: Path, backend: str, note: str, config: Mapping[str, str] | None) -> list[_Contender]:
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
            return session, next(self._task.batches(interface)).feeds
        return session, random_feeds(interface, self._shapes)

    def _bound(
        self,
        model: Path,
        path: Path,
        backend: str,
        note: str,
        session: ort.InferenceSession,
        feeds: dict[str, np.ndarray[Any, Any]],
    ) -> _Contender:
        run(session, None, feeds)
        self.fed = self.fed or {name: array.shape for name, array in feeds.items()}
        return _Contender(model, path, backend, note, native_call(session, feeds))


def _joined(note: str, values: Mapping[str, float]) -> str:
    """A row's note with the values that it was run with."""
    return ", ".join([*([note] if note else []), *(f"{name}={value:g}" for name, value in values.items())])


def _as_given(path: Path, feeder: _Feeder, widths: Mapping[int, Mapping[str, str]]) -> list[_Contender]:
    """A model as it is, or once for each weight width and each set of values asked for."""
    backend = "edgefold" if uses_library(path) else "ort"
    if not widths:
        return feeder.contenders(path, backend, "", None)
    notes = {bits: f"weights at {bits} bits" for bits in widths}
    return [one for bits in widths for one in feeder.contenders(path, backend, notes[bits], widths[bits])]


def _forms(
    models: Sequence[Path], against: Sequence[str], task: Task | None, folder: Path, feeder: _Feeder
) -> list[_Contender]:
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
            found.append(_Contender(original, original, kind, str(error), None))
    return found


def _rows(contenders: Sequence[_Contender], timings: Mapping[str, Timing]) -> tuple[BenchRow, ...]:
    medians = {one.backend: timings[str(index)].median for index, one in enumerate(contenders) if one.run is not None}
    # The named fp32 form, else the first model that runs in stock ONNX Runtime.
    stock = [timings[str(i)].median for i, one in enumerate(contenders) if one.backend == "ort"]
    base = medians.get("ort-fp32", stock[0] if stock else None)
    rows = []
    for index, one in enumerate(contenders):
        timing = timings.get(str(index))
        size = one.path.stat().st_size if timing is not None else None
        if timing is None:
            rows.append(BenchRow(str(one.model), one.backend, size, None, None, None, None, 0, one.note))
            continue
        ratio = None if base is None else base / timing.median
        figures = (timing.median, timing.p10, timing.p90, ratio, timing.runs)
        rows.append(BenchRow(str(one.model), one.backend, size, *figures, one.note))
    return tuple(rows)


def _cells(row: BenchRow) -> tuple[str, ...]:
    figures = (row.median_ms, row.p10_ms, row.p90_ms)
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    name = "/".join(Path(row.model).parts[-2:])
    return (name, row.backend, *("-" if figure is None else f"{figure:.4g}" for figure in figures), ratio, row.note)


def _isa() -> dict[str, str]:
    from edgefold.runtime import kernels

    try:
        return {one.family: one.isa for one in kernels() if one.chosen}
    except EdgefoldError:
        # Stock models are benched without the compiled module too; the text then says "not built".
        return {}
