# SPDX-License-Identifier: Apache-2.0
"""Doctor: what it looks at, and that each fault comes with its way out."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from edgefold.errors import EdgefoldError
from edgefold.measuring import doctor as module
from edgefold.measuring.doctor import Diagnosis, Finding, doctor


def subject(diagnosis: Diagnosis, name: str) -> Finding:
    return next(one for one in diagnosis.findings if one.subject == name)


def test_everything_is_looked_at() -> None:
    diagnosis = doctor()
    subjects = [one.subject for one in diagnosis.findings]
    assert {"machine", "onnx", "onnxruntime", "kernels", "operator library", "extra [heal]"} <= set(subjects)
    assert all(one.way_out for one in diagnosis.findings if one.level != "ok")
    assert json.loads(json.dumps(diagnosis.to_json()))["healthy"] == diagnosis.healthy
    assert "machine:" in diagnosis.to_text()


def test_two_runtime_wheels_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.24.4" if name == "onnxruntime-gpu" else real(name)
    )
    diagnosis = doctor()
    found = subject(diagnosis, "ONNX Runtime wheels")
    assert found.level == "fail"
    assert "uninstall" in found.way_out
    assert not diagnosis.healthy


def test_an_old_library_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.9.0" if name == "onnx" else real(name))
    assert subject(doctor(), "onnx") == Finding("fail", "onnx", "1.9.0 is older than 1.21", "pip install 'onnx>=1.21'")


def test_a_missing_operator_library_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise EdgefoldError("the operator library is missing")

    monkeypatch.setattr("edgefold.runtime.ops_library", missing)
    assert subject(doctor(), "operator library").level == "warn"


def test_a_library_that_does_not_load_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setattr("edgefold.runtime.ops_library", lambda: tmp_path / "broken.so")
    found = subject(doctor(), "operator library")
    assert found.level == "fail"
    assert "broken.so does not load" in found.text
    assert "\n" not in found.text


def test_the_environment_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEFOLD_DATA", str(tmp_path / "none"))
    monkeypatch.setattr(module, "_kernels", list)
    assert subject(doctor(), "EDGEFOLD_DATA").level == "warn"
