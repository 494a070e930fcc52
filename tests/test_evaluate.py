# SPDX-License-Identifier: Apache-2.0
"""Scoring: values on a tiny model, references and originals, fixed batches, and the baselines of the real models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import ModelError, UsageError
from edgefold.scoring.evaluate import evaluate, paired_difference
from edgefold.scoring.task import Task, load_task

DATA = Path(os.environ.get("EDGEFOLD_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

IDENTITY = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[{batch}, 4] x) => (float[{batch}, 4] logits) {{ logits = Identity(x) }}
"""


def model(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def save(text: str, path: Path) -> Path:
    ir.save(model(text), path)
    return path


@pytest.fixture
def task(tmp_path: Path) -> Task:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((10, 4)).astype(np.float32)
    y = x.argmax(axis=1)
    y[:3] = (y[:3] + 1) % 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.savez(tmp_path / "calib.npz", x=x)
    (tmp_path / "task.yaml").write_text(
        "data: data.npz\ninputs: {x: {array: x}}\nmetric: {name: top1, output: logits, labels: y}\n"
        "calibration: {data: calib.npz}\nbatch: 4\n"
    )
    return load_task(tmp_path / "task.yaml")


@pytest.mark.parametrize("batch", ["N", "3"])
def test_a_dynamic_and_a_fixed_batch_score_alike(task: Task, batch: str) -> None:
    result = evaluate(model(IDENTITY.format(batch=batch)), task)
    assert result.value == 70
    assert result.samples == 10
    assert result.worse == "lower"
    assert result.to_json()["metric"] == "top1"
    assert set(result.to_json()) >= {"metric", "value", "ci95", "samples", "seconds_per_sample"}
    low, high = result.ci95
    assert low < 70 < high
    assert "top1 70.0000%" in result.to_text()


def test_calibration_without_labels_is_closeness_to_the_original(task: Task, tmp_path: Path) -> None:
    original = save(IDENTITY.format(batch="N"), tmp_path / "m.onnx")
    noisy = model(
        '<ir_version: 10, opset_import: ["" : 17]>\n'
        "g (float[2, 4] x) => (float[2, 4] logits) <float[4] b = {1.0, 0.0, 0.0, 0.0}> { logits = Add(x, b) }"
    )
    same = evaluate(original, task, split="calibration", original=original)
    assert (same.metric, same.value, same.target) == ("cosine", pytest.approx(1), "original")
    other = evaluate(noisy, task, split="calibration", original=original)
    assert other.value < 0.99
    difference, (low, high) = paired_difference(other, same)
    assert low <= difference <= high < 0
    with pytest.raises(UsageError, match="closeness to an original model"):
        evaluate(original, task, split="calibration")


def test_a_reference_is_the_target(tmp_path: Path, task: Task) -> None:
    save(IDENTITY.format(batch="1"), tmp_path / "ref.onnx")
    text = task.path.read_text().replace("labels: y", "reference: ref.onnx").replace("top1", "mse")
    (tmp_path / "r.yaml").write_text(text)
    referenced = load_task(tmp_path / "r.yaml")
    for _ in range(2):  # computed, then from memory
        result = evaluate(model(IDENTITY.format(batch="N")), referenced)
        assert (result.value, result.target, result.samples) == (0, "reference", 10)


@pytest.mark.parametrize("rewritten", ["ref.onnx", "data.npz"])
def test_a_reference_is_what_its_files_hold_now(tmp_path: Path, task: Task, rewritten: str) -> None:
    """Of equal size and with the old time: a clock's tick is long enough to write a small file twice."""
    text = task.path.read_text().replace("labels: y", "reference: ref.onnx").replace("top1", "mse")
    (tmp_path / "r.yaml").write_text(text)
    save(IDENTITY.format(batch="N").replace("Identity", "Softplus"), tmp_path / "ref.onnx")
    referenced, scored = load_task(tmp_path / "r.yaml"), model(IDENTITY.format(batch="N"))
    arrays = dict(np.load(tmp_path / "data.npz"))
    x = arrays["x"]
    assert evaluate(scored, referenced).value == pytest.approx(((np.log1p(np.exp(x)) - x) ** 2).mean(), rel=1e-5)

    stamp = (tmp_path / rewritten).stat()
    if rewritten == "ref.onnx":
        save(IDENTITY.format(batch="N").replace("Identity", "Softsign"), tmp_path / rewritten)
        expected = ((x / (1 + abs(x)) - x) ** 2).mean()
    else:
        np.savez(tmp_path / rewritten, x=-x, y=arrays["y"])
        expected = ((np.log1p(np.exp(-x)) + x) ** 2).mean()
    os.utime(tmp_path / rewritten, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (tmp_path / rewritten).stat().st_size == stamp.st_size
    assert evaluate(scored, referenced).value == pytest.approx(expected, rel=1e-5)


def test_rows_of_files_that_did_not_change_are_computed_once(
    tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = save(IDENTITY.format(batch="N").replace("Identity", "Erf"), tmp_path / "m.onnx")
    for _ in range(2):
        assert evaluate(original, task, split="calibration", original=original).value == pytest.approx(1)
        monkeypatch.setattr("edgefold.scoring.reference_rows.make_session", None)


def test_two_tasks_cannot_be_compared(task: Task) -> None:
    one = evaluate(model(IDENTITY.format(batch="N")), task)
    two = evaluate(model(IDENTITY.format(batch="N")), task, limit=5)
    with pytest.raises(UsageError, match="cannot compare"):
        paired_difference(one, two)


def test_a_missing_output_lists_what_there_is(task: Task) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 17]>\n'
        "g (float[N, 4] x) => (float[N, 4] a, float[N, 4] b) { a = Identity(x)\n b = Neg(x) }"
    )
    with pytest.raises(UsageError, match=r"task\.yaml: metric names the output 'logits'.* outputs are a, b"):
        evaluate(model(text), task)


def test_an_output_without_rows_is_refused(task: Task) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 17]>\ng (float[N, 4] x) => (float s) { s = ReduceSum <keepdims = 0> (x) }'
    )
    with pytest.raises(UsageError, match="one row a sample"):
        evaluate(model(text), task)


