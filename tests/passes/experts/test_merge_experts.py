# SPDX-License-Identifier: Apache-2.0
"""Fewer experts in a layer: what is exact stays exact, what goes is gone, and what cannot be done is said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import run, weights

from edgefold.calibration import Calibration
from edgefold.passes.base import Context, Pass, SkipReason
from edgefold.passes.experts.dispatch import Expert
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.feed_forward import FeedForward
from edgefold.passes.merge_experts import MergeExperts
from edgefold.passes.prune_experts import PruneExperts
from edgefold.passes.quantize import Quantize

X = weights(300, 8, seed=41)


def batches() -> Iterator[dict[str, np.ndarray]]:
    yield from ({"x": part} for part in np.split(weights(1200, 8, seed=40), 4))


def calibrated(model: ir.Model, **options: object) -> Context:
    return Context(calibration=Calibration(model, batches, threads=1), **options)  # type: ignore[arg-type]


def output(model: ir.Model) -> np.ndarray:
    return run(model, {"x": X})[0]


def error(model: ir.Model, original: ir.Model) -> float:
    wanted = output(original)
    return float(np.square(output(model) - wanted).sum() / np.square(wanted).sum())


def copies(permuted: bool) -> list[Expert]:
    """Two experts, each three times; the copies with their hidden units in other orders."""
    model = dispatched(experts(2))
    random = np.random.default_rng(0)
    activation = find_dispatched(model)[0].activation
    orders = [random.permutation(6) if permuted and number > 1 else np.arange(6) for number in range(6)]
    return [FeedForward(experts(2)[n % 2], activation).permuted(order).weights for n, order in enumerate(orders)]


def sizes(model: ir.Model) -> list[int]:
    return [len(layer.experts) for layer in find_dispatched(model)]


@pytest.mark.parametrize(
    ("grouping", "permuted", "refit"),
    [
        ("outputs", False, "none"),
        ("outputs", True, "joint"),
        ("hierarchical", True, "gated"),
        ("outputs", True, "plain"),
    ],
)
def test_equal_experts_become_one_and_nothing_changes(grouping: str, permuted: bool, refit: str) -> None:
    original = dispatched(copies(permuted))
    model = original.clone()
    step = MergeExperts(experts=2, grouping=grouping, refit=refit, method="merge")  # type: ignore[arg-type]
    notes = step.rewrite(model, calibrated(original))
    assert notes.table[0]["how"] == "merged 0+2+4 1+3+5"
    assert notes.stats == {"experts_before": 6, "experts_after": 2}
    np.testing.assert_allclose(output(model), output(original), atol=1e-5)


@pytest.mark.parametrize(("align", "exact"), [("weights", True), ("activations", True), ("none", False)])
def test_permuted_experts_need_alignment(align: str, exact: bool) -> None:
    original = dispatched(copies(permuted=True))
    model = original.clone()
    MergeExperts(experts=2, align=align, refit="none").rewrite(model, calibrated(original))  # type: ignore[arg-type]
    assert (error(model, original) < 1e-10) == exact


@pytest.mark.parametrize("kind", [MergeExperts, PruneExperts])
@pytest.mark.parametrize("options", [{"experts": 4}, {"experts": 9}, {"keep": 1.0}])
def test_all_experts_are_no_change(kind: type[Pass], options: dict[str, float]) -> None:
    model = dispatched(experts(4))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    notes = kind(**options).rewrite(model, calibrated(model))
    assert not notes.edits
    assert [skip.reason for skip in notes.skips] == [SkipReason.NOTHING_TO_GAIN]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_weights_of_merged_experts_leave_the_file() -> None:
    model = dispatched(original := experts(8))
    MergeExperts(experts=3, method="merge").rewrite(model, calibrated(model.clone()))
    assert sizes(model) == [3]
    stored = [value for value in model.graph.initializers.values() if list(value.shape or ()) in ([8, 6], [6, 8])]
    assert len(stored) == 3 * 3
    names = [name for name in model.graph.initializers if name.startswith("moe.experts.")]
    assert {name.split(".")[2] for name in names} == {"0", "1", "2"}
    assert len(original) == 8


def test_every_refit_helps() -> None:
    original = dispatched(experts(8, f=12))
    errors = {}
    for refit in ("none", "plain", "gated", "joint"):
        model = original.clone()
        step = MergeExperts(experts=4, refit=refit, method="merge")  # type: ignore[arg-type]
        step.rewrite(model, calibrated(original))
        errors[refit] = error(model, original)
    assert max(errors["plain"], errors["gated"]) < errors["none"]
    assert errors["joint"] < 0.8 * errors["none"]


@pytest.mark.parametrize("grouping", ["outputs", "logits", "hierarchical", "weights", "random"])
def test_every_grouping_gives_the_number_asked_for(grouping: str) -> None:
    original = dispatched(experts(6, bias=True), axes="B, S, 8")
    model = original.clone()

    def images() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"x": weights(2, 30, 8, seed=seed)} for seed in range(3))

    step = MergeExperts(experts=4, grouping=grouping, method="merge")  # type: ignore[arg-type]
    step.rewrite(model, Context(calibration=Calibration(original, images, threads=1)))
    assert sizes(model) == [4]
    assert run(model, {"x": weights(2, 7, 8)})[0].shape == (2, 7, 8)


def sliced(members: Sequence[Expert], kept: Sequence[int]) -> ir.Model:
    """The model as if it had been built without the other experts."""
    model = dispatched([members[number] for number in kept])
    router = model.graph.initializers["router"]
    whole = weights(8, len(members), seed=99)
    router.const_value = ir.tensor(np.ascontiguousarray(whole[:, list(kept)]), name="router")
    return model


@pytest.mark.parametrize("criterion", ["reap", "frequency", "naee", "random"])
def test_a_pruned_layer_is_that_of_a_router_without_the_experts(criterion: str) -> None:
    members = experts(6)
    original = dispatched(members)
    model = original.clone()
    step = PruneExperts(experts=4, criterion=criterion, refit="none")  # type: ignore[arg-type]
    notes = step.rewrite(model, calibrated(original))
    kept = [int(number) for number in notes.table[0]["how"].split()[1:]]
    assert len(kept) == sizes(model)[0] == 4
    np.testing.assert_allclose(output(model), output(sliced(members, kept)), atol=1e-5)


def test_the_set_that_naee_keeps_changes_the_output_least() -> None:
    original = dispatched(experts(5))
    errors = {}
    for criterion in ("naee", "reap", "frequency", "random"):
        model = original.clone()
        step = PruneExperts(experts=3, criterion=criterion, refit="none")  # type: ignore[arg-type]
        step.rewrite(model, calibrated(original))
        errors[criterion] = error(model, original)
    assert errors["naee"] <= min(errors.values()) * 1.05


def test_survivors_are_refitted() -> None:
    original = dispatched(experts(8, f=12))
    found = []
    for refit in ("none", "joint"):
        model = original.clone()
        PruneExperts(experts=4, refit=refit).rewrite(model, calibrated(original))  # type: ignore[arg-type]
        found.append(error(model, original))
    assert found[1] < 0.8 * found[0]


def test_the_best_way_is_the_one_with_less_error_on_held_out_rows() -> None:
    original = dispatched(experts(8, f=12))
    model = original.clone()
    [row] = MergeExperts(experts=4).rewrite(model, calibrated(original)).table
    errors = {"merged": row["held_out_merge"], "kept": row["held_out_prune"]}
    assert row["how"].split()[0] == min(errors, key=errors.__getitem__)
    masks = [name for name in model.graph.initializers if "mask" in name]
    assert bool(masks) == (row["how"].split()[0] == "kept")
    assert error(model, original) < 0.5


def test_a_router_keeps_the_experts_that_it_chooses() -> None:
    model = dispatched(experts(4), top=3)
    notes = PruneExperts(experts=2).rewrite(model, calibrated(model.clone()))
    assert [skip.reason for skip in notes.skips] == [SkipReason.INSEPARABLE]
    assert sizes(model) == [4]
    assert MergeExperts(experts=2).rewrite(model, calibrated(model.clone())).edits  # merging has no such limit


@pytest.mark.parametrize("kind", [MergeExperts, PruneExperts])
def test_what_cannot_be_reduced_is_named(kind: type[Pass]) -> None:
    model = dispatched(experts(4))
    assert kind().rewrite(model.clone(), Context()).skips[0].reason == SkipReason.NO_CALIBRATION
    excluded = kind().rewrite(model.clone(), calibrated(model, exclude=("moe*",)))
    assert [skip.reason for skip in excluded.skips] == [SkipReason.EXCLUDED]
    packed = dispatched(experts(4, f=64))
    Quantize(weights=4, method="shift", rounding="nearest").rewrite(packed, Context())
    notes = kind().rewrite(packed, calibrated(packed.clone()))
    assert [skip.reason for skip in notes.skips] == [SkipReason.ALREADY_QUANTIZED]
    widths = [*experts(3), experts(1, f=5)[0]]
    notes = kind().rewrite(uneven := dispatched(widths), calibrated(uneven.clone()))
    assert [skip.reason for skip in notes.skips] == [SkipReason.RANK]


@pytest.mark.parametrize("kind", [MergeExperts, PruneExperts])
def test_options_that_contradict_are_refused(kind: type[Pass]) -> None:
    with pytest.raises(ValueError, match="give one of them"):
        kind(experts=4, keep=0.5)


def test_gates_of_groups_are_exact_sums_and_no_weights() -> None:
    original = dispatched(experts(6))
    model = original.clone()
    notes = MergeExperts(experts=3, method="merge").rewrite(model, calibrated(original))
    groups = [[int(one) for one in group.split("+")] for group in notes.table[0]["how"].split()[1:]]
    for one, name in ((original, "gates"), (model, find_dispatched(model)[0].gates.name)):
        one.graph.outputs.append(next(v for node in one.graph for v in node.outputs if v.name == name))
    before, after = run(original, {"x": X})[1], run(model, {"x": X})[1]
    np.testing.assert_array_equal(after, np.stack([before[:, group].sum(axis=1) for group in groups], axis=1))
    router = [n for n in model.graph if n.op_type == "MatMul" and not str(n.name).startswith("moe/experts.")]
    assert [str(node.inputs[1].name) for node in router if node.inputs[1]] == ["router"]


def test_a_layer_may_be_reduced_again() -> None:
    original = dispatched(experts(6))
    model = original.clone()
    found = []
    for step in (PruneExperts(experts=5), MergeExperts(experts=4), PruneExperts(experts=3), MergeExperts(experts=2)):
        step.rewrite(model, calibrated(model.clone()))
        found += sizes(model)
    assert found == [5, 4, 4, 2]  # groups share the router's columns: none of them can be kept from being chosen
    assert error(model, original) < 1
