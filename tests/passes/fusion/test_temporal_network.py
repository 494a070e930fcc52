# SPDX-License-Identifier: Apache-2.0
"""A network of convolutions of one dimension from torch's exporter to codes."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.compression import compress
from edgefold.session import make_session

ROOT = Path(__file__).resolve().parents[3]
TASK = """data: samples.npz
inputs: {features: {array: x}}
metric: {name: cosine, reference: model.onnx}
calibration: {data: samples.npz, samples: 8}
batch: 1
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's first exporter is deprecated, and says so
def test_temporal_network_that_torch_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the network is made with torch")
    monkeypatch.setattr(sys, "path", [str(ROOT / "models" / "zoo"), *sys.path])
    build, example = importlib.import_module("torch_zoo").catalogue()["tcn"]
    importlib.import_module("torch_export").export(build, example, "torch-legacy", tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((8, 40, 60)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    (tmp_path / "task.yaml").write_text(TASK)
    compress(tmp_path / "model.onnx", tmp_path / "out", "fused", tmp_path / "task.yaml", seed=0)
    made = ir.load(tmp_path / "out" / "model.onnx")
    found = Counter(node.op_type for node in made.graph)
    assert (found["FusedConvBlock"], found["ShiftConv"], found["Add"]) == (9, 0, 0)
    original = ir.load(tmp_path / "model.onnx")
    wanted, got = (make_session(one).run(None, {"features": x})[0] for one in (original, made))
    assert (wanted * got).sum() / np.sqrt((wanted**2).sum() * (got**2).sum()) > 0.999
