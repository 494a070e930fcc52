# SPDX-License-Identifier: Apache-2.0
"""Bench and ONNX Runtime's forms: the rows, the ratio, honest notes, and what is refused."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.errors import ModelError, UsageError
from edgefold.measuring.baselines import build_baseline
from edgefold.measuring.bench import bench
from edgefold.measuring.latency import _Sample, _timing, interleave, pinned
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import Task, load_task

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits_cnn" / "model.onnx"
CONV = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 8, 12, 12] x, float[8, 8, 3, 3] w, float[128, 64] m) => (float[N, 64] y) {
  c = Conv <pads = [1, 1, 1, 1]> (x, w)
  r = Relu(c)
  p = MaxPool <kernel_shape = [3, 3], strides = [3, 3]> (r)
  f = Flatten(p)
  y = MatMul(f, m)
}
"""


def save(path: Path, seed: int = 0, batch: str = "N") -> Path:
    generator = np.random.default_rng(seed)
    model = ir.from_onnx_text(CONV.replace("[N,", f"[{batch},"))
    for value in list(model.graph.inputs)[1:]:
        shape = tuple(value.shape.numpy())
        value.const_value = ir.tensor(generator.standard_normal(shape).astype(np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    ir.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "model.onnx")


@pytest.fixture
def task(tmp_path: Path, model: Path) -> Task:
    x = np.random.default_rng(1).standard_normal((20, 8, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    (tmp_path / "task.yaml").write_text(
        "data: data.npz\ninputs: {x: {array: x}}\nmetric: {name: cosine, output: y, reference: model.onnx}\n"
        "calibration: {data: data.npz, samples: 16}\nbatch: 4\n"
    )
    return load_task(tmp_path / "task.yaml")


def test_turns_are_interleaved_and_bounded() -> None:
    order: list[str] = []

    def contender(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    start = time.perf_counter()
    timings = interleave({"a": lambda: contender("a", 0.002), "b": lambda: contender("b", 0.004)}, seconds=0.3)
    assert time.perf_counter() - start < 2
    assert timings["b"].median > timings["a"].median
    assert timings["a"].p10 <= timings["a"].median <= timings["a"].p90
    switches = sum(left != right for left, right in itertools.pairwise(order))
    assert switches >= 5


def test_runs_that_other_work_interrupts_are_left_out_where_enough_are_not() -> None:
    calm, hit = _Sample(1.0, False), _Sample(9.0, True)
    timing = _timing([calm] * 6 + [hit] * 4)
    assert (timing.median, timing.p90, timing.runs) == (1.0, 1.0, 6)
    assert not timing.disturbed
    timing = _timing([calm] * 4 + [hit] * 6)
    assert (timing.median, timing.runs) == (9.0, 10)
    assert timing.disturbed


def test_pinning_is_undone_and_has_a_limit() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as processors:
        assert os.sched_getaffinity(0) == set(processors)
        assert len(processors) == 1
    assert os.sched_getaffinity(0) == before
    with pytest.raises(UsageError, match="this process may use"), pinned(10_000):
        pass


def test_rows_and_ratios(model: Path, task: Task) -> None:
    result = bench([model], task=task, against=("ort-fp32", "ort-int8", "ort-int4"), seconds=0.2)
    assert [row.backend for row in result.rows] == ["ort-fp32", "ort-int8", "ort-int4"]
    first = result.rows[0]
    assert first.ratio == 1
    for row in result.rows:
        assert row.model == str(model)
        assert row.median_ms is not None
        assert first.median_ms is not None
        assert row.ratio == pytest.approx(first.median_ms / row.median_ms)
    assert "static QDQ" in result.rows[1].note
    assert "Conv stays float" in result.rows[2].note
    assert result.inputs == {"x": (4, 8, 12, 12)}
    document = result.to_json()
    assert set(document["rows"][0]) >= {"model", "backend", "median_ms", "p10_ms", "p90_ms", "ratio"}
    assert {"machine", "isa", "onnxruntime", "threads"} <= set(document)
    assert result.base == f"{model.parent.name}/model.onnx (ort-fp32)"
    text = result.to_text()
    assert f"ratio: median of {result.base} / median of the row" in text
    assert "1 thread(s) on processor(s)" in text
    assert "ONNX Runtime" in text


def test_two_models_without_forms_compare_with_the_first(model: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.onnx", seed=1)
    result = bench([model, other], shapes={"x": (1, 8, 12, 12)}, seconds=0.1)
    assert [row.backend for row in result.rows] == ["ort", "ort"]
    assert result.rows[0].ratio == 1
    assert result.base == f"{tmp_path.name}/model.onnx (ort)"  # nothing says that it is in float32


def test_without_a_stock_model_there_is_no_ratio(tmp_path: Path, edgefold: Callable[..., Any]) -> None:
    folder = tmp_path / "out"
    assert edgefold("compress", "-m", DIGITS, "-o", folder, "-c", "w8").code == 0
    outcome = edgefold("bench", "-m", folder, "--shape", "image=1x1x8x8")
    assert "No ratio: none of the models runs in stock ONNX Runtime; add -m ORIGINAL" in outcome.out
    assert "ratio: median" not in outcome.out


def test_models_of_different_batches_do_not_compare(model: Path, task: Task, tmp_path: Path) -> None:
    eight = save(tmp_path / "eight.onnx", batch="8")
    assert bench([model, eight], shapes={"x": (8, 8, 12, 12)}, seconds=0.1).rows[1].ratio is not None
    two = save(tmp_path / "two.onnx", batch="2")
    for options in ({"task": task}, {}):
        with pytest.raises(UsageError, match=r"eight.onnx runs 8 samples at a time, .*two.onnx 2: .*export one batch"):
            bench([eight, two], **options)  # type: ignore[arg-type]


def test_a_task_and_a_shape_are_one_too_many(model: Path, task: Task, edgefold: Callable[..., Any]) -> None:
    for verb in (("bench", "-m", model), ("diff", "-m", model, "-m", model)):
        outcome = edgefold(*verb, "-d", task.path, "--shape", "x=1x8x12x12")
        assert outcome.code == 2
        assert "--shape and -d both say what is fed; give one" in outcome.error_line


def test_an_open_dimension_is_listed(model: Path) -> None:
    with pytest.raises(UsageError, match=r"x \[N, 8, 12, 12\].*--shape x=1x8x12x12"):
        bench([model])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "board"}, "only 'local' is supported"),
        ({"against": ("ort-int2",)}, "expected one of ort-fp32"),
        ({"threads": 10_000}, "this process may use"),
    ],
)
def test_wrong_options(model: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench([model], shapes={"x": (1, 8, 12, 12)}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "least"), [("ort-int8", 0.99), ("ort-int8-dynamic", 0.99), ("ort-int4", 0.95)])
def test_forms_are_close_to_the_original(model: Path, task: Task, tmp_path: Path, kind: str, least: float) -> None:
    form = build_baseline(model, kind, task, tmp_path)
    assert least < evaluate(form.path, task).value < 1


def test_dynamic_is_the_int8_form_without_calibration(model: Path, tmp_path: Path) -> None:
    assert "dynamic" in build_baseline(model, "ort-int8", None, tmp_path).note
    with pytest.raises(UsageError, match="needs a task with calibration data"):
        build_baseline(model, "ort-int8-static", None, tmp_path)


def test_what_ort_cannot_quantize_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError) as caught:
        build_baseline(tmp_path / "bad.onnx", "ort-int4", None, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_that_runs_in_no_form_is_one_line(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
    g (float[2] x) => (float[2] y) { y = com.acme.Magic (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"unknown operator com\.acme::Magic"):
        bench([tmp_path / "m.onnx"], against=("ort-fp32", "ort-int8"))
