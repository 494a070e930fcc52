# SPDX-License-Identifier: Apache-2.0
"""What works on this machine and what does not, each with the way out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgefold.errors import EdgefoldError
from edgefold.measuring.machine import this_machine

Level = Literal["ok", "warn", "fail"]

# Oldest versions without known holes (onnx) or with the custom-op interface that the library asks for (onnxruntime).
_OLDEST = {"onnx": (1, 21), "onnxruntime": (1, 19, 2), "numpy": (1, 26), "onnx-ir": (1, 0), "onnxscript": (0, 6)}
# Wheels that install the same import package over each other.
_RUNTIME_WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn",
                   "onnxruntime-training", "ort-nightly")  # fmt: skip
_EXTRAS = {"heal": ("torch",)}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok", "warn" (something is slower or missing) or "fail" (EdgeFold cannot work).
        subject: what was looked at.
        text: what was found.
        way_out: what to do; empty where nothing is wrong.
    """

    level: Level
    subject: str
    text: str
    way_out: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of looking."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(one.level != "fail" for one in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The JSON document of ``edgefold doctor``."""
        return {"healthy": self.healthy, "findings": [asdict(one) for one in self.findings]}

    def to_text(self) -> str:
        """One line a finding, the way out under it."""
        lines = []
        for one in self.findings:
            lines.append(f"{one.level:<4}  {one.subject}: {one.text}")
            if one.way_out:
                lines.append(f"      -> {one.way_out}")
        return "\n".join(lines)


def doctor() -> Diagnosis:
    """Looks at the machine, the libraries, the kernels and the operator library, which it really loads."""
    findings = [_machine(), *(_version(name) for name in _OLDEST), _runtime_wheels(), *_kernels(), _library()]
    return Diagnosis((*findings, *_environment(), *(_extra(name) for name in _EXTRAS)))


def _machine() -> Finding:
    machine = this_machine()
    features = " ".join(machine.features) or "no extension of interest"
    text = f"{machine.cpu}, {machine.architecture}, {machine.cores} processors, {features}; Python {_python()}"
    if machine.architecture not in ("x86_64", "aarch64"):
        return Finding("warn", "machine", text, "kernels are written for x86-64 and arm64; the reference runs here")
    return Finding("ok", "machine", text)


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _version(name: str) -> Finding:
    oldest = ".".join(map(str, _OLDEST[name]))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        importable = importlib.util.find_spec(name.replace("-", "_")) is not None
        if importable:
            return Finding("warn", name, "installed without its own metadata", f"pip install '{name}>={oldest}'")
        return Finding("fail", name, "not installed", f"pip install '{name}>={oldest}'")
    if _numbers(version) < _OLDEST[name]:
        return Finding("fail", name, f"{version} is older than {oldest}", f"pip install '{name}>={oldest}'")
    return Finding("ok", name, version)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def _runtime_wheels() -> Finding:
    found = []
    for name in _RUNTIME_WHEELS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    subject = "ONNX Runtime wheels"
    if len(found) > 1:
        way_out = "they overwrite each other's files; uninstall all of them and install one"
        return Finding("fail", subject, " and ".join(found) + " are both installed", way_out)
    return Finding("ok", subject, found[0] if found else "none by that name")


def _kernels() -> list[Finding]:
    from edgefold.runtime import kernels

    try:
        rows = kernels()
    except EdgefoldError as error:
        return [Finding("warn", "kernels", str(error), "without them models run in stock ONNX Runtime, more slowly")]
    chosen = [f"{row.family}: {row.isa}" for row in rows if row.chosen]
    slow = [row.family for row in rows if row.chosen and row.isa == "reference"]
    if slow and this_machine().architecture in ("x86_64", "aarch64"):
        text = f"{', '.join(slow)} run the scalar reference"
        return [Finding("ok", "kernels", "; ".join(chosen)), Finding("warn", "kernels", text, _slow_way_out())]
    return [Finding("ok", "kernels", "; ".join(chosen))]


def _slow_way_out() -> str:
    if os.environ.get("EDGEFOLD_ISA"):
        return "unset EDGEFOLD_ISA to let the library choose"
    return "correct but slow; this processor has no kernel of its own for them"


def _library() -> Finding:
    import onnxruntime as ort

    from edgefold.runtime import ops_library

    subject = "operator library"
    try:
        path = ops_library()
    except EdgefoldError as error:
        return Finding("warn", subject, str(error), "without it models run in stock ONNX Runtime, more slowly")
    try:
        ort.SessionOptions().register_custom_ops_library(str(path))
    except Exception as error:  # noqa: BLE001 - whatever ONNX Runtime raises is the finding
        text = f"{path.name} does not load in ONNX Runtime {ort.__version__}: {' '.join(str(error).split())[:200]}"
        return Finding("fail", subject, text, "reinstall edgefold for this machine: pip install --force-reinstall .")
    return Finding("ok", subject, f"{path.name} loads in ONNX Runtime {ort.__version__}")


def _environment() -> list[Finding]:
    findings = []
    isa = os.environ.get("EDGEFOLD_ISA")
    if isa:
        findings.append(Finding("warn", "EDGEFOLD_ISA", f"forces {isa}", "unset it for the fastest kernels"))
    data = os.environ.get("EDGEFOLD_DATA")
    if data and not Path(data).is_dir():
        findings.append(Finding("warn", "EDGEFOLD_DATA", f"{data} is no folder", "set it to the evaluation sets"))
    elif data:
        findings.append(Finding("ok", "EDGEFOLD_DATA", data))
    return findings


def _extra(name: str) -> Finding:
    missing = [module for module in _EXTRAS[name] if importlib.util.find_spec(module) is None]
    if missing:
        # Optional by design: a line of advice, not a fault.
        return Finding("ok", f"extra [{name}]", f"not installed ({', '.join(missing)}); pip install 'edgefold[{name}]'")
    return Finding("ok", f"extra [{name}]", "installed")
