# SPDX-License-Identifier: Apache-2.0
"""Blocks go while the task's metric on calibration data bears it, and never by the evaluation data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import run, weights
from residual_chains import WIDTH, chain
from test_remove_blocks import BATCHES, context, digest, gone, removed

from edgefold.errors import UsageError
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.pipeline import run_recipe
from edgefold.plan import Plan, make_plan
from edgefold.recipe import parse_recipe
from edgefold.scoring.evaluate import Evaluation
from edgefold.scoring.task import load_task


class Closeness:
    """100 less the error in per cent of what the original gives; counts how often it was asked."""

    def __init__(self, original: ir.Model) -> None:
        self.wanted = [run(original, batch)[0] for batch in BATCHES]
        self.asked = 0

    def __call__(self, *models: ir.Model) -> Evaluation:
        """Of two models, as `calibration_metric`, the first on the odd batch and the second on the even one."""
        self.asked += 1
        got = [run(model, batch)[0] for model, batch in zip((models[-1], models[0]), BATCHES, strict=True)]
        lost = sum(float(np.square(a - b).sum()) for a, b in zip(got, self.wanted, strict=True))
        value = 100 - 100 * lost / sum(float(np.square(b).sum()) for b in self.wanted)
        return Evaluation("top1", value, (value, value), 1, 0.0, "lower", "calibration", "labels", np.zeros((1, 1)))


def test_the_blocks_that_cost_nothing_go_and_the_next_is_named() -> None:
    model = chain(6, silent=(1, 4), last="y")
    notes = removed(model, context(model, metric=Closeness(model)), max_drop="0.001%", repair="none")
    assert gone(notes) == ["block 1", "block 4"]
    assert notes.stats["calibration_drop"] == pytest.approx(0, abs=1e-3)
    [skip] = notes.skips
    assert skip.node in {"block 0", "block 2", "block 3", "block 5"}
    assert "the metric on calibration data is" in skip.detail


@pytest.mark.parametrize("drop", ["0.1%", "25pt"])
def test_the_metric_of_what_is_left_stays_within_the_drop_and_one_more_would_not(drop: str) -> None:
    original = chain(4, last="y")
    metric, model = Closeness(original), original.clone()
    notes = removed(model, context(original, metric=metric), max_drop=drop)
    most = float(drop.rstrip("%pt"))
    asked = metric.asked
    if notes.edits:
        assert 100 - metric(model).value <= notes.stats["calibration_drop"] <= most  # refitted on both batches
    assert asked == len(gone(notes)) + 2  # the original, what went, and what would have gone next
    [skip] = [skip for skip in notes.skips if "the metric on calibration data is" in skip.detail]
    assert float(skip.detail.split(" is ")[1].split()[0]) > most


def test_the_repair_counts() -> None:
    model = chain(4, last="y")
    numbers = [
        len(gone(removed(model.clone(), context(model, metric=Closeness(model)), max_drop="60%", repair=repair)))
        for repair in ("none", "least-squares")
    ]
    assert numbers[0] < numbers[1]


def test_where_nothing_may_go_the_model_comes_back_as_it_was() -> None:
    model = chain(5, last="y")
    before = digest(model)
    notes = removed(model, context(model, metric=Closeness(model)), max_drop="0.0001pt", repair="none")
    assert not notes.edits
    assert digest(model) == before
    assert "the budget lets no block go" in str(notes.skips[-1])


def test_all_blocks_go_where_the_metric_bears_it() -> None:
    model = chain(3, silent=(0, 1, 2), last="y")
    notes = removed(model, context(model, metric=Closeness(model)), max_drop="1%", repair="none")
    assert len(gone(notes)) == 3
    assert not notes.skips


def test_without_a_metric_nothing_goes() -> None:
    model = chain(3, silent=(1,))
    [skip] = removed(model, max_drop="1%").skips
    assert str(skip) == (
        "model: needs calibration data (max_drop is measured by the task's metric on calibration data with labels)"
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_drop": "much"}, "max_drop much: expected a percentage"),
        ({"max_drop": "1%", "blocks": 1}, "blocks and max_drop both say how much goes"),
        ({"max_drop": "1%", "criterion": "exhaustive"}, "max_drop goes block by block"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_recipe({"steps": [{"pass": "remove-blocks", **options}]}, "recipe")


def task_of(folder: Path, model: ir.Model, labels: bool) -> Path:
    """A task whose evaluation data contradict the calibration data: by them no block may stay."""
    save_model(model, folder / "model.onnx")
    x = weights(64, WIDTH, seed=3)
    y = run(model, {"x": x})[0]
    np.savez(folder / "calib.npz", **({"x": x, "y": y} if labels else {"x": x}))
    np.savez(folder / "eval.npz", x=x, y=x)
    path = folder / "task.yaml"
    path.write_text("data: eval.npz\ninputs: {x: {array: x}}\nmetric: {name: mse, output: y, labels: y}\n"
                    "calibration: {data: calib.npz}\nbatch: 32\n")  # fmt: skip
    return path


def plan_of(folder: Path, task: Path | None) -> Plan:
    recipe = folder / "recipe.yaml"
    recipe.write_text("steps:\n  - {pass: remove-blocks, max_drop: 0.001pt, repair: none}\n")
    return make_plan(
        folder / "model.onnx", recipe, task, settings=(), exclude=(), max_drop=None, max_size=None, seed=None
    )


def test_the_metric_is_that_of_the_calibration_split(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, task_of(tmp_path, chain(6, silent=(2, 3), last="y"), labels=True))
    loaded = load_model(tmp_path / "model.onnx")
    inputs = plan.inputs(loaded)
    assert inputs.metric is not None
    assert inputs.metric(loaded.model).split == "calibration"
    small = run_recipe(loaded.model, plan.recipe.steps, inputs)
    assert {"w0", "w1", "w4", "w5"} <= set(small.graph.initializers)
    assert not {"w2", "w3"} & set(small.graph.initializers)


def test_a_task_that_cannot_judge_is_refused_before_anything_runs(tmp_path: Path) -> None:
    task = task_of(tmp_path, chain(4, last="y"), labels=False)
    assert not load_task(task).calibration_has_metric
    with pytest.raises(UsageError, match="max_drop needs the metric's labels 'y' in the calibration data, which lack"):
        plan_of(tmp_path, task)
    with pytest.raises(UsageError, match="max_drop needs a task with calibration data"):
        plan_of(tmp_path, None)


def test_one_batch_cannot_be_halved(tmp_path: Path) -> None:
    task = task_of(tmp_path, chain(4, last="y"), labels=True)
    task.write_text(task.read_text().replace("batch: 32", "batch: 64"))
    plan_of(tmp_path, task)  # without a refit there is nothing to halve
    recipe = tmp_path / "refitted.yaml"
    recipe.write_text("steps:\n  - {pass: remove-blocks, max_drop: 1%}\n")
    with pytest.raises(UsageError, match=r"needs two batches of calibration data.*there are 64 samples"):
        make_plan(
            tmp_path / "model.onnx", recipe, task, settings=(), exclude=(), max_drop=None, max_size=None, seed=None
        )


def test_each_half_is_judged_by_the_model_that_has_not_seen_it(tmp_path: Path) -> None:
    original = chain(2, last="y")
    task = task_of(tmp_path, original, labels=True)
    task.write_text(task.read_text().replace("batch: 32", "batch: 24"))  # batches of 24, 24 and 16 samples
    worse = original.clone()
    worse.graph.initializers["v"].const_value = ir.tensor(weights(WIDTH, WIDTH, seed=98), name="v")
    metric = plan_of(tmp_path, task).inputs(load_model(tmp_path / "model.onnx")).metric
    assert metric is not None
    rows = metric(worse).per_sample
    first, second = metric(worse, original).per_sample, metric(original, worse).per_sample
    np.testing.assert_array_equal(first[24:48], rows[24:48])
    np.testing.assert_array_equal(second[:24], rows[:24])
    np.testing.assert_array_equal(second[48:], rows[48:])
    np.testing.assert_allclose(np.concatenate([first[:24], second[24:48], first[48:]]), 0, atol=1e-9)
    assert metric(worse, original).value == pytest.approx(rows[24:48].sum() / 64, rel=1e-6)
