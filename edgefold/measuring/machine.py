# SPDX-License-Identifier: Apache-2.0
"""The machine that a figure was measured on: processor, the features that matter here, cores."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# As /proc/cpuinfo spells them, on x86-64 and on arm64.
_FEATURES = ("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx_vnni",
             "amx_int8", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One computer.

    Attributes:
        cpu: the processor's name.
        architecture: "x86_64", "aarch64".
        features: instruction-set extensions of interest that it has, as Linux names them.
        cores: logical processors that this process may use.
    """

    cpu: str
    architecture: str
    features: tuple[str, ...]
    cores: int

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON."""
        return asdict(self)


def this_machine() -> Machine:
    """Describes the machine that this process runs on."""
    fields = _cpuinfo()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    features = tuple(name for name in _FEATURES if name in flags)
    name = fields.get("model name") or fields.get("Model") or platform.processor() or "unknown"
    return Machine(name, platform.machine(), features, len(os.sched_getaffinity(0)))


def _cpuinfo() -> dict[str, str]:
    """Key -> first value in /proc/cpuinfo; empty where there is no such file."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return fields
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    return fields
