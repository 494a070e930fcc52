# SPDX-License-Identifier: Apache-2.0
"""The committed models are those that models/README.md describes, and score what it says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import onnx
import pytest

from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import load_task

MODELS = Path(__file__).resolve().parent.parent.parent / "models"
README = (MODELS / "README.md").read_text()


def test_hashes_are_those_of_the_readme() -> None:
    listed = re.findall(r"^([0-9a-f]{64}) +(\d+) (\S+)$", README, re.MULTILINE)
    assert {name for _, _, name in listed} == {
        str(path.relative_to(MODELS)) for path in MODELS.glob("*/*") if path.suffix in {".onnx", ".npz"}
    }
    for digest, size, name in listed:
        content = (MODELS / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), str(len(content))) == (digest, size), name


def test_all_files_together_stay_below_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 3_000_000


# The scores of models/README.md. Half a sample of 500, and the rounding of three decimals, for other processors.
@pytest.mark.parametrize(("name", "score", "tolerance"), [("digits_cnn", 99.6, 0.1), ("char_lm", 3.571, 0.0006)])
def test_score_in_full_precision(name: str, score: float, tolerance: float) -> None:
    result = evaluate(MODELS / name / "model.onnx", load_task(MODELS / name / "task.yaml"))
    assert result.value == pytest.approx(score, abs=tolerance)


def test_digits_cnn_keeps_its_batch_normalization() -> None:
    graph = onnx.load(MODELS / "digits_cnn" / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("BatchNormalization") == operators.count("Conv") == 8


def test_char_lm_ties_its_embedding_to_the_head() -> None:
    graph = onnx.load(MODELS / "char_lm" / "model.onnx").graph
    readers = [node.op_type for node in graph.node if "embedding.weight" in node.input]
    assert sorted(readers) == ["Gather", "Transpose"]
