# SPDX-License-Identifier: Apache-2.0
"""The low-rank pass: what it factors, what it leaves, and that the model stays what it was where nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, nodes, run, weights

from edgefold.calibration import Calibration
from edgefold.errors import UsageError
from edgefold.passes import Context, SkipReason
from edgefold.passes.low_rank import LowRank

Feeds = list[dict[str, np.ndarray]]


def product(k: int, n: int, rank: int, seed: int = 0) -> np.ndarray:
    return weights(k, rank, seed=seed) @ weights(rank, n, seed=seed + 1)


MODELS: Mapping[str, tuple[str, dict[str, np.ndarray], tuple[int, ...]]] = {
    "matmul": (
        "g (float[n, 5, 24] x) => (float[n, 5, 20] y) { [m] p = MatMul(x, w)  y = Add(p, b) }",
        {"w": product(24, 20, 3), "b": weights(20)},
        (5, 24),
    ),
    "gemm": (
        "g (float[n, 24] x) => (float[n, 20] y) { [m] y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }",
        {"w": product(24, 20, 3), "b": weights(20)},
        (24,),
    ),
    "transposed": (
        "g (float[n, 24] x) => (float[n, 20] y) { [m] y = Gemm <transB = 1> (x, w) }",
        {"w": product(20, 24, 3)},
        (24,),
    ),
    "conv": (
        """g (float[n, 6, 9, 8] x) => (float[n, 20, 5, 4] y)
        { [m] y = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b) }""",
        {"w": product(20, 54, 3).reshape(20, 6, 3, 3), "b": weights(20)},
        (6, 9, 8),
    ),
    "same": (
        'g (float[n, 6, 9] x) => (float[n, 20, 9] y) { [m] y = Conv <auto_pad = "SAME_UPPER"> (x, w) }',
        {"w": product(20, 18, 3).reshape(20, 6, 3)},
        (6, 9),
    ),
}


def feeds(shape: tuple[int, ...]) -> Feeds:
    return [{"x": weights(20, *shape, seed=seed)} for seed in range(4)]


def context(model: ir.Model, data: Feeds, **options: Any) -> Context:
    return Context(calibration=Calibration(model, lambda: iter(data)), **options)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("repair", [False, True])
def test_a_matrix_of_low_rank_is_factored_without_loss(name: str, repair: bool) -> None:
    text, arrays, shape = MODELS[name]
    model, data = graph(text, arrays), feeds(shape)
    changed = model.clone()
    notes = LowRank(keep=0.4, repair=repair).rewrite(changed, context(model, data))
    assert notes.edits[0].node == "m"
    assert notes.stats["weights_after"] < 0.4 * notes.stats["weights_before"]
    assert notes.stats["weights_before"] == arrays["w"].size
    assert sum(v.const_value.size for v in changed.graph.initializers.values() if v.const_value) < arrays["w"].size
    wanted, got = run(model, data[0])[0], run(changed, data[0])[0]
    np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())


MLP = """g (float[n, 24] x) => (float[n, 16] y)
{ [up] a = MatMul(x, w1)  r = Relu(a)  [down] y = MatMul(r, w2) }"""


def mlp() -> ir.Model:
    uneven = np.exp2(-np.arange(48) / 6).astype(np.float32)
    return graph(MLP, {"w1": weights(24, 48) * uneven, "w2": weights(48, 16, seed=1)})


def loss(model: ir.Model, changed: ir.Model, data: Feeds) -> float:
    pairs = [(run(model, feed)[0], run(changed, feed)[0]) for feed in data]
    return float(sum(np.square(a - b).sum() for a, b in pairs) / sum(np.square(a).sum() for a, _ in pairs))


def test_whitening_allotment_and_repair_are_each_worth_something() -> None:
    model, data = mlp(), feeds((24,))
    for feed in data:
        feed["x"] = feed["x"] * np.exp2(-np.arange(24) / 4).astype(np.float32)
    losses = {}
    for name, options in {
        "plain": {"weighting": "plain", "ranks": "uniform", "repair": False},
        "whitened": {"ranks": "uniform", "repair": False},
        "by error": {"repair": False},
        "repaired": {},
    }.items():
        changed = model.clone()
        LowRank(keep=0.4, **options).rewrite(changed, context(model, data))
        losses[name] = loss(model, changed, data)
    assert losses["whitened"] < 0.7 * losses["plain"]
    assert losses["by error"] < losses["whitened"]
    assert losses["repaired"] < losses["by error"]


def test_all_that_may_stay_stays_bit_for_bit() -> None:
    model = mlp()
    changed = model.clone()
    notes = LowRank(keep=1.0).rewrite(changed, context(model, feeds((24,))))
    assert not notes.edits
    assert {skip.reason for skip in notes.skips} == {SkipReason.NOTHING_TO_GAIN}
    assert ir.to_proto(changed) == ir.to_proto(model)


SHARED = """g (float[n, 24] x) => (float[n, 24] y)
{ [a] p = MatMul(x, w)  [b] q = MatMul(p, w)  [c] r = MatMul(q, v)
  [d] s = MatMul(r, thin)  [e] y = MatMul(s, wide) }"""


def test_what_cannot_or_must_not_be_factored_is_listed() -> None:
    arrays = {"w": product(24, 24, 2), "v": product(24, 24, 2, seed=5), "thin": weights(24, 1), "wide": weights(1, 24)}
    model = graph(SHARED, arrays)
    changed = model.clone()
    notes = LowRank(keep=0.3).rewrite(changed, context(model, feeds((24,)), exclude=("c",)))
    assert not notes.edits
    reasons = {skip.node: skip.reason for skip in notes.skips}
    shared = SkipReason.SHARED_WEIGHT
    grow = SkipReason.WOULD_GROW
    assert reasons == {"a": shared, "b": shared, "c": SkipReason.EXCLUDED, "d": grow, "e": grow}
    assert nodes(changed) == nodes(model)


def test_without_data_all_inputs_count_alike_and_the_notes_say_so() -> None:
    changed = mlp()
    notes = LowRank().rewrite(changed, Context())
    assert notes.edits
    assert [str(skip) for skip in notes.skips] == [
        "model: needs calibration data (all inputs count alike, and no layer is refitted)"
    ]
    unfitted = LowRank(weighting="plain").rewrite(mlp(), Context())
    assert [str(skip) for skip in unfitted.skips] == ["model: needs calibration data (no layer is refitted)"]
    assert LowRank(weighting="plain", repair=False).rewrite(mlp(), Context()).skips == ()


def test_multiply_accumulates_are_a_budget_of_their_own() -> None:
    model, data = mlp(), feeds((24,))
    costs = {"up": 24 * 48 * 10, "down": 48 * 16}
    changed = model.clone()
    LowRank(flops=0.5, repair=False).rewrite(changed, context(model, data, macs=lambda _: costs))
    kept = {str(value.name): value.shape for value in changed.graph.initializers.values()}
    assert "w1_first" in kept
    assert 10 * int(kept["w1_first"][1]) * (24 + 48) < 0.5 * (costs["up"] + costs["down"])  # type: ignore[index, arg-type]
    with pytest.raises(UsageError, match="up are not known; give keep"):
        LowRank(flops=0.5).rewrite(mlp(), context(model, data))
    with pytest.raises(ValueError, match="both say"):
        LowRank(flops=0.5, keep=0.5)
