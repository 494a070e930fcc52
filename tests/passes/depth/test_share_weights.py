# SPDX-License-Identifier: Apache-2.0
"""Blocks that share weights: which, whose, what stays private, and what the refit makes up for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import Array, nodes, run, weights
from residual_stacks import context_of, stack

from edgefold.errors import UsageError
from edgefold.passes import Context, Notes, ShareWeights, SkipReason
from edgefold.passes.depth.sharing import refit
from edgefold.passes.quantize import Quantize


def shared(model: ir.Model, context: Context | None = None, **options: object) -> tuple[ir.Model, Notes]:
    changed = model.clone()
    return changed, ShareWeights(**options).rewrite(changed, context or context_of(model))  # type: ignore[arg-type]


def error(model: ir.Model, changed: ir.Model) -> float:
    """Relative squared error of the outputs on inputs that calibration has not seen."""
    feeds = {"x": weights(512, 32, seed=999)}
    wanted, got = run(model, feeds)[0], run(changed, feeds)[0]
    return float(np.square(wanted - got).sum() / np.square(wanted).sum())


def readers_of(model: ir.Model, name: str) -> list[str]:
    return [str(use.node.name) for use in model.graph.initializers[name].uses()]


def array(model: ir.Model, name: str) -> Array:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


@pytest.mark.parametrize("form", ["matrices", "factors", "atoms"])
def test_nothing_to_share_leaves_the_model_alone_byte_for_byte(form: str) -> None:
    model = stack(4)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    notes = ShareWeights(form=form, keep=1.0).rewrite(model, context_of(model))  # type: ignore[arg-type]
    assert notes.edits == ()
    assert [skip.reason for skip in notes.skips] == [SkipReason.NOTHING_TO_GAIN]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("form", ["matrices", "factors", "atoms"])
def test_matrices_that_may_not_be_shared_leave_the_model_alone_byte_for_byte(form: str) -> None:
    model = stack(4)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    around = context_of(model, exclude=("*_up", "*_down"))
    notes = ShareWeights(form=form).rewrite(model, around)  # type: ignore[arg-type]
    assert notes.edits == ()
    assert {skip.reason for skip in notes.skips} == {SkipReason.EXCLUDED, SkipReason.NOTHING_TO_GAIN}
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_one_initializer_is_wired_to_the_blocks_of_a_group() -> None:
    model = stack(5)
    changed, notes = shared(model, groups=((1, 2), (3, 4)), source="first", refits=0)
    assert readers_of(changed, "up1") == ["h1_up", "h2_up"]
    assert readers_of(changed, "down3") == ["h3_down", "h4_down"]
    assert not {"up2", "down2", "up4", "down4"} & set(changed.graph.initializers)
    assert {"g2", "s2", "c2", "up0", "down0"} <= set(changed.graph.initializers)
    assert notes.stats["stored"] == 0.6
    assert notes.stats["groups"] == "1+2 3+4"
    np.testing.assert_array_equal(array(changed, "up1"), array(model, "up1"))


@pytest.mark.parametrize(("source", "kept"), [("first", "up1"), ("last", "up3")])
def test_the_weights_are_those_of_the_source(source: str, kept: str) -> None:
    model = stack(4)
    changed, _ = shared(model, groups=((1, 2, 3),), source=source, refits=0)
    np.testing.assert_array_equal(array(changed, kept), array(model, kept))
    assert len(readers_of(changed, kept)) == 3


def test_the_mean_is_of_all_blocks() -> None:
    model = stack(4)
    changed, _ = shared(model, groups=((1, 2, 3),), source="mean", refits=0)
    mean = np.mean([array(model, f"up{n}") for n in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(array(changed, "up1"), mean, rtol=1e-6, atol=1e-7)


def test_the_best_source_is_measured() -> None:
    model = stack(4)
    errors = {source: error(model, shared(model, groups=((1, 2, 3),), source=source, refits=0)[0])
              for source in ("first", "best", "last")}  # fmt: skip
    assert errors["best"] <= min(errors.values()) * 1.1


def test_blocks_that_are_alike_are_found() -> None:
    model = stack(6, alike=((1, 2, 3), (4, 5)))
    changed, notes = shared(model, keep=0.5, refits=0)
    assert notes.stats["groups"] == "1+2+3 4+5"
    assert error(model, changed) < 0.02
    assert error(model, shared(model, groups=((2, 3, 4),), refits=0)[0]) > 0.05


def test_the_first_block_is_private_unless_told_otherwise() -> None:
    model = stack(4, alike=((0, 1),))
    _, notes = shared(model, keep=0.75, refits=0)
    assert "0" not in str(notes.stats["groups"])
    _, notes = shared(model, keep=0.75, refits=0, private=())
    assert notes.stats["groups"] == "0+1"


def test_refits_make_up_for_most_of_what_sharing_lost() -> None:
    model = stack(5)
    errors = [error(model, shared(model, groups=((1, 2), (3, 4)), refits=refits)[0]) for refits in (0, 1, 2)]
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < errors[1]


def test_a_refit_that_does_not_help_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors that the refit goes by are made to rise from look to look."""
    looks = itertools.count()
    monkeypatch.setattr(refit.Evidence, "error", lambda evidence, outputs: float(next(looks)))
    model = stack(4)
    model.graph.initializers["c2"].replace_all_uses_with(
        model.graph.initializers["c1"]
    )  # as exporters merge equal ones
    plain, _ = shared(model, groups=((1, 2, 3),), source="first", refits=0)
    changed, notes = shared(model, groups=((1, 2, 3),), source="first", refits=1)
    assert any(skip.reason == SkipReason.FALLBACK for skip in notes.skips)
    assert not any(edit.what.startswith("refitted") for edit in notes.edits)
    feeds = {"x": weights(8, 32, seed=5)}
    np.testing.assert_allclose(run(changed, feeds)[0], run(plain, feeds)[0], atol=1e-6)


