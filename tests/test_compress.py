# SPDX-License-Identifier: Apache-2.0
"""The compress command on the committed models: outputs, evidence, goals, resume, verify, repro."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgefold import checkpoints, compression_run
from edgefold.compression import compress as run_compress
from edgefold.end_to_end import prove_end_to_end
from edgefold.errors import UsageError, VerificationError
from edgefold.passes import PASSES, Context, Edit, Effect, Notes, Pass
from edgefold.passes.quantize import Quantize
from edgefold.recipe import load_recipe
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import load_task
from edgefold.verification import check_numerics

Command = Callable[..., Any]  # the fixture `edgefold`
ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "digits_cnn" / "model.onnx"
TASK = MODEL.with_name("task.yaml")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One compression by w4, which several tests look at."""
    folder = tmp_path_factory.mktemp("w4") / "out"
    run_compress(MODEL, folder, "w4", TASK)
    return folder


def test_the_output_folder_holds_what_is_promised(output: Path) -> None:
    assert sorted(p.name for p in output.iterdir()) == [
        "manifest.json", "model.onnx", "recipe.yaml", "report.json", "run.log",
    ]  # fmt: skip


def test_the_report_has_figures_of_both_sides(output: Path) -> None:
    report = json.loads((output / "report.json").read_text())
    assert report["status"] == "done"
    assert report["after"]["bytes"] == (output / "model.onnx").stat().st_size
    assert report["after"]["bytes"] < report["before"]["bytes"] / 5
    assert report["after"]["macs"] > 0
    assert abs(report["change"]["value"]) < 2.0
    assert {"pass", "options", "edits", "skips", "seconds", "bytes", "macs"} <= set(report["steps"][0])
    assert report["portability"]["nodes"] > 0
    assert report["portability"]["worst"] <= 1e-5


def test_stock_onnxruntime_runs_the_file(output: Path) -> None:
    session = ort.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    result = session.run(None, {name: np.zeros((2, 1, 8, 8), np.float32)})[0]
    assert np.isfinite(result).all()


def test_a_wrong_body_is_refused_end_to_end(output: Path) -> None:
    """Biases subtracted in place of added: stock ONNX Runtime agrees with itself on it, and not with the library."""
    model = ir.load(output / "model.onnx")
    body = model.functions["ai.edgefold", "ShiftConv", ""]
    list(body)[-1].op_type = "Sub"
    score = functools.partial(evaluate, model, load_task(TASK), split="calibration", limit=32)
    with pytest.raises(VerificationError, match=r"the library and .* in stock ONNX Runtime"):
        prove_end_to_end(score, "model.onnx")


def test_the_model_says_where_it_comes_from(output: Path) -> None:
    model = ir.load(output / "model.onnx")
    assert {"edgefold.version", "edgefold.recipe_sha256", "edgefold.input_sha256"} <= set(model.metadata_props)
    packed = [node for node in model.graph if node.domain == "ai.edgefold"]
    assert all("edgefold.pass" in node.metadata_props for node in packed)


def test_two_runs_write_the_same_model(output: Path, tmp_path: Path) -> None:
    run_compress(MODEL, tmp_path / "again", "w4", TASK)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (output / "model.onnx").read_bytes()


def test_the_recipe_written_reproduces_the_model(output: Path, tmp_path: Path) -> None:
    run_compress(MODEL, tmp_path / "again", output / "recipe.yaml", TASK)
    assert (tmp_path / "again" / "recipe.yaml").read_text() == (output / "recipe.yaml").read_text()
    assert ir_graph(tmp_path / "again") == ir_graph(output)


def ir_graph(folder: Path) -> list[tuple[str, str]]:
    return [(node.op_type, str(node.name)) for node in ir.load(folder / "model.onnx").graph]


def test_verify_accepts_it_and_refuses_a_changed_copy(output: Path, tmp_path: Path, edgefold: Command) -> None:
    assert edgefold("verify", output).code == 0
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    with (copy / "model.onnx").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    outcome = edgefold("verify", copy)
    assert outcome.code == 1
    assert "model.onnx" in outcome.error_line


