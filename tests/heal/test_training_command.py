# SPDX-License-Identifier: Apache-2.0
"""``edgefold heal``, the step and the suffix of recipes, several processes, and what stands in the way."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

from damaged import DIGITS, MODEL, TASK, damaged, healed, weights_of

import edgefold as package
from edgefold.errors import UsageError
from edgefold.passes import Context, Heal, PreconditionError, SkipReason
from edgefold.passes.base import OPTION
from edgefold.recipe import load_recipe

Command = Callable[..., Any]  # the fixture `edgefold`
QUICK = ("--steps", "4", "--threads", "1", "--batch", "46")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.onnx"
    ir.save(damaged(), path)
    return path


def call(student: Path, output: Path, *more: str) -> tuple[object, ...]:
    return ("heal", "-m", student, "--teacher", MODEL, "-d", TASK, "-o", output, *QUICK, *more)


def test_the_folder_is_complete_and_says_what_was_done(student: Path, tmp_path: Path, edgefold: Command) -> None:
    outcome = edgefold(*call(student, tmp_path / "out", "--format", "json"))
    assert outcome.code == 0, outcome.err
    printed, report = json.loads(outcome.out), json.loads((tmp_path / "out" / "report.json").read_text())
    assert printed == report
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.onnx",
        "report.json",
        "manifest.json",
        "run.log",
    }
    values = [report["teacher_score"]["value"], report["before"]["metric"]["value"], report["after"]["metric"]["value"]]
    assert report["change"]["value"] == pytest.approx(values[2] - values[1])
    assert report["to_teacher"]["value"] == pytest.approx(values[2] - values[0])
    assert report["change"]["ci95"][0] <= report["change"]["value"] <= report["change"]["ci95"][1]
    assert report["healing"]["losses"] == ["output 'logits': KL divergence of logits at temperature 2"]
    assert [epoch["step"] for epoch in report["healing"]["history"]] == [0, 4]
    assert edgefold("verify", tmp_path / "out").code == 0
    assert not list(tmp_path.glob(".out*"))  # the state of the training has done its work
    log = (tmp_path / "out" / "run.log").read_text()
    assert "held-out loss" in log
    assert " left" not in log  # passing messages are for the status line


def test_names_and_structure_stay(student: Path, tmp_path: Path) -> None:
    report = package.heal(student, MODEL, TASK, tmp_path / "out", steps=1, threads=1)
    assert report is not None
    assert "Healing changed the metric by" in report.to_text()
    before, after = ir.load(student), ir.load(tmp_path / "out" / "model.onnx")
    assert [(n.name, n.op_type, [v.name for v in n.outputs]) for n in before.graph] == [
        (n.name, n.op_type, [v.name for v in n.outputs]) for n in after.graph
    ]
    assert {n: w.shape for n, w in weights_of(before).items()} == {n: w.shape for n, w in weights_of(after).items()}


def test_the_package_is_the_verb_whatever_was_imported_first() -> None:
    code = (
        "import edgefold; assert callable(edgefold.heal); import edgefold.heal.report; assert callable(edgefold.heal)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_evaluation_data_are_not_read_by_the_training(tmp_path: Path) -> None:
    task = tmp_path / "task.yaml"
    text = TASK.read_text().replace("data: test.npz", "data: gone.npz")
    task.write_text(text.replace("data: calib.npz", f"data: {DIGITS / 'calib.npz'}"))
    from damaged import ALONE, original

    from edgefold.heal.engine import heal_model
    from edgefold.scoring.task import load_task

    done = heal_model(damaged(), original(), load_task(task), Heal(steps=1, threads=1), 0, ALONE)
    assert done.steps == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--epochs", "2"), "epochs and steps both say how long to train"),
        (("--loss", "outputs"), "Invalid enum value 'outputs'"),
        (("--loss", ""), "loss names nothing"),
        (("--batch", "0"), "Expected `int` >= 1"),
        (("--augment", "flip,spin"), "Invalid enum value 'spin'"),
        (("--teacher-views", "flop"), "Invalid enum value 'flop'"),
        (("--teacher-views", "flip", "--loss", "tail"), "teacher_views averages outputs"),
        (("--device", "cuda"), "torch sees no CUDA device"),
        (("--optimizer", "lion"), "'lion' is not one of"),
    ],
)
def test_bad_options_are_one_line(
    options: tuple[str, ...], says: str, student: Path, tmp_path: Path, edgefold: Command
) -> None:
    import torch

    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    outcome = edgefold(*call(student, tmp_path / "out", *options))
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_refused(student: Path, tmp_path: Path, edgefold: Command) -> None:
    assert "exists already" in edgefold(*call(student, tmp_path)).error_line


def test_a_teacher_of_another_kind_is_refused(student: Path, tmp_path: Path, edgefold: Command) -> None:
    other = ir.load(MODEL)
    other.graph.outputs[0].name = "scores"
    ir.save(other, tmp_path / "other.onnx")
    arguments = ("heal", "-m", student, "--teacher", tmp_path / "other.onnx", "-d", TASK, "-o", tmp_path / "out")
    assert "the outputs are scores, and not logits" in edgefold(*arguments).error_line


def test_a_task_without_calibration_is_refused(student: Path, tmp_path: Path, edgefold: Command) -> None:
    lines = [line for line in TASK.read_text().splitlines() if not line.startswith("calibration")]
    (tmp_path / "task.yaml").write_text("\n".join(lines))
    arguments = ("heal", "-m", student, "--teacher", MODEL, "-d", tmp_path / "task.yaml", "-o", tmp_path / "out")
    assert "add: calibration" in edgefold(*arguments).error_line


def test_without_torch_one_line_says_how_to_get_it(
    student: Path, tmp_path: Path, edgefold: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else found(name))
    line = edgefold(*call(student, tmp_path / "out")).error_line
    assert "pip install 'edgefold[heal]'" in line
    recipe = ("compress", "-m", student, "-d", TASK, "-o", tmp_path / "out", "-c", "w8-heal")
    assert edgefold(*recipe).error_line == line


def test_a_model_with_an_operator_that_has_no_gradient_names_it(tmp_path: Path, edgefold: Command) -> None:
    model = ir.load(MODEL)
    last = model.graph.outputs[0].producer()
    assert last is not None
    node = ir.node("NoSuchOp", [last.inputs[0]], domain="com.example", name="odd")
    from edgefold.heal.engine import refusal

    model.graph.append(node)
    node.outputs[0].name = "odd.y"
    model.graph.opset_imports["com.example"] = 1
    model.graph.outputs.append(node.outputs[0])
    reason = refusal(model)
    assert reason is not None
    assert "odd" in reason


def test_an_interrupted_call_goes_on(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgefold: Command
) -> None:
    from edgefold.heal.training import Training

    whole = tmp_path / "whole"
    arguments = ("--epochs", "3", "--batch", "46", "--threads", "1")
    base = ("heal", "-m", student, "--teacher", MODEL, "-d", TASK)
    assert edgefold(*base, "-o", whole, *arguments).code == 0
    step = Training._step

    def interrupted(self: Training, module: Any) -> float:
        if self.progress.step == 7:
            raise KeyboardInterrupt
        return step(self, module)

    monkeypatch.setattr(Training, "_step", interrupted)
    stopped = edgefold(*base, "-o", tmp_path / "out", *arguments)
    assert stopped.code == 130
    assert "--resume goes on" in stopped.err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Training, "_step", step)
    outcome = edgefold(*base, "-o", tmp_path / "out", *arguments, "--resume")
    assert "resuming the training after step 5" in outcome.err
    wanted, got = (weights_of(ir.load(folder / "model.onnx")) for folder in (whole, tmp_path / "out"))
    assert all(wanted[name].tobytes() == got[name].tobytes() for name in wanted)


def test_two_processes_give_what_one_gives(student: Path, tmp_path: Path) -> None:
    """Two processes on this machine, through torch's own launcher and DistributedDataParallel."""
    options = {"epochs": 2, "batch": 46, "augment": ["crop"], "threads": 1, "device": "cpu"}
    package.heal(student, MODEL, TASK, tmp_path / "one", **options)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    heal = ["-m", "edgefold", "heal", "-m", str(student), "--teacher", str(MODEL), "-d", str(TASK)]
    same_options = ["--epochs", "2", "--batch", "46", "--augment", "crop", "--threads", "1", "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, *launcher, *heal, *same_options, "-o", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    weights = {name: weights_of(ir.load(tmp_path / name / "model.onnx")) for name in ("one", "two")}
    reports = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")}
    assert (reports["one"]["healing"]["processes"], reports["two"]["healing"]["processes"]) == (1, 2)
    for name, one in weights["one"].items():
        np.testing.assert_allclose(weights["two"][name], one, atol=2e-5 * max(1.0, float(np.abs(one).max())))
    losses = [[epoch["held_out"] for epoch in reports[name]["healing"]["history"]] for name in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_a_recipe_heals_what_it_damaged(tmp_path: Path, edgefold: Command) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "steps:\n  - {pass: quantize, weights: 2, method: rtn}\n  - {pass: heal, epochs: 4, threads: 1}\n"
    )
    folder = tmp_path / "out"
    outcome = edgefold("compress", "-m", MODEL, "-d", TASK, "-o", folder, "-c", recipe)
    assert outcome.code == 0, outcome.err
    record = json.loads((folder / "report.json").read_text())["steps"][-1]
    assert record["pass"] == "heal"
    assert record["stats"]["held_out_loss_after"] < record["stats"]["held_out_loss_before"]
    assert not list(tmp_path.glob(".out*"))


def test_every_built_in_recipe_takes_the_suffix() -> None:
    plain, with_healing = load_recipe("w4"), load_recipe("w4-heal", ["heal.epochs=3"])
    assert with_healing.steps == (*plain.steps, Heal(epochs=3))
    with pytest.raises(UsageError, match=r"w4, w4a4, w6a6, w8.*with -heal appended"):
        load_recipe("w5-heal")


def test_healing_needs_data(tmp_path: Path, edgefold: Command) -> None:
    outcome = edgefold("compress", "-m", MODEL, "-o", tmp_path / "out", "-c", "w8-heal")
    assert "needs a task with calibration data" in outcome.error_line
    notes = Heal().rewrite(damaged(), Context())
    assert [skip.reason for skip in notes.skips] == [SkipReason.NO_CALIBRATION]


def test_help_of_heal_imports_no_torch() -> None:
    code = (
        "import sys\nfrom edgefold.cli import main\n"
        "try:\n    main(['heal', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'onnx_ir'} & set(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"


def test_healing_in_place_keeps_everything_else() -> None:
    model = damaged()
    before = {n: v.const_value for n, v in model.graph.initializers.items()}
    healed(model, steps=1, learning_rate=1e-9)
    kept = [n for n, v in model.graph.initializers.items() if v.const_value is before[n]]
    integers = [n for n, v in before.items() if v is not None and v.dtype == ir.DataType.INT64]
    assert set(integers) <= set(kept)


def test_a_file_of_several_depths_is_to_be_healed_before(student: Path, tmp_path: Path, edgefold: Command) -> None:
    model = ir.load(student)
    depth = ir.Value(name="depth", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    depth.const_value = ir.tensor(np.array(3, np.int64), name="depth")
    depth.metadata_props[OPTION] = "2,3"
    model.graph.inputs.append(depth)
    model.graph.register_initializer(depth)
    ir.save(model, tmp_path / "elastic.onnx")
    outcome = edgefold(*call(tmp_path / "elastic.onnx", tmp_path / "out"))
    assert outcome.code == 2
    assert "heal before elastic-depth" in outcome.error_line
    assert "`depth` chooses its depth" in outcome.error_line
    with pytest.raises(PreconditionError, match="heal before elastic-depth"):
        Heal().requires(model)
    Heal().requires(ir.load(student))  # the near miss: no input with a choice
