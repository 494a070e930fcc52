# SPDX-License-Identifier: Apache-2.0
"""Real architectures, those that are small enough for every run: half of their channels cut, and the oracle.

All others are in docs/results/prunability.md.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import onnx
import pytest
from cut_oracle import assert_oracle, examine, some_units

from edgefold.files.loading import load_model

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
TORCH = ["tcn", "wavenet", "lstm_tagger", "gru_bidirectional", "dlrm", "crnn", "pointnet"]


def assert_prunable(path: Path, groups: int) -> None:
    examined = examine(load_model(path).model)
    pruned = some_units(examined.dependencies, 0.5)
    assert len(pruned) >= groups
    assert_oracle(examined, pruned)


@pytest.mark.parametrize(("name", "groups"), [("digits_cnn", 5), ("char_lm", 6)])
def test_committed_models(name: str, groups: int) -> None:
    assert_prunable(ROOT / "models" / name / "model.onnx", groups)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="this onnx wheel ships no real architectures")
@pytest.mark.parametrize(("name", "groups"), [("light_squeezenet", 17)])
def test_architectures_of_the_onnx_package(name: str, groups: int) -> None:
    assert_prunable(SHIPPED / f"{name}.onnx", groups)


@pytest.mark.filterwarnings("ignore")  # torch's first exporter is deprecated, and says so
@pytest.mark.parametrize("name", TORCH)
def test_networks_that_torch_exports(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="these networks are made with torch")
    monkeypatch.setattr(sys, "path", [str(ROOT / "models" / "zoo"), *sys.path])
    build, example = importlib.import_module("torch_zoo").catalogue()[name]
    importlib.import_module("torch_export").export(build, example, "torch-legacy", tmp_path / "model.onnx")
    assert_prunable(tmp_path / "model.onnx", 1)