def test_an_output_folder_is_a_model(output: Path, edgefold: Command) -> None:
    outcome = edgefold("eval", "-m", output, "-d", TASK, "--format", "json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert {"metric", "value", "ci95", "samples", "seconds_per_sample"} <= set(document)


def test_excluded_nodes_stay_as_they_are(tmp_path: Path, edgefold: Command) -> None:
    names = [str(node.name) for node in ir.load(MODEL).graph if node.op_type == "Conv"]
    flags = ["--set", "quantize.rounding=nearest", "--exclude", names[2]]
    assert edgefold("compress", "-m", MODEL, "-o", tmp_path / "out", *flags).code == 0
    kept = ir.load(tmp_path / "out" / "model.onnx")
    assert [str(node.name) for node in kept.graph if node.op_type == "Conv"] == [names[2]]


def test_an_override_reaches_its_nodes_only(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "steps: [{pass: quantize, weights: 4, method: shift, rounding: nearest, first-last: 4}]\n"
        "overrides: [{match: 'node_conv2d_[34]', weights: 8}]\n"
    )
    run_compress(MODEL, tmp_path / "out", recipe)
    bits = {str(n.name): n.attributes["bits"].as_int() for n in ir.load(tmp_path / "out" / "model.onnx").graph
            if n.domain == "ai.edgefold"}  # fmt: skip
    assert {name for name, width in bits.items() if width == 8} == {"node_conv2d_3", "node_conv2d_4"}


def test_a_model_is_pruned_and_quantized_in_one_run(tmp_path: Path) -> None:
    """Nodes around which channels went have nothing in the original to be compared with; the others are ranked."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "steps: [{pass: prune-channels, flops: 0.8}, {pass: quantize, method: shift, rounding: nearest}]\n"
        "overrides: [{match: node_conv2d, weights: 6, floor: 1.0}]\n"
    )
    report = run_compress(MODEL, tmp_path / "out", recipe, task=TASK)
    names = {str(node.name) for node in ir.load(tmp_path / "out" / "model.onnx").graph if node.domain == "ai.edgefold"}
    ranked = {name for name, _ in report.ranking}
    assert ranked < names
    assert "node_conv2d" in ranked


def test_dry_run_and_save_config_write_no_output(tmp_path: Path, edgefold: Command) -> None:
    saved = tmp_path / "saved.yaml"
    flags = ["--dry-run", "--save-config", saved, "--set", "quantize.weights=3"]
    outcome = edgefold("compress", "-m", MODEL, "-o", tmp_path / "out", "-d", TASK, *flags)
    assert outcome.code == 0
    assert "no step was tried and no output written" in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["saved.yaml"]
    assert load_recipe(str(saved)).steps[-1].weights == 3  # type: ignore[attr-defined]


def test_a_dry_run_finds_what_the_run_would(output: Path, tmp_path: Path, edgefold: Command) -> None:
    def dry(steps: str, folder: str = "out", model: Path = MODEL) -> Any:
        (tmp_path / "recipe.yaml").write_text(f"steps: [{steps}]\n")
        return edgefold("compress", "-m", model, "-o", tmp_path / folder, "-c", tmp_path / "recipe.yaml", "--dry-run")

    assert "fuse-blocks: device 'nosuch' is not known" in dry("{pass: fuse-blocks, device: nosuch}").error_line
    assert dry("{pass: fuse-blocks, device: raspberry-pi-4}").code == 0
    refused = dry("simplify, prune-channels", model=output).out
    assert "skipped, if the model comes to it as it is: " in refused
    assert "is quantized; prune before quantizing" in refused
    assert "skipped" not in dry("simplify, prune-channels").out
    (tmp_path / "there").mkdir()
    assert "exists already" in dry("simplify", "there").error_line


def test_a_dry_run_says_that_a_model_did_not_run(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, m] x) => (float[a, b] y) { s = Constant <value = int64[2] {7919, 3}> ()  y = Reshape (x, s) }"""
    ir.save(ir.from_onnx_text(text), tmp_path / "odd.onnx")
    unfit, fit = (run_compress(model, tmp_path / "out", "w8", dry_run=True) for model in (tmp_path / "odd.onnx", MODEL))
    assert "The model was never run, since no made-up inputs fit" in unfit.to_text()
    assert "never run" not in fit.to_text()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_generators_refuse_is_refused_first(seed: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"seed {seed}: expected a whole number from 0 to "):
        run_compress(MODEL, tmp_path / "out", "w8", seed=seed)
    run_compress(MODEL, tmp_path / "out", "w8", seed=2**63 - 1, dry_run=True)


def test_a_size_that_needs_fewer_bits_is_searched_and_met(tmp_path: Path, output: Path, edgefold: Command) -> None:
    goal = int((output / "model.onnx").stat().st_size * 0.93)
    flags = ["--max-size", goal, "--set", "quantize.rounding=nearest", "--format", "json"]
    outcome = edgefold("compress", "-m", MODEL, "-o", tmp_path / "out", "-d", TASK, *flags)
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["after"]["bytes"] <= goal
    assert "match" in (tmp_path / "out" / "recipe.yaml").read_text()


def test_bits_are_spent_layer_by_layer(tmp_path: Path, edgefold: Command) -> None:
    flags = ["--bits", "4.5", "--set", "quantize.rounding=nearest", "--format", "json"]
    outcome = edgefold("compress", "-m", MODEL, "-d", TASK, "-o", tmp_path / "out", *flags)
    assert outcome.code == 0, outcome.error_line
    [table] = [step["table"] for step in json.loads(outcome.out)["steps"] if step["pass"] == "quantize"]
    spent = sum(row["bits"] * row["weights"] for row in table)
    assert 4 * sum(row["weights"] for row in table) < spent <= 4.5 * sum(row["weights"] for row in table)
    assert len({row["bits"] for row in table}) > 1


def test_an_impossible_goal_is_exit_code_1_and_the_best_is_kept(tmp_path: Path, edgefold: Command) -> None:
    flags = ["--max-size", "1kB", "--set", "quantize.rounding=nearest"]
    outcome = edgefold("compress", "-m", MODEL, "-o", tmp_path / "out", *flags)
    assert outcome.code == 1
    assert "Goal missed: --max-size" in outcome.error_line
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["status"] == "goal missed"


@pytest.mark.parametrize("force", [False, True])
def test_resume_goes_on_after_the_finished_steps(
    force: bool, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the last step, a second call does not repeat the first ones; what it replaces stays till then."""

    def interrupted(*_: object, **__: object) -> Notes:
        raise KeyboardInterrupt

    folder = tmp_path / "out"
    if force:
        shutil.copytree(output, folder)
    with monkeypatch.context() as patch:
        patch.setattr(Quantize, "rewrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_compress(MODEL, folder, "w8", force=force)
    assert folder.exists() == force
    started: list[int] = []
    original = compression_run.run_recipe

    def watched(*args: Any, **kwargs: Any) -> ir.Model:
        started.append(kwargs["resume_from"])
        return original(*args, **kwargs)

    monkeypatch.setattr(compression_run, "run_recipe", watched)
    report = run_compress(MODEL, folder, "w8", resume=True, force=force)
    assert started == [2]
    assert "weights: 8" in (folder / "recipe.yaml").read_text()
    assert [step["pass"] for step in report.steps][-3:] == ["simplify", "fold-batchnorm", "quantize"]
    assert not checkpoints.Checkpoints.beside(folder, "", resume=True).folder.exists()


class Break(Pass, frozen=True, kw_only=True):
    """Claims to be exact and is not."""

    effect = Effect.EXACT

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        name, value = next(iter(model.graph.initializers.items()))
        assert value.const_value is not None
        model.graph.initializers[name].const_value = ir.tensor(value.const_value.numpy() * 2, name=name)
        return Notes((Edit(name, "doubled"),))


class Shrink(Pass, frozen=True, kw_only=True):
    """Claims to compute the same in another order and is off by a tenth."""

    effect = Effect.REASSOCIATED

    def rewrite(self, model: ir.Model, context: Context) -> Notes:
        value = model.graph.initializers["w"]
        assert value.const_value is not None
        value.const_value = ir.tensor((value.const_value.numpy() * 0.9).astype(np.float16), name="w")
        return Notes()


def test_half_precision_does_not_excuse_what_is_wrong() -> None:
    deep = "".join(f"x{i + 1} = Identity(x{i}) " for i in range(200))
    text = f'<ir_version: 10, opset_import: ["": 21]> g (float16[4] x0) => (float16[4] y) {{ {deep} y = Mul(x200, w) }}'
    model = ir.from_onnx_text(text, initializers=[ir.tensor(np.ones(4, np.float16), name="w")])
    wrong = model.clone()
    Shrink().rewrite(wrong, Context())
    feeds = {"x0": np.ones(4, np.float16)}
    with pytest.raises(VerificationError, match=r"shrink: outputs differ by 1.00e-01 .* allows 5.00e-02"):
        check_numerics(model, wrong, Shrink(), feeds)
    check_numerics(model, model, Shrink(), feeds)


def test_a_pass_that_lies_is_stopped_with_a_reproducer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgefold: Command
) -> None:
    monkeypatch.setattr("edgefold.recipe.PASSES", (*PASSES, Break))
    recipe = tmp_path / "break.yaml"
    recipe.write_text("steps: [{pass: simplify}, {pass: break}]\n")
    with pytest.raises(VerificationError, match="break: outputs differ"):
        run_compress(MODEL, tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()
    kept = tmp_path / "out.failed"
    assert (kept / "model.onnx").is_file()
    outcome = edgefold("repro", kept / "repro")
    assert outcome.code == 1
    assert "break: outputs differ" in outcome.error_line
