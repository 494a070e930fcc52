# SPDX-License-Identifier: Apache-2.0
"""Hidden units of experts: those that others can stand for go without loss, and splitting an expert changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
from dispatched_models import dispatched, experts
from graphs import Array, graph, nodes, run, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefold.calibration import Calibration
from edgefold.passes.base import Context
from edgefold.passes.compress_experts import CompressExperts
from edgefold.passes.experts.dispatch import Expert, Product
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.experts.units import split_units, strongest
from edgefold.passes.fuse_experts import FuseExperts
from edgefold.passes.quantize import Quantize

FEEDS = {"x": weights(200, 8, seed=41)}


def seeing(model: ir.Model) -> Context:
    """A context whose calibration runs the model as it is now."""

    def batches() -> Iterator[dict[str, Array]]:
        yield from ({"x": part} for part in np.split(weights(1200, 8, seed=40), 4))

    return Context(calibration=Calibration(model.clone(), batches, threads=1))


def compressed(original: ir.Model, **options: object) -> ir.Model:
    """A copy of a model after the pass."""
    model = original.clone()
    CompressExperts(**options).rewrite(model, seeing(original))  # type: ignore[arg-type]
    return model


def error(model: ir.Model, original: ir.Model) -> float:
    wanted = run(original, FEEDS)[0]
    return float(np.square(run(model, FEEDS)[0] - wanted).sum() / np.square(wanted).sum())


def widths(model: ir.Model) -> list[int]:
    (layer,) = find_dispatched(model)
    return [len(one.value().down.weight) for one in layer.experts]


def in_pairs(count: int, *, alike: bool) -> list[Expert]:
    """Experts of 12 hidden units, the last 6 of which read what the first 6 do; their outputs are of their own."""
    found = []
    for number, expert in enumerate(experts(count)):
        other = experts(1, f=6)[0] if not alike else expert
        pairs = zip(expert.inputs, other.inputs, strict=True)
        inputs = tuple(Product(np.concatenate([a.weight, b.weight], axis=1)) for a, b in pairs)
        more = weights(6, 8, seed=300 + number) / 3
        found.append(Expert(inputs, Product(np.concatenate([expert.down.weight, more]))))
    return found


@pytest.mark.parametrize("equal", ["free", "equal"])
def test_units_that_say_the_same_become_one(equal: str) -> None:
    original = dispatched(in_pairs(4, alike=True))
    model = compressed(original, keep=0.5, widths=equal)
    assert widths(model) == [6] * 4
    assert error(model, original) < 1e-5  # the refit is damped towards the rows that stay
    near = dispatched(in_pairs(4, alike=False))
    assert error(compressed(near, keep=0.5, widths=equal), near) > 1e-3


def test_the_budget_is_kept_and_more_of_it_is_less_error() -> None:
    original = dispatched(experts(4, f=32, bias=True))
    errors = []
    for keep in (0.3, 0.6, 0.9):
        free, equal = (compressed(original, keep=keep, widths=one) for one in ("free", "equal"))
        assert sum(widths(free)) == int(keep * 128)
        assert widths(equal) == [int(keep * 32)] * 4
        errors.append(error(free, original))
    assert errors == sorted(errors, reverse=True)
    assert 0 < errors[-1] < errors[0] < 1


def test_an_expert_split_into_two_with_its_gate_computes_the_same() -> None:
    original = dispatched(experts(4, bias=True))
    model = original.clone()
    (layer,) = find_dispatched(model)
    kept = [np.array(units, np.intp) for units in ([0, 5], [3], [0, 1, 2, 3, 4, 5], [1, 2, 4])]
    split_units(model.graph, layer, kept)
    assert widths(model) == [2, 1, 6, 3, 4, 5, 3]
    assert error(model, original) < 1e-12
    assert run(model, {"x": FEEDS["x"][:0]})[0].shape == (0, 8)


def partly_low_rank(count: int) -> list[Expert]:
    """Experts of 48 hidden units, 8 of which are strong and of full rank, and the others of rank 2 in every matrix."""
    found = []
    for number, expert in enumerate(experts(count, f=8)):
        seed = 900 + 10 * number
        thin = [weights(8, 2, seed=seed + one) @ weights(2, 40, seed=seed + 3 + one) / 3 for one in range(2)]
        inputs = tuple(
            Product(np.concatenate([one.weight, rest], axis=1)) for one, rest in zip(expert.inputs, thin, strict=True)
        )
        last = weights(40, 2, seed=seed + 7) @ weights(2, 8, seed=seed + 8) / 400
        found.append(Expert(inputs, Product(np.concatenate([3 * expert.down.weight, last]))))
    return found


def test_whole_units_beside_low_rank() -> None:
    original = dispatched(partly_low_rank(4))
    keep = (8 * 24 + 3 * 2 * 48) / (48 * 24)
    model = compressed(original, keep=keep, basis="own", sparse=8 * 24 / (keep * 48 * 24))
    (layer,) = find_dispatched(model)
    assert widths(model) == [8] * 4 + [40] * 4
    assert [len(one.down.nodes) for one in layer.experts] == [1] * 4 + [2] * 4
    stored = sum(site.k * site.n for one in layer.experts for part in (*one.inputs, one.down) for site in part.sites())
    assert stored <= keep * 4 * 48 * 24
    assert error(model, original) < 1e-6
    assert error(compressed(original, keep=keep, basis="own"), original) > 1e-3


def test_narrower_experts_of_one_width_become_one_node_of_packed_weights() -> None:
    model = compressed(dispatched(experts(4, f=192)), keep=0.5, widths="equal")
    before = model.clone()
    Quantize(weights=4, method="rtn", first_last=4).rewrite(model, Context())
    assert len(FuseExperts().rewrite(model, Context()).edits) == 1
    assert error(model, before) < 0.05


def test_experts_of_unlike_widths_are_refused_a_second_time() -> None:
    once = compressed(dispatched(experts(4, f=32)), keep=0.5)
    assert len(set(widths(once))) > 1
    notes = CompressExperts(keep=0.5).rewrite(once, seeing(once))
    assert [str(skip) for skip in notes.skips] == ["moe: unsupported rank (its experts differ in width)"]
    assert not notes.edits


@pytest.mark.parametrize("options", [{}, {"basis": "own", "sparse": 0.1}, {"basis": "shared"}], ids=str)
def test_models_without_experts_stay_as_they_are(options: dict[str, object]) -> None:
    model = graph("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }", {})
    assert not CompressExperts(**options).rewrite(model, seeing(model)).edits  # type: ignore[arg-type]
    assert nodes(model) == ["y = Relu(x)"]


def test_options_that_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="set basis to own"):
        CompressExperts(sparse=0.1, basis="shared")
    with pytest.raises(ValueError, match="leave out basis"):
        CompressExperts(widths="equal", basis="own")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 1.0), st.booleans())
def test_no_unit_that_goes_is_worth_more_for_its_cost_than_one_that_stays(seed: int, keep: float, equal: bool) -> None:
    random = np.random.default_rng(seed)
    scores, costs = [list(random.random((3, 20))), list(random.random((2, 10)))], [5, 9]
    budget = keep * (5 * 60 + 9 * 20)
    kept = strongest(scores, costs, budget, equal=equal)
    counts = [[len(one) for one in layer] for layer in kept]
    assert all(len(set(layer)) == 1 for layer in counts) or not equal
    assert min(map(min, counts)) >= 1
    assert sum(cost * sum(layer) for cost, layer in zip(costs, counts, strict=True)) <= max(budget, 5 * 3 + 9 * 2)
    for layer, of in zip(scores, kept, strict=True):
        for worth, units in zip(layer, of, strict=True):
            gone = np.delete(worth, units)
            assert worth[units].min() >= gone.max(initial=0)
    if not equal:
        stay = min(
            w[u].min() / c
            for of, k, c in zip(scores, kept, costs, strict=True)
            for w, u in zip(of, k, strict=True)
            if len(u) > 1
        )
        go = max(
            np.delete(w, u).max(initial=0) / c
            for of, k, c in zip(scores, kept, costs, strict=True)
            for w, u in zip(of, k, strict=True)
        )
        assert stay >= go
