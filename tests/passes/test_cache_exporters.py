# SPDX-License-Identifier: Apache-2.0
"""A decoder as both exporters of torch write it, heads of keys shared: compressed to a cache of codes, and run."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import edgefold
from edgefold.errors import EdgefoldError
from edgefold.files.loading import load_model
from edgefold.passes.base import CACHES
from edgefold.session import make_session

pytest.importorskip("torch")

MODELS = Path(__file__).resolve().parents[2] / "models"
RECIPE = """steps:
  - {pass: simplify}
  - {pass: quantize, weights: 8, method: shift, rounding: nearest}
  - {pass: quantize-attention, cache: int8}
"""
TASK = """data: calib.npz
inputs:
  input_ids: {array: x}
  past.0.key: {array: past}
  past.0.value: {array: past}
  past.1.key: {array: past}
  past.1.value: {array: past}
metric: {name: cosine, output: logits, labels: y}
calibration: {data: calib.npz}
batch: 4
"""
TOKENS, HEADS, DEPTH, STEPS = 31, 2, 8, 30


@pytest.fixture(scope="module")
def cached_gpt() -> Any:
    sys.path.insert(0, str(MODELS))
    try:
        return importlib.import_module("cached_gpt")
    finally:
        sys.path.remove(str(MODELS))


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def exported(request: pytest.FixtureRequest, cached_gpt: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    model = cached_gpt.CachedGPT(cached_gpt.Form(TOKENS, 600, 32, 4, HEADS, 2)).eval()
    with warnings.catch_warnings():  # what torch says of its older exporter
        warnings.simplefilter("ignore")
        cached_gpt.export(model, path, request.param)
    return path


@pytest.fixture(scope="module")
def compressed(exported: Path) -> Path:
    """With a task that feeds the cache as floats, as the original takes it."""
    folder = exported.parent
    rng = np.random.default_rng(0)
    past = rng.standard_normal((8, HEADS, 5, DEPTH)).astype(np.float32)
    x = rng.integers(0, TOKENS, (8, 3))
    names = [f"past.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    feeds: dict[str, Any] = {"input_ids": x, **dict.fromkeys(names, past)}
    y = ort.InferenceSession(str(exported)).run(["logits"], feeds)[0]
    np.savez(folder / "calib.npz", x=x, past=past, y=y)
    (folder / "task.yaml").write_text(TASK)
    (folder / "recipe.yaml").write_text(RECIPE)
    try:
        report = edgefold.compress(exported, folder / "out", task=folder / "task.yaml", recipe=folder / "recipe.yaml")
    except EdgefoldError as error:
        if "library" in str(error):
            pytest.skip(str(error))
        raise
    step = report.to_json()["steps"][-1]
    assert step["pass"] == "quantize-attention"
    assert step["edits"] == 2
    assert step["options"]["cache"] == "int8"
    return folder / "out" / "model.onnx"


def decoded(session: ort.InferenceSession, ids: np.ndarray) -> np.ndarray:
    """Logits of a text fed a piece, and then one token a step, as an app does: every present is the next past."""
    names = [one.name for one in session.get_outputs()]
    kinds = {"tensor(int8)": np.int8, "tensor(float)": np.float32}
    past = {
        one.name: np.zeros((len(ids), HEADS, 0, one.shape[3]), kinds[one.type])
        for one in session.get_inputs()
        if one.name != "input_ids"
    }
    parts, start = [], 0
    for end in (4, *range(5, STEPS + 1)):
        found = dict(zip(names, session.run(None, {"input_ids": ids[:, start:end], **past}), strict=True))
        past = {name: found[name.replace("past", "present")] for name in past}
        parts.append(found["logits"])
        start = end
    return np.concatenate(parts, 1)


def test_the_file_names_its_caches_and_decodes(exported: Path, compressed: Path) -> None:
    model = load_model(compressed).model
    assert CACHES in model.metadata_props
    operators = [node.op_type for node in model.graph]
    assert operators.count("CachedAttention") == 2
    assert operators.count("QuantizeRows") == 4
    assert "Expand" not in operators
    ids = np.random.default_rng(3).integers(0, TOKENS, (2, STEPS))
    expected = decoded(ort.InferenceSession(str(exported)), ids)
    found = decoded(make_session(compressed, threads=1).native, ids)
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean((expected - expected.mean(-1, keepdims=True)) ** 2))
    assert error < 0.03
    # Stock ONNX Runtime with its own arithmetic: the same model, up to what a last bit does to a rounded code.
    stock = decoded(ort.InferenceSession(str(compressed)), ids)
    assert np.sqrt(np.mean((stock - found) ** 2) / np.mean(found**2)) < 0.01


def test_evaluation_and_comparison_take_the_cache_as_floats(exported: Path, compressed: Path) -> None:
    task = exported.parent / "task.yaml"
    assert edgefold.evaluate(compressed, task).value > 0.995
    assert "present.0.key" in str(edgefold.diff(exported, compressed, task=task).to_json())
