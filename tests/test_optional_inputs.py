# SPDX-License-Identifier: Apache-2.0
"""Inputs with defaults: `eval` and `bench` feed them where a user says so, and nothing else needs to know of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from edgefold import api
from edgefold.cli import cli
from edgefold.errors import UsageError
from edgefold.interface import ModelInterface
from edgefold.optional_inputs import optional_feeds, parse_values
from edgefold.session import make_session

SHIFTED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N, 4] x, int64 shift, float[2] gain) => (float[N, 4] y)
<int64 shift = {0}, float[2] gain = {1, 1}> {
  moved = Cast <to = 1> (shift)
  one = Constant <value = int64[1] {0}> ()
  factor = Gather(gain, one)
  scaled = Mul(x, factor)
  y = Add(scaled, moved)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    ir.save(ir.from_onnx_text(SHIFTED), path)
    x = np.zeros((6, 4), np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x)
    (tmp_path / "task.yaml").write_text(
        "data: data.npz\ninputs: {x: {array: x}}\nmetric: {name: mse, output: y, labels: y}\nbatch: 4\n"
    )
    return path


def test_they_are_no_inputs_that_a_task_must_name(model: Path) -> None:
    interface = ModelInterface.of(make_session(model))
    assert [port.name for port in interface.inputs] == ["x"]
    assert [str(port) for port in interface.optional] == ["shift tensor(int64) []", "gain tensor(float) [2]"]


def test_eval_feeds_them(model: Path) -> None:
    task = model.parent / "task.yaml"
    assert api.evaluate(model, task).value == 0
    assert api.evaluate(model, task, inputs=["shift=3"]).value == 9
    result = CliRunner().invoke(cli, ["eval", "-m", str(model), "-d", str(task), "--input", "shift=-2"])
    assert "mse 4.0000" in result.stdout


def test_bench_has_a_row_for_each_value(model: Path) -> None:
    rows = api.bench([model], shapes=["x=2x4"], inputs=["shift=1", "shift=2"]).rows
    assert [row.note for row in rows] == ["shift=1", "shift=2"]
    assert [row.note for row in api.bench([model], shapes=["x=2x4"]).rows] == [""]


def test_a_value_fills_the_input(model: Path) -> None:
    feeds = optional_feeds(make_session(model), {"gain": 0.5, "shift": 2})
    assert feeds["gain"].tolist() == [0.5, 0.5]
    assert feeds["shift"].dtype == np.int64
    assert feeds["shift"].shape == ()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"depth": 3}, "--input depth=3: the model has no such optional input; its optional inputs are shift, gain"),
        ({"x": 3}, "no such optional input"),
        ({"shift": 2.5}, "--input shift=2.5: the model takes int64 there"),
    ],
)
def test_what_does_not_fit_is_refused(model: Path, values: dict[str, float], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        optional_feeds(make_session(model), values)


def test_bench_refuses_values_that_no_model_takes(model: Path) -> None:
    with pytest.raises(UsageError, match="--input depth=3: no model has such an optional input"):
        api.bench([model], shapes=["x=2x4"], inputs=["depth=3"])


@pytest.mark.parametrize("option", ["depth", "depth=", "=3", "depth=three"])
def test_other_forms_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=NUMBER, for example --input depth=3"):
        parse_values([option])


def test_one_input_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="already given a value"):
        parse_values(["depth=3", "depth=4"])
