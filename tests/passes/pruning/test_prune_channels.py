# SPDX-License-Identifier: Apache-2.0
"""The pass prune-channels as a whole: options, skips, findings, and the recipe on the command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, run, weights

from edgefold.errors import UsageError
from edgefold.passes import Context, Notes, PreconditionError, SkipReason
from edgefold.passes.prune_channels import PruneChannels
from edgefold.probing import probe

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "models" / "digits_cnn" / "model.onnx"

TEXT = """g (float[batch, 3, 8, 8] x) => (float[batch, 5] y) {
    [one] a = Conv<pads = [1, 1, 1, 1]>(x, k1, b1)
    [relu1] r = Relu(a)
    [two] c = Conv<pads = [1, 1, 1, 1]>(r, k2, b2)
    [relu2] s = Relu(c)
    [pool] p = GlobalAveragePool(s)
    [flat] f = Flatten(p)
    [fc] y = Gemm(f, w, b)
}"""
SHAPES = {"k1": (16, 3, 3, 3), "b1": (16,), "k2": (24, 16, 3, 3), "b2": (24,), "w": (24, 5), "b": (5,)}
CONTEXT = Context(probe=probe)


def model() -> ir.Model:
    return graph(TEXT, {name: weights(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())})


def pruned(context: Context = CONTEXT, **options: Any) -> tuple[ir.Model, Notes]:
    changed = model()
    return changed, msgspec.convert(options, PruneChannels).rewrite(changed, context)


def shapes(changed: ir.Model) -> dict[str, tuple[int, ...]]:
    return {str(name): value.const_value.numpy().shape for name, value in changed.graph.initializers.items()}


def macs(sizes: dict[str, tuple[int, ...]]) -> int:
    return 64 * int(np.prod(sizes["k1"]) + np.prod(sizes["k2"])) + int(np.prod(sizes["w"]))


def reasons(notes: Notes) -> set[SkipReason]:
    return {skip.reason for skip in notes.skips}


def test_half_of_the_work_goes_and_the_graph_runs_at_any_batch() -> None:
    changed, notes = pruned()
    sizes = shapes(changed)
    whole = macs(SHAPES)
    assert 0.4 * whole < macs(sizes) <= 0.5 * whole
    assert sizes["k1"][0] == sizes["b1"][0] == sizes["k2"][1]
    assert sizes["k2"][0] == sizes["w"][0]
    assert notes.stats["flops.kept"] == pytest.approx(macs(sizes) / whole, abs=1e-4)
    assert notes.stats["removed.channels"] == (16 - sizes["k1"][0]) + (24 - sizes["k2"][0])
    assert SkipReason.NO_CALIBRATION in reasons(notes)
    for batch in (1, 3):
        assert run(changed, {"x": weights(batch, 3, 8, 8)})[0].shape == (batch, 5)


@pytest.mark.parametrize("importance", ["random", "l1", "l2"])
@pytest.mark.parametrize("ranking", ["global", "isomorphic", "uniform"])
def test_every_criterion_and_ranking_reaches_the_budget(importance: str, ranking: str) -> None:
    changed, notes = pruned(importance=importance, ranking=ranking, flops=0.6)
    assert macs(shapes(changed)) <= 0.6 * macs(SHAPES)
    assert "finding" not in notes.stats


def test_parameters_are_a_budget_of_their_own() -> None:
    changed, notes = pruned(params=0.5)
    count = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert sum(int(np.prod(shape)) for shape in shapes(changed).values()) <= 0.5 * count
    assert "flops.kept" not in notes.stats


def test_latency_asks_for_operator_times() -> None:
    def flat(operations: Any) -> dict[Any, float]:
        return {one: float(np.prod(one.inputs[0])) for one in operations}

    context = Context(probe=probe, operator_times=flat)
    assert pruned(context, latency=0.8)[1].stats["latency.kept"] <= 0.8
    with pytest.raises(UsageError, match="take flops"):
        pruned(latency=0.5)


def test_multiples_and_overrides() -> None:
    sizes = shapes(pruned(multiple=8, flops=0.6)[0])
    assert (sizes["k1"][0] % 8, sizes["k2"][0] % 8) == (0, 0)
    sizes = shapes(pruned(flops=0.6, overrides=[{"match": "tw?", "floor": 1.0}])[0])
    assert (sizes["k1"][0], sizes["k2"][0]) == (16, 24)  # the second layer is in both groups
    sizes = shapes(pruned(flops=0.6, overrides=[{"match": "fc", "floor": 1.0}])[0])
    assert sizes["k2"][0] == 24
    assert sizes["k1"][0] < 16


def test_an_override_that_fits_nothing_is_told() -> None:
    notes = pruned(flops=0.6, overrides=[{"match": "tw?", "floor": 0.5}, {"match": "five", "floor": 1.0}])[1]
    assert [skip.node for skip in notes.skips if skip.reason is SkipReason.NO_MATCH] == ["five"]


def test_an_excluded_node_keeps_its_channels() -> None:
    changed, notes = pruned(Context(probe=probe, exclude=("one",)), flops=0.7)
    assert shapes(changed)["k1"] == SHAPES["k1"]
    assert shapes(changed)["k2"][0] < 24
    assert SkipReason.EXCLUDED in reasons(notes)


def test_a_budget_out_of_reach_is_a_finding() -> None:
    _, notes = pruned(flops=0.001, floor=0.5)
    finding = str(notes.stats["finding"])
    assert "flops 0.001 asked" in finding
    assert "graph output" in finding
    _, notes = pruned(flops=0.001, floor=1.0)
    assert not notes.edits
    assert notes.stats["flops.kept"] == 1


def test_barriers_are_skips_with_their_reason() -> None:
    _, notes = pruned()
    held = [skip for skip in notes.skips if skip.reason == SkipReason.BARRIER]
    assert any("graph output" in skip.detail and "5 channels" in skip.detail for skip in held)


def test_without_a_run_nothing_happens() -> None:
    assert PruneChannels().rewrite(model(), Context()).edits == ()


@pytest.mark.parametrize("importance", ["taylor", "snip", "grasp", "crop"])
def test_gradients_come_from_the_context(importance: str) -> None:
    with pytest.raises(UsageError, match=r"edgefold\[heal\]"):
        pruned(importance=importance)

    def made_up(prepared: ir.Model, times_hessian: bool) -> dict[str, Any]:
        assert times_hessian == (importance in ("grasp", "crop"))
        gradient = np.zeros(SHAPES["k1"], np.float32)
        gradient[8:] = -100.0 if importance == "grasp" else 100.0
        ones = {str(name): value.const_value.numpy() for name, value in prepared.graph.initializers.items()}
        return {"k1": gradient * np.sign(ones["k1"]), "k2": np.zeros(SHAPES["k2"], np.float32)}

    changed, _ = pruned(Context(probe=probe, gradients=made_up), importance=importance, repair="none")
    kept = changed.graph.initializers["b1"].const_value.numpy()
    assert set(weights(16, seed=1)[8:]) <= set(kept)  # the channels on which the loss hangs stay


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y = com.microsoft.FusedConv(x, codes)", "before its optimizer"),
        ("k = DequantizeLinear(codes, s)\n y = Conv(x, k)", "before quantizing"),
        ("y = QLinearMatMul(x, s, z, codes, s, z, s, z)", "before quantizing"),
    ],
)
def test_fused_and_quantized_graphs_are_refused_with_advice(text: str, words: str) -> None:
    codes = np.zeros((2, 3, 1, 1), np.int8)
    text = f"g (float[1, 3, 4, 4] x, float s, int8 z) => (float y) {{ {text} }}"
    with pytest.raises(PreconditionError, match=words):
        PruneChannels().requires(graph(text, {"codes": codes}))


def test_quantized_activations_are_no_reason_to_refuse() -> None:
    PruneChannels().requires(model())
    PruneChannels().requires(
        graph("g (float[3] x, float s) => (float y) { q = QuantizeLinear(x, s)\n y = DequantizeLinear(q, s) }", {})
    )


def test_obspa_is_obs_with_least_squares() -> None:
    with pytest.raises(msgspec.ValidationError, match="take obs"):
        msgspec.convert({"repair": "none"}, PruneChannels)
    assert msgspec.convert({"repair": "none", "importance": "obs"}, PruneChannels).repair == "none"


ATTENTION = """g (float[batch, time, 16] x) => (float[batch, time, 16] y) {
    [q] q0 = MatMul(x, wq)
    [k] k0 = MatMul(x, wk)
    [v] v0 = MatMul(x, wv)
    [sq] q1 = Reshape(q0, split)
    [sk] k1 = Reshape(k0, split)
    [sv] v1 = Reshape(v0, split)
    [tq] q2 = Transpose<perm = [0, 2, 1, 3]>(q1)
    [tk] k2 = Transpose<perm = [0, 2, 3, 1]>(k1)
    [tv] v2 = Transpose<perm = [0, 2, 1, 3]>(v1)
    [qk] s = MatMul(q2, k2)
    [soft] p = Softmax(s)
    [pv] o = MatMul(p, v2)
    [to] o1 = Transpose<perm = [0, 2, 1, 3]>(o)
    [join] o2 = Reshape(o1, merge)
    [out] y = MatMul(o2, wo)
}"""


@pytest.mark.parametrize("attention", ["heads", "dims", "both"])
def test_heads_go_whole_and_dims_from_every_head(attention: str) -> None:
    matrices = {name: weights(16, 16, seed=i) for i, name in enumerate(("wq", "wk", "wv", "wo"))}
    sizes = {"split": np.array([0, 0, 4, 4]), "merge": np.array([0, 0, 16])}
    changed = graph(ATTENTION, {**matrices, **sizes})
    feeds = {"x": weights(2, 5, 16)}
    options = msgspec.convert({"attention": attention, "flops": 0.6}, PruneChannels)
    notes = options.rewrite(changed, Context(probe=functools.partial(probe, feeds=feeds)))
    after = shapes(changed)
    q, v = after["wq"][1], after["wv"][1]
    assert q == after["wk"][1]
    assert v == after["wo"][0]
    assert q + v < 32
    removed = {kind for kind in ("heads", "dims") if notes.stats.get(f"removed.{kind}")}
    assert removed <= ({"heads", "dims"} if attention == "both" else {attention})
    assert (SkipReason.OTHER_FACTOR in reasons(notes)) == (attention != "both")
    if attention != "both":  # four heads of four dimensions: whole columns of the other factor stay
        assert q % 4 == v % 4 == 0
    assert run(changed, feeds)[0].shape == (2, 5, 16)


def test_the_recipe_prune(tmp_path: Path, edgefold: Callable[..., Any]) -> None:
    outcome = edgefold(
        "compress", "-m", DIGITS, "-d", DIGITS.with_name("task.yaml"), "-c", "prune", "-o", tmp_path / "o"
    )
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    assert report["change"]["value"] > -5
    step = report["steps"][-1]
    assert step["pass"] == "prune-channels"
    assert step["stats"]["removed.channels"] > 0
    assert edgefold("verify", tmp_path / "o").code == 0


def test_the_recipe_prune_without_a_task(tmp_path: Path, edgefold: Callable[..., Any]) -> None:
    outcome = edgefold("compress", "-m", DIGITS, "-c", "prune", "-o", tmp_path / "o")
    assert outcome.code == 0, outcome.err
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    notes = [skip["detail"] for skip in report["steps"][-1]["skips"] if skip["reason"] == "needs calibration data"]
    assert any("instead of calibration" in note for note in notes)
