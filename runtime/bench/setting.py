# SPDX-License-Identifier: Apache-2.0
"""What stands beside the figures of every bench: machine, instruction set, versions, and the floor of what is timed.

A floor is the longer of two times: the operations at the speed of one instruction alone, float or 8-bit, and the bytes
that cannot but be read, from the nearest level of memory that holds them. Both speeds are measured at the start of the
run, so that load and clock are those of the figures beside them.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from edgefold import __version__
from edgefold.measuring.machine import Machine, this_machine
from edgefold.measuring.waterline import ceilings as waterline
from edgefold.measuring.waterline.ceilings import Ceilings, Number
from edgefold.runtime import kernels


@dataclass(frozen=True)
class Floor:
    """Least microseconds that a machine allows, and what sets them: "compute", or a level of memory."""

    us: float
    bound: str


@dataclass(frozen=True)
class Setting:
    """Where a bench runs.

    Attributes:
        machine: the computer.
        isa: the instruction set of the kernels timed, as EDGEFOLD_ISA spells it.
        versions: of EdgeFold, of ONNX Runtime, and of a peer.
        load_average: of the machine, over the minute before: other work that wanted cores.
        ceilings: of one core, measured in this run.
    """

    machine: Machine
    isa: str
    versions: dict[str, str]
    load_average: float
    ceilings: Ceilings

    def floor(self, operations: float, size: float, number: Number = "integer", threads: int = 1) -> Floor:
        """Of so many operations, two a multiply-add, on weights (or rows) of `size` bytes, read once."""
        level = self.ceilings.level(int(size))
        compute = 1e6 * operations / self.ceilings.operations(number) / threads
        memory = 1e6 * size / level.bytes_per_second / threads
        return Floor(*max((compute, "compute"), (memory, level.name)))

    def to_text(self) -> str:
        """Two lines above a table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        load = f"load average {self.load_average:.1f}"
        return f"{self.machine.cpu}, instruction set {self.isa}; {versions}; {load}\n{self.ceilings.to_text()}"

    def write(self, path: Path | None, rows: Any, **options: Any) -> None:
        """The rows as JSON, with all of this and the options of the run; nothing where no path is given."""
        if path is not None:
            path.write_text(json.dumps({"setting": asdict(self) | options, "rows": rows}, indent=2) + "\n")


def this_setting(family: str = "gemm", **versions: str) -> Setting:
    """This machine, its ceilings measured now (three seconds), or those of the file that EDGEFOLD_CEILINGS names.

    Args:
        family: the kernel family whose variant names the instruction set.
        versions: of what else takes part.
    """
    isa = next(row.isa for row in kernels() if row.family == family and row.chosen)
    known = {"EdgeFold": __version__, "ONNX Runtime": str(ort.__version__)}
    return Setting(this_machine(), isa, known | versions, os.getloadavg()[0], _ceilings())


def _ceilings() -> Ceilings:
    if waterline.ENVIRONMENT in os.environ:
        return waterline.ceilings()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[waterline.ENVIRONMENT] = str(Path(folder) / "ceilings.json")  # or an older run's would be read
        try:
            return waterline.ceilings()
        finally:
            del os.environ[waterline.ENVIRONMENT]
