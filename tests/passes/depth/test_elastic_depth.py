# SPDX-License-Identifier: Apache-2.0
"""One file of several depths: full depth is the original, the others are the truncated model, to the last bit."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from residual_chains import WIDTH, chain

from edgefold.calibration import Calibration
from edgefold.calibration_batches import every_second
from edgefold.errors import UsageError, VerificationError
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.measuring.measure import model_macs, model_size
from edgefold.passes import Context, PreconditionError
from edgefold.passes.depth.repair import Uncut
from edgefold.passes.depth.truncation import Truncated, blocks_of
from edgefold.passes.elastic_depth import ElasticDepth
from edgefold.passes.prune_channels import PruneChannels
from edgefold.passes.simplify import Simplify
from edgefold.perturbing import Departure, perturb
from edgefold.pipeline import Inputs, run_recipe, run_step
from edgefold.plan import guessed_feeds
from edgefold.session import make_session
from edgefold.verification import check_structure, run_model

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("EDGEFOLD_DATA", ROOT.parent / "shared" / "data"))
Array = np.ndarray[Any, Any]


def batches() -> Iterator[Mapping[str, Array]]:
    """Correlated inputs, so that a refit has something to gain."""
    mixing = weights(WIDTH, WIDTH, seed=5)
    return iter([{"x": weights(256, WIDTH, seed=seed) @ mixing / 4} for seed in (21, 22)])


def context(model: ir.Model) -> Context:
    return Context(calibration=Calibration(model, batches), perturb=functools.partial(perturb, feeds=batches))


def elastic(model: ir.Model, **options: Any) -> tuple[ir.Model, Any]:
    result = model.clone()
    notes = ElasticDepth(**options).rewrite(result, context(model))
    return result, notes


def at(model: ir.Model, depth: int | None = None) -> list[Array]:
    """Outputs without the runtime's optimizations, which may add in another order."""
    feeds = dict(next(batches())) | ({} if depth is None else {"depth": np.array(depth, np.int64)})
    return list(run_model(model, feeds, optimize=False).values())


def test_the_blocks_go_that_a_refit_makes_up_for_best() -> None:
    model = chain(4)
    asked: dict[tuple[int, ...], float] = {}

    def remembered(one: ir.Model, half: int | None) -> Callable[[ir.Model], float | None]:
        measured = unseen(one, half)

        def error_of(other: ir.Model) -> float | None:
            error = measured(other)
            asked.setdefault(tuple(n for n in range(4) if f"w{n}" not in other.graph.initializers), float(error or 0))
            return error

        return error_of

    result = model.clone()
    around = dataclasses.replace(context(model), departure=remembered)
    notes = ElasticDepth(depths=(2,)).rewrite(result, around)
    assert len(asked) > 1
    assert tuple(notes.table[0]["left_out"]) == min(asked, key=lambda gone: asked[gone])


def truncated(model: ir.Model, notes: Any, depth: int, repaired: bool = True) -> ir.Model:
    row = next(row for row in notes.table if row["depth"] == depth)
    shallow = Truncated(model, row["left_out"])
    if repaired:
        shallow.repair(Uncut(model, Calibration(model, batches)), lambda _: False)
    return shallow.model


