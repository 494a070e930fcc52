# SPDX-License-Identifier: Apache-2.0
"""Latency of models beside ONNX Runtime's own forms of the same model, all in one interleaved run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefold.errors import EdgefoldError, ModelError, UsageError
from edgefold.measuring.baselines import KINDS
from edgefold.measuring.contenders import Contender, Feeder, as_given, forms_of
from edgefold.measuring.latency import Timing, interleave, pinned
from edgefold.measuring.machine import Machine, this_machine
from edgefold.measuring.text_table import text_table

if TYPE_CHECKING:
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
        ratio: median of the bench's base / this median, above 1 is faster; None without a base.
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
        base: the row that ratios are to: ORT's fp32 form, else the first model that runs in stock ONNX Runtime; None
            without one.
        busy: whether other work on the machine interrupted nearly all runs of some row.
    """

    rows: tuple[BenchRow, ...]
    machine: Machine
    isa: dict[str, str]
    onnxruntime: str
    threads: int
    processors: tuple[int, ...]
    inputs: dict[str, tuple[int, ...]]
    base: str | None = None
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
            f"{self._ratio_text()}"
            + (
                "\nOther work on this machine interrupted nearly all runs of a row; its figures are those of the load."
                if self.busy
                else ""
            )
        )

    def _ratio_text(self) -> str:
        if self.base is None:
            return "No ratio: none of the models runs in stock ONNX Runtime; add -m ORIGINAL."
        return f"ratio: median of {self.base} / median of the row; above 1 is faster."


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
        UsageError: another device, an unknown form, a dynamic dimension without a size, shapes beside a task, models
            of different batches, too many threads, values for inputs that no model has.
        ModelError: one of ``models`` cannot be run.
    """
    import onnxruntime as ort

    if device != "local":
        raise UsageError(f"--device {device}: only 'local' is supported; run bench on the device itself")
    for kind in against:
        if kind not in KINDS:
            raise UsageError(f"--against {kind}: expected one of {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="edgefold-bench-") as folder, pinned(threads) as processors:
        feeder = Feeder(task, shapes or {}, threads, values)
        forms = forms_of(models, against, task, Path(folder), feeder)
        # A model that is itself the fp32 form stands in the table once.
        already = {form.path for form in forms if form.backend == "ort-fp32"}
        listed = [path for path in models if path not in already]
        contenders = [one for path in listed for one in as_given(path, feeder, (widths or {}).get(path, {}))]
        feeder.check_values()
        contenders = sorted([*forms, *contenders], key=lambda one: one.backend != "ort-fp32")
        runs = {str(index): one.run for index, one in enumerate(contenders) if one.run is not None}
        if not runs:
            raise ModelError(contenders[0].note)
        log.info("timing %d contenders ...", len(runs))
        budget = min(MAX_SECONDS, SECONDS_PER_CONTENDER * len(runs)) if seconds is None else seconds
        timings = interleave(runs, budget)
        base = _base(contenders)
        rows = _rows(contenders, timings, base)
    busy = any(one.disturbed for one in timings.values())
    named = None if base is None else _title(contenders[base])
    return Bench(rows, this_machine(), _isa(), ort.__version__, threads, processors, feeder.fed, named, busy)


def _base(contenders: Sequence[Contender]) -> int | None:
    """The contender that ratios are to."""
    for backend in ("ort-fp32", "ort"):
        for index, one in enumerate(contenders):
            if one.backend == backend and one.run is not None:
                return index
    return None


def _rows(contenders: Sequence[Contender], timings: Mapping[str, Timing], base: int | None) -> tuple[BenchRow, ...]:
    rows = []
    for index, one in enumerate(contenders):
        timing = timings.get(str(index))
        size = one.path.stat().st_size if timing is not None else None
        if timing is None:
            rows.append(BenchRow(str(one.model), one.backend, size, None, None, None, None, 0, one.note))
            continue
        ratio = None if base is None else timings[str(base)].median / timing.median
        figures = (timing.median, timing.p10, timing.p90, ratio, timing.runs)
        rows.append(BenchRow(str(one.model), one.backend, size, *figures, one.note))
    return tuple(rows)


def _title(one: Contender) -> str:
    made = f"{one.backend}, {one.note}" if one.note else one.backend
    return f"{_short(one.model)} ({made})"


def _short(model: Path) -> str:
    return "/".join(model.parts[-2:])


def _cells(row: BenchRow) -> tuple[str, ...]:
    figures = (row.median_ms, row.p10_ms, row.p90_ms)
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    times = ("-" if figure is None else f"{figure:.4g}" for figure in figures)
    return (_short(Path(row.model)), row.backend, *times, ratio, row.note)


def _isa() -> dict[str, str]:
    from edgefold.runtime import kernels

    try:
        return {one.family: one.isa for one in kernels() if one.chosen}
    except EdgefoldError:
        # Stock models are benched without the compiled module too; the text then says "not built".
        return {}