def test_where_no_matrix_can_be_refitted_nothing_is_said_of_a_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "MAX_MOMENT_BYTES", 1)
    _, notes = shared(stack(4), groups=((1, 2, 3),), source="first")
    assert {skip.reason for skip in notes.skips} == {SkipReason.RANK}
    assert "refitted" not in notes.stats


def test_refits_leave_what_comes_before_the_first_group() -> None:
    model = stack(5)
    changed, notes = shared(model, groups=((2, 3),), source="first", refits=1)
    for name in ("up0", "down0", "up1", "down1"):
        np.testing.assert_array_equal(array(changed, name), array(model, name))
    refitted = {edit.node for edit in notes.edits if edit.what.startswith("refitted")}
    assert refitted == {"up2", "down2", "up4", "down4"}
    assert len(readers_of(changed, "up2")) == 2


def test_without_calibration_groups_are_equal_and_nothing_is_refitted() -> None:
    model = stack(5)
    changed, notes = shared(model, Context(), keep=0.6)
    assert notes.stats["groups"] == "1+2 3+4"
    assert {skip.reason for skip in notes.skips} == {SkipReason.NO_CALIBRATION}
    np.testing.assert_array_equal(array(changed, "up1"), array(model, "up1"))


def test_a_budget_that_cannot_be_met_says_so() -> None:
    _, notes = shared(stack(4), keep=0.1, refits=0)
    assert notes.stats["groups"] == "1+2+3"
    assert any(skip.reason == SkipReason.FALLBACK and "0.5" in skip.detail for skip in notes.skips)


def test_a_matrix_that_something_else_reads_stays() -> None:
    model = stack(4)
    model.graph.insert_before(
        next(iter(model.graph)), extra := ir.node("MatMul", [model.graph.inputs[0], model.graph.initializers["up2"]])
    )
    extra.outputs[0].name = "aside"
    model.graph.outputs.append(extra.outputs[0])
    changed, notes = shared(model, groups=((1, 2, 3),), source="first", refits=0)
    assert any(skip.node == "up2" and skip.reason == SkipReason.SHARED_WEIGHT for skip in notes.skips)
    assert {"up1", "up2", "up3"} <= set(changed.graph.initializers)
    assert "down2" not in changed.graph.initializers


def test_excluded_nodes_keep_their_weights() -> None:
    model = stack(4)
    changed, notes = shared(model, context_of(model, exclude=("h2_up",)), groups=((1, 2, 3),), refits=0)
    assert {"up1", "up2", "up3"} <= set(changed.graph.initializers)
    assert any(skip.reason == SkipReason.EXCLUDED for skip in notes.skips)


def test_what_is_shared_already_stays_so() -> None:
    model = stack(5)
    once, _ = shared(model, groups=((1, 2, 3, 4),), refits=0)
    twice, notes = shared(once, groups=((1, 2, 3, 4),), refits=0)
    assert notes.edits == ()
    assert nodes(twice) == nodes(once)


@pytest.mark.parametrize(
    "options", [{"groups": ((1, 3),)}, {"groups": ((1,),)}, {"groups": ((1, 2), (2, 3))}, {"groups": ((2, 1),)}]
)
def test_groups_are_consecutive_and_apart(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="group"):
        ShareWeights(**options)  # type: ignore[arg-type]


def test_blocks_that_are_not_there_are_named() -> None:
    with pytest.raises(UsageError, match=r"\[4, 5\].*0 to 3"):
        shared(stack(4), groups=((4, 5),))


def test_quantize_packs_a_shared_matrix_once() -> None:
    model = stack(5)
    changed, _ = shared(model, groups=((1, 2), (3, 4)), refits=0)
    context = Context()
    Quantize(weights=8, method="shift", activations="float").rewrite(changed, context)
    packed = {node.name: node.inputs[1] for node in changed.graph if node.op_type == "ShiftMatMul"}
    ups = [value for name, value in packed.items() if str(name).endswith("_up")]
    assert len(packed) == 12
    assert len(set(ups)) == 3


def test_private_blocks_that_there_are_not_are_named() -> None:
    with pytest.raises(UsageError, match="share-weights: private: there is no block 4; the model's blocks are 0 to 3"):
        shared(stack(4), private=(0, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "factors", "delta_rank": 2}, "form factors has no use for delta_rank"),
        ({"form": "atoms", "scales": True}, "form atoms has no use for scales"),
        ({"form": "factors", "source": "mean"}, "form factors has no use for source"),
        ({"bases": "own"}, "form matrices has no use for bases"),
        ({"form": "atoms", "bases": "shared"}, "form atoms has no use for bases"),
        ({"groups": ((1, 2),), "keep": 0.7}, "groups and keep both say how much is shared"),
        ({"groups": ((1, 2),), "private": (3,)}, "groups and private both say which blocks share"),
        ({"form": "factors", "groups": ((1, 2),), "private": ()}, "groups and private both say which blocks share"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShareWeights(**options)


def test_options_at_their_defaults_are_not_given() -> None:
    ShareWeights(form="factors", delta_rank=0, scales=False, source="best", bases="own", groups=((1, 2),), keep=0.7)
    ShareWeights(form="matrices", bases="best", groups=((1, 2),), keep=0.5, private=(0,), delta_rank=2, source="mean")