@pytest.mark.parametrize("repair", ["none", "least-squares"])
@pytest.mark.parametrize("last", ["y", "h{count}", "h2, y"])
def test_every_depth_is_the_truncated_model(repair: str, last: str) -> None:
    model = chain(5, last=last)
    result, notes = elastic(model, depths=(3, 4, 2) if last != "h2, y" else (4, 3), repair=repair)
    for got, wanted in zip(at(result), at(model), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert len(notes.table) == (3 if last != "h2, y" else 2)
    for row in notes.table:
        wanted_model = truncated(model, notes, row["depth"], repair != "none")
        for got, wanted in zip(at(result, row["depth"]), at(wanted_model), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert any(not np.array_equal(a, b) for a, b in zip(at(result), at(wanted_model), strict=True))


def test_repair_is_worth_its_weights() -> None:
    model = chain(5)
    plain, before = elastic(model, depths=(3,), repair="none")
    repaired, after = elastic(model, depths=(3,))
    assert before.stats["weights_added"] == 0
    assert model_size(plain) - model_size(model) < 4000  # branches only, no weight twice
    assert after.table[0]["error"] < 0.7 * before.table[0]["error"]
    grown = model_size(repaired) - model_size(plain)
    assert 0 < 4 * after.stats["weights_added"] <= grown < 4 * after.stats["weights_added"] + 4000


def unseen(one: ir.Model, half: int | None) -> Departure:
    return Departure(one, functools.partial(every_second, batches, half or 0))


@pytest.mark.parametrize("share", [0.9, 1.0, math.nan, None])
def test_a_refit_is_kept_where_it_serves_data_that_it_has_not_seen(share: float | None) -> None:
    """The departure of a refitted copy is a share of that of the copy whose weights are the model's."""
    model = chain(4)
    asked: list[int | None] = []

    def measured(one: ir.Model, half: int | None) -> Callable[[ir.Model], float | None]:
        def error_of(other: ir.Model) -> float | None:
            asked.append(half)
            plain = all(
                np.array_equal(value.const_value.numpy(), one.graph.initializers[name].const_value.numpy())
                for name, value in other.graph.initializers.items()
            )
            return None if share is None else 0.1 if plain else 0.1 * share

        return error_of

    result = model.clone()
    around = dataclasses.replace(context(model), departure=measured)
    notes = ElasticDepth(depths=(2,), criterion="last").rewrite(result, around)
    assert set(asked) == {1}
    refitted = share is None or share < 1
    assert bool(notes.stats["weights_added"]) == refitted
    told = [skip.detail for skip in notes.skips if "on data that a refit has not seen: 0.1, refitted" in skip.detail]
    assert bool(told) != refitted


@pytest.mark.parametrize("criterion", ["auto", "last"])
def test_a_choice_is_refitted_once_to_be_judged_and_once_to_be_stored(
    monkeypatch: pytest.MonkeyPatch, criterion: str
) -> None:
    """The refits on half of the batches that choose the blocks also tell whether a depth is refitted at all."""
    model = chain(4)
    refitted: list[tuple[int | None, tuple[int, ...]]] = []
    repair = Truncated.repair

    def remembered(one: Truncated, uncut: Uncut, exclude: Callable[[str], bool], half: int | None = None) -> Any:
        refitted.append((half, tuple(sorted(one.removed))))
        return repair(one, uncut, exclude, half)

    monkeypatch.setattr(Truncated, "repair", remembered)
    around = dataclasses.replace(context(model), departure=unseen)
    notes = ElasticDepth(depths=(2, 3), criterion=criterion).rewrite(model, around)  # type: ignore[arg-type]
    assert len(set(refitted)) == len(refitted)
    assert [gone for half, gone in refitted if half is None] == [tuple(row["left_out"]) for row in notes.table]
    if criterion == "last":
        assert refitted == [(0, (2, 3)), (0, (3,)), (None, (2, 3)), (None, (3,))]


@settings(max_examples=10, deadline=None)
@given(depth=st.integers(-5, 99))
def test_any_number_runs_as_the_next_smaller_depth(depth: int) -> None:
    result = _cached()
    serves = 2 if depth < 3 else 3 if depth < 5 else 5
    np.testing.assert_array_equal(at(result, depth)[0], at(result, serves)[0])


@functools.cache
def _cached() -> ir.Model:
    return elastic(chain(5), depths=(2, 3), repair="none")[0]


def test_nothing_smaller_than_the_full_depth_changes_nothing() -> None:
    model = chain(3)
    before = ir.to_proto(model).SerializeToString()
    notes = ElasticDepth(depths=(3,)).rewrite(model, context(model))
    assert not notes.edits
    assert [str(skip) for skip in notes.skips] == ["model: nothing to gain (all 3 blocks always run)"]
    assert ir.to_proto(model).SerializeToString() == before


def test_blocks_that_there_are_not_are_named() -> None:
    with pytest.raises(UsageError, match="elastic-depth: depths: 7 is more than the 3 blocks that the model has"):
        elastic(chain(3), depths=(2, 7))
    with pytest.raises(UsageError, match="elastic-depth: keep: there is no block 3; the model's blocks are 0 to 2"):
        elastic(chain(3), depths=(2,), keep=(3,))


def test_blocks_that_have_to_stay_limit_the_depths() -> None:
    result, notes = elastic(chain(4), depths=(1, 2, 3), keep=(0, 3), repair="none")
    assert [row["depth"] for row in notes.table] == [2, 3]
    assert all(not {0, 3} & set(row["left_out"]) for row in notes.table)
    assert "depth 1: it cannot be cut out (only 2 of 4 blocks can go)" in [str(skip) for skip in notes.skips]
    assert result.graph.inputs[-1].metadata_props["edgefold.option"] == "2,3,4"


def test_without_blocks_and_without_calibration_it_says_so() -> None:
    flat = graph(
        f"g (float[n, {WIDTH}] x) => (float[n, {WIDTH}] y) {{ y = MatMul(x, v) }}", {"v": weights(WIDTH, WIDTH)}
    )
    assert [skip.reason for skip in ElasticDepth(depths=(1,)).rewrite(flat, Context()).skips] == [
        "no repeated residual blocks were found"
    ]
    model = chain(4)
    notes = ElasticDepth(depths=(2,)).rewrite(model, Context())
    assert notes.table == ({"depth": 2, "left_out": [2, 3], "error_before_repair": None, "error": None},)
    assert [skip.reason for skip in notes.skips] == ["needs calibration data"] * 2


def test_the_pipeline_takes_the_declared_input_and_no_other() -> None:
    model = chain(4)
    inputs = Inputs(next(batches()), batches, {"x": (1, WIDTH)})
    result, record = run_step(model, ElasticDepth(depths=(2,)), inputs, context(model))
    assert record.difference is not None
    assert record.difference.relative == 0
    assert record.macs == model_macs(model, inputs.shapes)  # of the longest branches
    with pytest.raises(VerificationError, match="optional inputs should be none and are depth"):
        check_structure(model, result, "some-pass")
    with pytest.raises(VerificationError, match="optional inputs should be depth and are none"):
        check_structure(result, model, "some-pass")


def test_an_input_of_that_name_is_not_added_twice() -> None:
    result, _ = elastic(chain(3), depths=(2,), repair="none")
    notes = ElasticDepth(depths=(2,)).rewrite(result, Context())
    assert not notes.edits
    assert "it has a value `depth` already; the option input names another" in str(notes.skips[0])
    named, notes = elastic(chain(3), depths=(2,), repair="none", input="blocks")
    assert notes.options == ("blocks",)
    assert named.graph.inputs[-1].name == "blocks"


def test_quantized_blocks_run_at_every_depth() -> None:
    from edgefold.passes.quantize import Quantize

    model = chain(4)
    inputs = Inputs(next(batches()), batches, {"x": (1, WIDTH)})
    small = run_recipe(model, [Quantize(weights=4, method="shift", rounding="nearest")], inputs)
    both = run_recipe(small, [ElasticDepth(depths=(2,))], inputs)
    np.testing.assert_array_equal(at(both)[0], at(small)[0])
    left_out = [number for number in range(4) if f"h{number + 1}/depth>=4" in {node.name for node in both.graph}]
    assert len(left_out) == 2
    np.testing.assert_array_equal(at(both, 2)[0], at(Truncated(small, left_out).model)[0])
    assert model_size(both) < 1.3 * model_size(small)


def test_what_does_not_run_takes_no_time(tmp_path: Any) -> None:
    model = chain(10)
    result, _ = elastic(model, depths=(2,), repair="none")
    save_model(result, tmp_path / "model.onnx")
    session = make_session(tmp_path / "model.onnx", threads=1)
    rows = {"x": weights(4096, WIDTH)}

    def seconds(depth: int) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            session.run(None, {**rows, "depth": np.array(depth, np.int64)})
            times.append(time.process_time() - start)
        return min(times)

    seconds(10)
    assert seconds(2) < 0.6 * seconds(10)


@pytest.mark.parametrize("name", ["models/char_lm", "vit_mnist", "cifar_resnet56"])
def test_real_models_run_at_every_depth(name: str) -> None:
    folder = ROOT / name if name.startswith("models/") else DATA / name
    if not (folder / "model.onnx").exists():
        pytest.skip(f"{folder}/model.onnx is not there; EDGEFOLD_DATA names the folder of real models")
    model = load_model(folder / "model.onnx").model
    feeds = guessed_feeds(make_session(model), seed=0)
    assert feeds is not None
    full = len(blocks_of(model))
    result = model.clone()
    notes = ElasticDepth(depths=(full - 1, full // 2), repair="none").rewrite(result, Context())
    assert [row["depth"] for row in notes.table] == [full // 2, full - 1]
    wanted = [(None, model), *((row["depth"], Truncated(model, row["left_out"]).model) for row in notes.table)]
    for depth, alone in wanted:
        chosen = {} if depth is None else {"depth": np.array(depth, np.int64)}
        got = run_model(result, {**feeds, **chosen}, optimize=False)
        for output, value in run_model(alone, feeds, optimize=False).items():
            np.testing.assert_array_equal(got[output], value)


def test_a_simplified_model_keeps_its_depths() -> None:
    before = _cached()
    after = before.clone()
    Simplify().rewrite(after, Context())
    check_structure(before, after, "simplify")
    for depth in (None, 2, 3):
        np.testing.assert_allclose(at(after, depth)[0], at(before, depth)[0], rtol=1e-5, atol=1e-5)


def test_pruning_refuses_a_model_whose_depth_an_input_chooses() -> None:
    with pytest.raises(PreconditionError, match="prune it before elastic-depth"):
        PruneChannels().requires(_cached())
