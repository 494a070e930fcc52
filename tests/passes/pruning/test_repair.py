# SPDX-License-Identifier: Apache-2.0
"""Refitting after a cut: against brute force, and exact where the lost channels were redundant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from graphs import graph, run, weights

from edgefold.calibration import Calibration
from edgefold.passes import Notes, SkipReason
from edgefold.passes.pruning.cut import cut
from edgefold.passes.pruning.dependencies import analyse
from edgefold.passes.pruning.prepare import prepare
from edgefold.passes.pruning.repair import repair
from edgefold.probing import probe

Array = npt.NDArray[np.float32]


def batches(*shape: int, count: int = 4, size: int = 40) -> Iterator[dict[str, Array]]:
    for seed in range(count):
        yield {"x": np.random.default_rng(seed).standard_normal((size, *shape)).astype(np.float32)}


def repaired(
    model: ir.Model, pruned: Mapping[str, Sequence[int]], feeds: Sequence[Mapping[str, Array]], **options: object
) -> tuple[ir.Model, ir.Model, Notes]:
    """The model only cut, the model cut and repaired, and the notes."""
    ties = prepare(model)
    trace = probe(model, feeds[0])
    dependencies = analyse(model, trace, ties)
    gone = {
        group.name: np.array(pruned[group.slices[0].parameter], dtype=np.intp)
        for group in dependencies.groups
        if group.slices[0].parameter in pruned
    }
    assert len(gone) == len(pruned), [group.name for group in dependencies.groups]
    bare = model.clone()
    cut(bare, dependencies, trace, gone)
    fitted = bare.clone()
    calibration = Calibration(model, lambda: iter(feeds))
    notes = repair(fitted, model, dependencies.kept(gone), trace, calibration, ties=ties, **options)  # type: ignore[arg-type]
    return bare, fitted, notes


def error(model: ir.Model, original: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> float:
    """Mean squared difference of the outputs over their variance."""
    ours, theirs = (np.concatenate([run(one, feed)[0] for feed in feeds]) for one in (model, original))
    return float(np.square(ours - theirs).mean() / theirs.var())


MLP = """mlp (float[B, 6] x) => (float[B, 3] y)
{ h = Gemm <transB = 1> (x, w1, b1)  a = Relu(h)  y = Gemm <transB = 1> (a, w2, b2) }"""


def mlp() -> ir.Model:
    stored = {"w1": weights(8, 6), "b1": weights(8, seed=1), "w2": weights(3, 8, seed=2), "b2": weights(3, seed=3)}
    return graph(MLP, stored)


def test_the_reader_is_the_least_squares_solution_with_an_undamped_bias() -> None:
    feeds, model = list(batches(6)), mlp()
    _, fitted, notes = repaired(model, {"w1": [1, 4]}, feeds, damping=0.01)
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    w1, b1, w2, b2 = (model.graph.initializers[name].const_value.numpy() for name in ("w1", "b1", "w2", "b2"))  # type: ignore[union-attr]
    hidden = np.maximum(x @ w1.T + b1, 0)
    target, seen = hidden @ w2.T + b2, np.delete(hidden, [1, 4], axis=1)
    design = np.column_stack([seen, np.ones(len(seen))])
    ridge = 0.01 * np.square(seen).sum(axis=0).mean() * np.diag([1.0] * 6 + [0.0])
    prior = np.vstack([np.delete(w2, [1, 4], axis=1).T, b2])
    expected = np.linalg.solve(design.T @ design + ridge, design.T @ target + ridge @ prior)
    stored = fitted.graph.initializers
    np.testing.assert_allclose(stored["w2"].const_value.numpy(), expected[:-1].T, rtol=2e-4, atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(stored["b2"].const_value.numpy(), expected[-1], rtol=2e-4, atol=1e-5)  # type: ignore[union-attr]
    assert len(notes.edits) == notes.stats["refitted"] == 1


def test_nothing_pruned_changes_nothing() -> None:
    feeds, model = list(batches(6)), mlp()
    _, fitted, notes = repaired(model, {}, feeds)
    assert not notes.edits
    assert not notes.skips
    np.testing.assert_array_equal(run(fitted, feeds[0])[0], run(model, feeds[0])[0])


def redundant(first: Array, channels: int) -> Array:
    """The weights with the last channels equal to sums of the others, so that they can go without loss."""
    first = first.copy()
    first[-channels:] = first[:channels] + 0.5 * first[channels : 2 * channels]
    return first


LINEAR = {
    "conv": (
        """conv (float[B, 4, 7, 7] x) => (float[B, 5, 7, 7] y)
        { h = Conv(x, w1)  y = Conv <pads = [1, 1, 1, 1]> (h, w2) }""",
        {"w1": redundant(weights(8, 4, 1, 1), 2), "w2": weights(5, 8, 3, 3, seed=1)},
    ),
    "strided": (
        """strided (float[B, 4, 7, 7] x) => (float[B, 5, 4, 4] y)
        { h = Conv(x, w1)  y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (h, w2, b) }""",
        {"w1": redundant(weights(8, 4, 1, 1), 2), "w2": weights(5, 8, 3, 3, seed=1), "b": weights(5)},
    ),
    "gemm": (
        "gemm (float[B, 4] x) => (float[B, 5] y) { h = MatMul(x, w1)  y = Gemm <alpha = 2.0, beta = 0.5> (h, w2, b) }",
        {"w1": redundant(weights(4, 8).T, 2).T, "w2": weights(8, 5, seed=1), "b": weights(5)},
    ),
    "matmul": (
        "matmul (float[B, 3, 4] x) => (float[B, 3, 5] y) { h = MatMul(x, w1)  p = MatMul(h, w2)  y = Add(b, p) }",
        {"w1": redundant(weights(4, 8).T, 2).T, "w2": weights(8, 5, seed=1), "b": weights(5)},
    ),
    "left": (
        "left (float[B, 4, 3] x) => (float[B, 5, 3] y) { h = MatMul(w1, x)  y = MatMul(w2, h) }",
        {"w1": redundant(weights(8, 4), 2), "w2": weights(5, 8, seed=1)},
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_redundant_channels_go_without_loss(name: str) -> None:
    text, stored = LINEAR[name]
    model = graph(text, stored)
    shape = {"conv": (4, 7, 7), "strided": (4, 7, 7), "gemm": (4,), "matmul": (3, 4), "left": (4, 3)}[name]
    feeds = list(batches(*shape))
    bare, fitted, _ = repaired(model, {"w1": [6, 7]}, feeds, damping=1e-9)
    assert error(bare, model, feeds) > 0.05
    assert error(fitted, model, feeds) < 1e-8


GROUPED = """grouped (float[B, 4, 5, 5] x) => (float[B, 6, 5, 5] y)
{ h = Conv(x, w1)  g = Conv <group = 2, pads = [1, 1, 1, 1]> (h, w2)  y = Conv(g, w3) }"""


def test_a_grouped_convolution_is_refitted_group_by_group() -> None:
    first = weights(8, 4, 1, 1)
    first[[0, 4]] = first[[1, 5]] - first[[2, 7]]  # in each group the first channel says what two others do
    model = graph(GROUPED, {"w1": first, "w2": weights(6, 4, 3, 3, seed=1), "w3": weights(6, 6, 1, 1)})
    feeds = list(batches(4, 5, 5))
    ties = prepare(model)
    trace = probe(model, feeds[0])
    dependencies = analyse(model, trace, ties)
    group = next(one for one in dependencies.groups if any(s.parameter == "w2" and s.axis == 1 for s in one.slices))
    gone = {group.name: np.array([0], dtype=np.intp)}
    bare = model.clone()
    cut(bare, dependencies, trace, gone)
    fitted = bare.clone()
    notes = repair(fitted, model, dependencies.kept(gone), trace, Calibration(model, lambda: iter(feeds)), damping=0)
    assert len(notes.edits) == 2
    assert error(bare, model, feeds) > 0.01
    assert error(fitted, model, feeds) < 1e-8


RESIDUAL = """residual (float[B, 6] x) => (float[B, 4] y)
{ s = Gemm(x, w0, b0)  h = Gemm(s, w1, b1)  a = Relu(h)  p = Gemm(a, w2, b2)  t = Add(s, p)
  k = Gemm(t, w3, b3)  c = Relu(k)  q = Gemm(c, w4, b4)  u = Add(q, t)  y = Gemm(u, w5, b5) }"""


def residual() -> ir.Model:
    widths = [(6, 8), (8, 12), (12, 8), (8, 12), (12, 8), (8, 4)]
    stored = {f"w{i}": weights(*size, seed=i) / np.float32(np.sqrt(size[0])) for i, size in enumerate(widths)}
    return graph(RESIDUAL, {**stored, **{f"b{i}": weights(size[1], seed=9 + i) for i, size in enumerate(widths)}})


def test_a_residual_branch_makes_up_for_the_error_of_the_stream() -> None:
    feeds, model = list(batches(6)), residual()
    pruned = {"w1": [0, 3, 5, 7, 8, 10], "w3": [1, 2, 4]}
    bare, readers, first = repaired(model.clone(), pruned, feeds, scope="readers")
    _, downstream, second = repaired(model.clone(), pruned, feeds)
    assert len(first.edits) == 2
    assert len(second.edits) == 4  # w3 and w5 lost no inputs, but theirs have drifted
    assert error(readers, model, feeds) < 0.5 * error(bare, model, feeds)
    assert error(downstream, model, feeds) < 0.8 * error(readers, model, feeds)


def test_bias_only_keeps_the_weights_and_the_mean() -> None:
    feeds, model = list(batches(6)), mlp()
    bare, fitted, _ = repaired(model, {"w1": [1, 4]}, feeds, method="bias")
    np.testing.assert_array_equal(
        fitted.graph.initializers["w2"].const_value.numpy(),  # type: ignore[union-attr]
        bare.graph.initializers["w2"].const_value.numpy(),  # type: ignore[union-attr]
    )
    means = [np.concatenate([run(one, feed)[0] for feed in feeds]).mean(axis=0) for one in (fitted, model)]
    np.testing.assert_allclose(*means, atol=1e-5)


def test_few_samples_do_not_undo_what_the_weights_know() -> None:
    text = """wide (float[B, 40] x) => (float[B, 20] y)
    { h = Gemm <transB = 1> (x, w1)  a = Relu(h)  y = Gemm <transB = 1> (a, w2) }"""
    model = graph(text, {"w1": weights(60, 40), "w2": weights(20, 60, seed=1)})

    def alike(seed: int) -> dict[str, Array]:  # as the positions of one image are
        return {"x": np.repeat(np.random.default_rng(seed).standard_normal((1, 40)), 50, axis=0).astype(np.float32)}

    seen, unseen = [alike(100 + seed) for seed in range(64)], list(batches(40))
    bare, fitted, _ = repaired(model, {"w1": range(6)}, seen)
    _, overfitted, _ = repaired(model, {"w1": range(6)}, seen, damping=1e-3)
    assert error(fitted, model, unseen) < 0.9 * error(bare, model, unseen)
    assert error(overfitted, model, unseen) > error(bare, model, unseen)


def test_excluded_and_tied_layers_keep_their_weights() -> None:
    feeds, model = list(batches(6)), mlp()
    bare, fitted, notes = repaired(model, {"w1": [1, 4]}, feeds, exclude=lambda node: True)
    assert [skip.reason for skip in notes.skips] == [SkipReason.EXCLUDED]
    np.testing.assert_array_equal(run(fitted, feeds[0])[0], run(bare, feeds[0])[0])
