# SPDX-License-Identifier: Apache-2.0
"""The pass remove-blocks as a whole: budgets, skips, repair, and what must come back bit for bit."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from graphs import nodes, run, weights
from residual_chains import HIDDEN, WIDTH, chain, feeds

from edgefold.calibration import Calibration
from edgefold.calibration_batches import every_second
from edgefold.errors import UsageError
from edgefold.measuring.macs import macs_by_name
from edgefold.passes import Context, Notes, SkipReason
from edgefold.passes.depth.repair import Uncut
from edgefold.passes.remove_blocks import RemoveBlocks
from edgefold.perturbing import Departure, perturb
from edgefold.recipe import load_recipe, parse_recipe

BATCHES = [{"x": weights(64, WIDTH, seed=seed)} for seed in (1, 2)]


def context(model: ir.Model, **more: Any) -> Context:
    return Context(
        **{
            "calibration": Calibration(model.clone(), lambda: iter(BATCHES)),
            "perturb": functools.partial(perturb, feeds=lambda: BATCHES),
            "macs": functools.partial(macs_by_name, shapes={"x": (1, WIDTH)}),
            **more,
        }
    )


def removed(model: ir.Model, around: Context | None = None, **options: Any) -> Notes:
    made = context(model) if around is None else around
    return msgspec.convert(options, RemoveBlocks).rewrite(model, made)


def judging(model: ir.Model, batches: Sequence[Mapping[str, np.ndarray]]) -> Context:
    """What the pipeline hands on where a repair can be judged."""

    def unseen(one: ir.Model, half: int | None) -> Departure:
        return Departure(one, functools.partial(every_second, lambda: iter(batches), half or 0))

    perturbed = functools.partial(perturb, feeds=lambda: batches)
    return context(
        model, calibration=Calibration(model.clone(), lambda: iter(batches)), perturb=perturbed, departure=unseen
    )


def gone(notes: Notes) -> list[str]:
    return [row["part"] for row in notes.table if row["removed"]]


def digest(model: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def blocks_left(model: ir.Model) -> list[int]:
    return [i for i in range(9) if f"w{i}" in model.graph.initializers]


def test_the_blocks_that_add_nothing_go_and_nothing_changes() -> None:
    model = chain(6, silent=(1, 4), last="y")
    before = run(model, feeds())[0]
    notes = removed(model, repair="none")
    assert blocks_left(model) == [0, 2, 3, 5]
    assert [str(edit.node) for edit in notes.edits] == ["block 1", "block 4"]
    assert notes.stats["criterion"] == "exhaustive"
    assert notes.stats["error_before_repair"] < 1e-12  # type: ignore[operator]
    assert notes.skips == ()
    np.testing.assert_array_equal(run(model, feeds())[0], before)


def with_linear_end() -> ir.Model:
    """Three blocks; the last adds as much as the stream holds, by ``Relu(h W) - Relu(-h W)``, which the head can do."""
    model = chain(3, last="y")
    stored = model.graph.initializers
    half = weights(WIDTH, HIDDEN // 2, seed=5)
    back = np.linalg.pinv(half)
    arrays = {"w2": np.hstack([half, -half]), "u2": np.vstack([back, -back])}
    arrays |= {name: 0.2 * stored[name].const_value.numpy() for name in ("u0", "u1")}  # type: ignore[union-attr]
    for name, array in arrays.items():
        stored[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return model


MANY = [{"x": weights(256, WIDTH, seed=seed)} for seed in range(4)]


def test_what_a_refit_can_make_up_for_goes_first() -> None:
    model = with_linear_end()
    notes = removed(model, judging(model, MANY), blocks=1)
    assert (gone(notes), notes.stats["criterion"]) == (["block 2"], "repaired")
    assert notes.stats["choices_repaired"] == 3
    assert notes.stats["error_repaired"] < 0.05 < 0.2 < notes.stats["error_before_repair"]  # type: ignore[operator]


@pytest.mark.parametrize(("criterion", "said"), [("auto", 0), ("repaired", 1)])
def test_nothing_is_judged_by_a_repair_that_is_not_made(criterion: str, said: int) -> None:
    model = with_linear_end()
    notes = removed(model, judging(model, MANY), blocks=1, repair="none", criterion=criterion)
    assert (gone(notes), notes.stats["criterion"]) == (["block 0"], "exhaustive")
    assert [skip.detail for skip in notes.skips] == ["nothing is repaired: judged without a repair"] * said


def test_one_batch_is_both_fitted_to_and_judged_by() -> None:
    model = with_linear_end()
    notes = removed(model, judging(model, MANY[:1]), blocks=1)
    assert notes.stats["criterion"] == "repaired"
    assert notes.stats["error_repaired"] < 0.05  # type: ignore[operator]


def test_blocks_that_there_are_not_are_named() -> None:
    assert removed(chain(4), blocks=1, keep=[0, 3]).edits
    with pytest.raises(UsageError, match="remove-blocks: keep: there is no block 4; the model's blocks are 0 to 3"):
        removed(chain(4), blocks=1, keep=[0, 4])


def test_what_is_refitted_makes_up_for_what_is_gone() -> None:
    model = chain(4, last="y")
    wanted = run(model, feeds(300))[0]
    errors = {}
    for repair in ("none", "least-squares"):
        changed = model.clone()
        notes = removed(changed, blocks=1, repair=repair, criterion="last")
        assert blocks_left(changed) == [0, 1, 2]
        errors[repair] = float(np.square(run(changed, feeds(300))[0] - wanted).sum())
        assert (len(notes.edits) > 1) is (repair == "least-squares")
    assert errors["least-squares"] < 0.8 * errors["none"]


def test_the_layer_before_a_run_aims_at_the_stream_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def repair(
        model: ir.Model, uncut: Uncut, targets: dict[str, str], *, half: int | None, scope: str, exclude: Any
    ) -> Notes:
        assert (scope, half) == ("all", None)
        assert blocks_left(model) == [0, 3, 5]
        assert blocks_left(uncut.model) == [0, 1, 2, 3, 4, 5]
        assert exclude("down0")
        assert not exclude("down3")
        asked.append(targets)
        return Notes(stats={"refitted": 0})

    monkeypatch.setattr("edgefold.passes.remove_blocks.repair_depth", repair)
    model = chain(6, silent=(1, 2, 4), last="y")
    notes = removed(model, context(model, exclude=("down0",)), blocks=3)
    assert asked == [{"h1": "h3", "h4": "h5"}]
    assert notes.stats["refitted"] == 0


@pytest.mark.parametrize(
    "options", [{"blocks": 0}, {"ratio": 0}, {"ratio": 0.1}, {"flops": 1.0}, {"max_error": 0}], ids=str
)
@pytest.mark.parametrize("parts", ["blocks", "halves", "any"])
def test_a_budget_of_less_than_a_block_changes_nothing(options: dict[str, float], parts: str) -> None:
    model = chain(4, last="y")
    before = digest(model)
    notes = removed(model, **options, parts=parts)
    assert notes.edits == ()
    assert [skip.reason for skip in notes.skips] == [SkipReason.BELOW_THRESHOLD]
    assert digest(model) == before


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, 4),
        ({"ratio": 0.5}, 3),
        ({"ratio": 0.4}, 4),
        ({"blocks": 5}, 1),
        ({"blocks": 6}, 0),
        ({"flops": 0.71}, 4),  # of 17408, a block has 2560
        ({"flops": 0.7}, 3),
        ({"keep": [0, 1, 2], "ratio": 0.5}, 3),
    ],
)
def test_budgets(options: dict[str, Any], left: int) -> None:
    model = chain(6, last="y")
    notes = removed(model, **options, repair="none")
    assert len(blocks_left(model)) == left
    assert notes.stats["blocks"] == 6
    assert notes.stats["blocks_removed"] == 6 - left
    assert notes.stats["weights_removed"] == (6 - left) * 2 * WIDTH * HIDDEN
    if "keep" in options:
        assert blocks_left(model) == [0, 1, 2]


def test_an_error_bound_is_kept_and_used() -> None:
    model = chain(6, silent=(2,), last="y")
    losses = sorted(row["loss"] for row in removed(model.clone(), blocks=1, repair="none").table)
    assert gone(removed(model.clone(), max_error=losses[1] * 0.9, repair="none")) == ["block 2"]
    several = removed(model, max_error=losses[2] * 2, repair="none")
    assert len(gone(several)) > 1
    assert several.stats["error_before_repair"] <= losses[2] * 2  # type: ignore[operator]


def test_a_budget_that_cannot_be_met_changes_nothing() -> None:
    for options in ({"blocks": 5}, {"blocks": 3, "keep": [0, 3]}, {"flops": 0.01}):
        model = chain(4, last="y")
        before = digest(model)
        notes = removed(model, **options)
        assert notes.edits == ()
        assert SkipReason.INSEPARABLE in {skip.reason for skip in notes.skips}
        assert digest(model) == before


def test_an_excluded_node_keeps_its_block() -> None:
    model = chain(4, silent=(1,), last="y")
    notes = removed(model, context(model, exclude=("act1",)), blocks=1, repair="none")
    assert 1 in blocks_left(model)
    assert [str(skip) for skip in notes.skips] == ["block 1: excluded by the user (it holds act1)"]


def test_without_data_the_last_blocks_go_and_the_report_says_so() -> None:
    model = chain(6, last="y")
    notes = removed(model, Context())
    assert blocks_left(model) == [0, 1, 2, 3]
    assert notes.stats["criterion"] == "last"
    assert {skip.reason for skip in notes.skips} == {SkipReason.NO_CALIBRATION}
    assert len(notes.skips) == 2  # the criterion and the repair
    bound = removed(chain(6, last="y"), Context(), max_error=0.1)
    assert (bound.edits, bound.skips[0].reason) == ((), SkipReason.NO_CALIBRATION)
    work = removed(chain(6, last="y"), Context(), flops=0.5)
    assert (work.edits, work.skips[0].reason) == ((), SkipReason.DYNAMIC_SHAPE)


def test_a_model_without_blocks_is_left_alone() -> None:
    model = chain(1, last="y")
    notes = removed(model)
    assert (notes.edits, [skip.reason for skip in notes.skips]) == ((), [SkipReason.NO_BLOCKS])


def test_a_block_whose_inside_is_an_output_stays() -> None:
    model = chain(4, silent=(1,), last="y")
    inner = next(value for node in model.graph for value in node.outputs if value.name == "a1")
    inner.type, inner.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", HIDDEN])
    model.graph.outputs.append(inner)
    notes = removed(model, blocks=1, repair="none")
    assert 1 in blocks_left(model)
    assert [(skip.node, skip.reason) for skip in notes.skips] == [("block 1", SkipReason.INSEPARABLE)]
    assert len(nodes(model)) == 1 + 3 * 4 + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": 1, "ratio": 0.5}, "blocks and ratio both say how much goes"),
        ({"max-error": 0.1, "criterion": "exhaustive"}, "take criterion greedy"),
        ({"max-error": 0.1, "criterion": "repaired"}, "take criterion greedy"),
        ({"ratio": 1.5}, "ratio"),
        ({"blocks": -1}, "blocks"),
        ({"criterion": "best"}, "criterion"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_recipe({"steps": [{"pass": "remove-blocks", **options}]}, "here")


def test_the_recipe_takes_a_third() -> None:
    step = next(step for step in load_recipe("shallow").steps if isinstance(step, RemoveBlocks))
    model = chain(6, last="y")
    step.rewrite(model, context(model))
    assert len(blocks_left(model)) == 4