def test_nan_is_an_error_not_a_score(task: Task, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(task.path.read_text().replace("top1", "perplexity"))
    text = (
        '<ir_version: 10, opset_import: ["" : 17]>\n'
        "g (float[N, 4] x) => (float[N, 4] logits) { n = Sub(x, x)\n logits = Div(n, n) }"
    )
    with pytest.raises(ModelError, match="NaN or infinite"):
        evaluate(model(text), load_task(tmp_path / "m.yaml"))


# Baselines of the evaluation sets, measured with stock ONNX Runtime on fp32 models.
QUICK = {"sklearn_digits": 97.4965, "keras_autoencoder_ad01": 9.5294, "vit_mnist": 96.925}
SLOW = {
    "cifar_resnet20": 80.65,
    "cifar_resnet56": 83.175,
    "imagenet_mobilenetv2": 87.25,
    "imagenet_squeezenet11": 57.75,
    "gpt_charlm": 6.6246,
    "moe_charlm": 4.889,
}


def check_baseline(name: str, expected: float) -> None:
    folder = DATA / name
    if not (folder / "task.yaml").exists():
        pytest.skip("the evaluation sets are not on this machine; EDGEFOLD_DATA names their folder")
    result = evaluate(folder / "model.onnx", load_task(folder / "task.yaml"))
    assert result.value == pytest.approx(expected, rel=2e-4)
    assert result.ci95[0] < result.value < result.ci95[1]


@pytest.mark.parametrize("name", QUICK)
def test_quick_baselines(name: str) -> None:
    check_baseline(name, QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_baselines(name: str) -> None:
    check_baseline(name, SLOW[name])
