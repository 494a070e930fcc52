# SPDX-License-Identifier: Apache-2.0
"""What goes: budgets, scores and searches, on chains whose blocks are known."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, run, weights
from residual_chains import blocks, chain, feeds

from edgefold.calibration import Calibration
from edgefold.passes import Context, SkipReason
from edgefold.passes.depth.blocks import Block, Part, Stack
from edgefold.passes.depth.budget import Budget, ByCount, ByError, ByWork, all_choices, all_runs
from edgefold.passes.depth.candidates import Candidate, Move, candidates, moves
from edgefold.passes.depth.choice import best, greedy
from edgefold.passes.depth.judges import Additive, MacroInfluence, OutputError, RepairedError, block_influence
from edgefold.passes.depth.selection import RUNS, SHORTLIST, Criterion, Selector
from edgefold.perturbing import perturb

BATCHES = [feeds(48), feeds(48)]


def context(model: ir.Model, **more: object) -> Context:
    given = {"calibration": Calibration(model, lambda: iter(BATCHES)), "seed": 3}
    return Context(**{**given, "perturb": functools.partial(perturb, feeds=lambda: BATCHES), **more})  # type: ignore[arg-type]


def whole(model: ir.Model) -> list[Candidate]:
    stacks = [Stack(tuple(blocks(model)), "chain")]
    return candidates(stacks, "blocks", {}, keep=(), excludes=lambda name: False)[0]


def made_up(*sizes: int) -> list[Candidate]:
    """Candidates of so many halves of a block each."""
    value = ir.Value(name="v")
    part = Part(value, value, (), (), "other", None)
    return [Candidate(f"{i}", i, part, Fraction(size, 2), 10, 100 * size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(("count", "gone"), [(6, 2), (12, 3), (6, 0), (3, 3)])
def test_all_choices_of_a_count(count: int, gone: int) -> None:
    choices = all_choices(ByCount(made_up(*[2] * count), Fraction(gone)), count)
    assert choices is not None
    assert len(choices) == len(set(choices)) == math.comb(count, gone)
    assert all(len(one) == gone for one in choices)


def test_too_many_choices_are_not_listed() -> None:
    assert all_choices(ByCount(made_up(*[2] * 12), Fraction(6)), 12) is None  # 924
    assert all_choices(ByCount(made_up(*[2] * 40), Fraction(20)), 40) is None  # beyond listing


def test_halves_and_blocks_fill_a_count_together() -> None:
    choices = all_choices(ByCount(made_up(1, 1, 2), Fraction(1)), 3)
    assert choices == [{2}, {0, 1}]


def test_work_is_met_with_nothing_to_spare() -> None:
    choices = all_choices(ByWork(made_up(1, 1, 2), 150), 3)
    assert choices == [{2}, {0, 1}]
    assert all_choices(ByWork(made_up(1, 1, 2), 500), 3) is None  # all of it is 400


def test_greedy_takes_the_best_step_and_exhaustive_search_the_best_end() -> None:
    losses = {frozenset(): 0.0, frozenset({0}): 1.0, frozenset({1}): 2.0, frozenset({2}): 2.1}
    pairs = {frozenset({0, 1}): 9.0, frozenset({0, 2}): 8.0, frozenset({1, 2}): 3.0}
    judge = {**losses, **pairs}.__getitem__
    found = made_up(2, 2, 2)
    budget = ByCount(found, Fraction(2))
    assert greedy(found, moves(found, "blocks"), budget, judge) == {0, 2}
    assert best(all_choices(budget, 3) or [], judge) == {1, 2}


def test_a_whole_block_competes_with_halves_by_the_loss_for_its_size() -> None:
    found = [
        Candidate(one.name, number // 2, one.part, Fraction(1, 2), 10, 100)
        for number, one in enumerate(made_up(1, 1, 1, 1))
    ]
    together = {frozenset({0, 1}): 1.5}  # of what each costs alone, some is the same

    def judge(gone: frozenset[int]) -> float:
        return together.get(gone, 1.0 * len(gone))

    assert greedy(found, moves(found, "any"), ByCount(found, Fraction(1)), judge) == {0, 1}
    assert moves(found, "halves") == [{0}, {1}, {2}, {3}]
    assert moves(found, "any")[4:] == [{0, 1}, {2, 3}]


def test_an_error_bound_stops_before_it_is_passed() -> None:
    found = made_up(2, 2, 2)
    judge = Additive([0.3, 0.1, 0.2])
    budget: Budget = ByError(judge, 0.35)
    assert greedy(found, moves(found, "blocks"), budget, judge) == {1, 2}
    assert greedy(found, moves(found, "blocks"), ByError(judge, 0.05), judge) == frozenset()


@pytest.mark.parametrize("kind", ["output", "macro", "block"])
def test_a_block_that_adds_nothing_costs_nothing(kind: str) -> None:
    model = chain(3, silent=(1,), last="y")
    parts, around = blocks(model), context(model)
    assert around.perturb
    assert around.calibration
    if kind == "block":
        losses = block_influence(model, parts, around.calibration)
    elif kind == "macro":
        macro = MacroInfluence(model, parts, parts[-1], around.calibration)
        losses = [macro(frozenset({i})) for i in range(3)]
    else:
        output = OutputError(model, parts, around.perturb)
        losses = [output(frozenset({i})) for i in range(3)]
    assert abs(losses[1]) < 1e-9 < 1e-3 < min(losses[0], losses[2])


def test_influences_are_the_cosines_of_their_papers() -> None:
    model = chain(2, last="h0, h1, h2")
    parts, around = blocks(model), context(model)
    assert around.calibration
    h0, h1, h2 = (np.concatenate(several) for several in zip(*(run(model, batch) for batch in BATCHES), strict=True))
    cut = np.concatenate([run(chain(2, silent=(0,), last="h2"), batch)[0] for batch in BATCHES])
    assert block_influence(model, parts, around.calibration) == pytest.approx(
        [1 - _cosine(h0, h1), 1 - _cosine(h1, h2)]
    )
    macro = MacroInfluence(model, parts, parts[-1], around.calibration)
    assert macro(frozenset({0})) == pytest.approx(1 - _cosine(cut, h2))
    assert macro(frozenset()) == 0


def test_features_of_a_convolutional_stream_lie_along_its_channels() -> None:
    model = graph(
        "g (float[n, 4, 3, 3] x) => (float[n, 4, 3, 3] h) { c = Conv<pads = [1, 1, 1, 1]>(x, k) h = Add(x, c) }",
        {"k": weights(4, 4, 3, 3)},
    )
    data = {"x": weights(6, 4, 3, 3, seed=5)}
    end = model.graph.outputs[0]
    only = Part(model.graph.inputs[0], end, tuple(model.graph), (), "convolution", None)
    before, behind = (np.moveaxis(array, 1, -1).reshape(-1, 4) for array in (data["x"], run(model, data)[0]))
    found = block_influence(model, [only], Calibration(model, lambda: iter([data])))
    assert found == pytest.approx([1 - _cosine(before, behind)])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


ALL: tuple[Criterion, ...] = ("auto", "exhaustive", "greedy", "block-influence", "macro-influence", "gates")


@pytest.mark.parametrize("criterion", ALL)
def test_every_criterion_finds_what_can_be_missed(criterion: Criterion) -> None:
    model = chain(4, silent=(0, 2), last="y")

    def learnt(copy: ir.Model, macs: Mapping[str, float], kept: float) -> Mapping[str, float]:
        assert [value.name for value in copy.graph.inputs] == ["x", *macs]
        assert set(macs.values()) == {2 * 32 * 40}  # weights, where macs are not known
        assert kept == 0.5
        return {name: 0.0 if name in ("gate:h1", "gate:h3") else 1.0 for name in macs}

    found = whole(model)
    selector = Selector.of(model, found, moves(found, "blocks"), context(model, learn_gates=learnt))
    selection = selector.select(criterion, ByCount(found, Fraction(2)))
    assert selection.gone == {0, 2}
    assert selection.skips == ()
    assert selection.criterion == ("exhaustive" if criterion == "auto" else criterion)
    assert selection.error == pytest.approx(0, abs=1e-9)
    assert max(selection.losses[0], selection.losses[2]) < min(selection.losses[1], selection.losses[3])


def test_what_the_metric_looks_at_decides_where_it_is_known() -> None:
    model = chain(3, silent=(1,), last="y")
    found = whole(model)

    def reversed_scores(copy: ir.Model, changes: Iterable[Mapping[str, np.ndarray]]) -> Iterator[float]:
        return (5.0 if "gate:h2" in change else 1.0 for change in changes)

    selector = Selector.of(model, found, moves(found, "blocks"), context(model, divergence=reversed_scores))
    selection = selector.select("auto", ByCount(found, Fraction(1)))
    assert selection.losses == (1.0, 5.0, 1.0)
    assert selection.gone == {0}


def test_only_the_choices_that_are_least_without_a_repair_are_repaired() -> None:
    model = chain(9, last="y")
    found = whole(model)
    asked: list[Move] = []

    def repaired(gone: Move) -> float:
        asked.append(gone)
        return float(-len(asked))  # what is asked last is least

    selector = Selector.of(model, found, moves(found, "blocks"), context(model), repaired)
    selection = selector.select("auto", ByCount(found, Fraction(1)))
    assert len(asked) == SHORTLIST < len(found)
    least = sorted(range(9), key=lambda position: selection.losses[position])
    assert asked == [frozenset([position]) for position in least[:SHORTLIST]]
    assert (selection.gone, selection.criterion) == (asked[-1], "repaired")


def test_nothing_is_repaired_where_nothing_goes() -> None:
    model = chain(3, last="y")
    found = whole(model)

    def refused(gone: Move) -> float:
        raise AssertionError(gone)

    selector = Selector.of(model, found, moves(found, "blocks"), context(model), refused)
    assert selector.select("auto", ByCount(found, Fraction(0))).gone == frozenset()


def test_outputs_that_are_no_numbers_are_the_worst() -> None:
    model = chain(2, last="y")
    errors = {0: 0.5, 1: math.nan}
    repaired: list[int] = []

    def without(gone: Move) -> int:
        repaired.append(min(gone))
        return repaired[-1]

    judged = RepairedError(model, lambda _, half: errors.__getitem__, without)  # type: ignore[arg-type, return-value]
    for _ in range(2):
        assert judged(frozenset({0})) == 0.5
        assert judged(frozenset({1})) == math.inf
    assert repaired == [0, 1], "a choice is repaired once"


def test_runs_are_as_short_as_meets_the_budget() -> None:
    found = whole(chain(4, last="y"))
    assert all_runs(ByCount(found, Fraction(2)), 4) == [{0, 1}, {1, 2}, {2, 3}]
    assert all_runs(ByCount(found, Fraction(5)), 4) == []


def test_runs_are_repaired_too() -> None:
    model = chain(6, silent=(0, 2, 4), last="y")
    found = whole(model)
    asked: list[Move] = []

    def repaired(gone: Move) -> float:
        asked.append(gone)
        return -float(max(gone) - min(gone) == 1)

    selection = Selector.of(model, found, moves(found, "blocks"), context(model), repaired).select(
        "repaired", ByCount(found, Fraction(2))
    )
    assert set(asked[:3]) == {frozenset(pair) for pair in ((0, 2), (0, 4), (2, 4))}
    assert [max(gone) - min(gone) for gone in asked[-RUNS:]] == [1] * RUNS
    assert max(selection.gone) - min(selection.gone) == 1


def test_of_many_choices_those_of_several_criteria_are_repaired() -> None:
    model = chain(12, last="y")
    found = whole(model)
    asked: list[Move] = []

    def repaired(gone: Move) -> float:
        asked.append(gone)
        return float(len(asked))  # what is asked first is least

    selector = Selector.of(model, found, moves(found, "blocks"), context(model), repaired)
    selection = selector.select("auto", ByCount(found, Fraction(6)))  # of 924
    assert 1 < len(asked) <= 4 + RUNS
    assert frozenset(range(6, 12)) in asked
    assert (selection.gone, selection.criterion) == (asked[0], "repaired")
    stepwise = selector.select("greedy", ByCount(found, Fraction(6)))
    assert stepwise.gone == asked[0]


def test_controls_look_at_nothing() -> None:
    model = chain(4, silent=(0, 2), last="y")
    found = whole(model)
    selector = Selector.of(model, found, moves(found, "blocks"), Context(seed=1))
    assert selector.select("last", ByCount(found, Fraction(2))).gone == {2, 3}
    draws = {selector.select("random", ByCount(found, Fraction(2))).gone for _ in range(2)}
    assert len(draws) == 1
    others = [Selector.of(model, found, moves(found, "blocks"), Context(seed=s)) for s in range(8)]
    assert len({other.select("random", ByCount(found, Fraction(2))).gone for other in others}) > 1


def test_what_stands_in_for_a_criterion_is_said() -> None:
    model = chain(3, silent=(0,), last="y")
    found = whole(model)
    blind = Selector.of(model, found, moves(found, "blocks"), Context())
    selection = blind.select("greedy", ByCount(found, Fraction(1)))
    assert (selection.gone, selection.criterion, selection.error) == ({2}, "last", None)
    assert [skip.reason for skip in selection.skips] == [SkipReason.NO_CALIBRATION]
    torchless = Selector.of(model, found, moves(found, "blocks"), context(model))
    selection = torchless.select("gates", ByCount(found, Fraction(1)))
    assert (selection.gone, selection.criterion) == ({0}, "exhaustive")
    assert [skip.reason for skip in selection.skips] == [SkipReason.FALLBACK]


def test_what_has_to_stay_is_said() -> None:
    model = chain(4, last="y")
    first, second, third, fourth = blocks(model)
    watched = Block(third.start, third.end, third.nodes, third.parameters, "block", "a2 is an output", ())
    stacks = [Stack((first, second), "a"), Stack((watched, fourth), "b")]
    found, skips = candidates(stacks, "blocks", {"up1": 7, "down1": 5}, keep=(0,), excludes=lambda name: name == "act3")
    assert [(one.name, one.macs, one.weights) for one in found] == [("block 1", 12, 2 * 32 * 40)]
    assert [str(skip) for skip in skips] == [
        "block 0: excluded by the user (keep names it)",
        "block 2: it cannot be cut out (a2 is an output)",
        "block 3: excluded by the user (it holds act3)",
    ]


def test_halves_are_taken_only_where_they_make_up_the_block() -> None:
    model = chain(3, last="y")
    a, b, c = blocks(model)
    halves = tuple(
        Part(p.start, p.end, p.nodes, p.parameters, kind, None) for p, kind in ((a, "attention"), (b, "feed-forward"))
    )
    nodes = (*a.nodes, *b.nodes)
    block = Block(a.start, b.end, nodes, (*a.parameters, *b.parameters), "block", None, halves)
    gap = Block(b.start, c.end, nodes, (), "block", None, (halves[1],))
    found, _ = candidates([Stack((block, gap), "s")], "halves", {}, keep=(), excludes=lambda name: False)
    assert [one.name for one in found] == ["attention of block 0", "feed-forward of block 0", "block 1"]
    assert [one.size for one in found] == [Fraction(1, 2), Fraction(1, 2), 1]
