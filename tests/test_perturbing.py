# SPDX-License-Identifier: Apache-2.0
"""How far outputs move: by their energy, or by what classes their scores stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgefold import perturbing
from edgefold.interface import ModelInterface
from edgefold.perturbing import Departure, perturb
from edgefold.plan import class_scores
from edgefold.scoring.task import load_task
from edgefold.session import make_session, run

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits_cnn"
TEXT = """<ir_version: 10, opset_import: ["" : 21]> g (float[n, 3] x, float[1] c) => (float[n, 3] y, float[n, 3] z) {
    y = Add(x, c) z = Mul(x, c)
}"""


def model() -> ir.Model:
    made = ir.from_onnx_text(TEXT)
    made.graph.inputs[1].const_value = ir.tensor(np.ones(1, np.float32), name="c")
    made.graph.register_initializer(made.graph.inputs[1])
    return made


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def test_scores_of_classes_differ_by_the_divergence_of_their_softmax() -> None:
    batches = [{"x": np.random.default_rng(seed).standard_normal((40, 3)).astype(np.float32)} for seed in (0, 1)]
    change = {"c": np.full(1, 3, np.float32)}
    x = np.concatenate([batch["x"] for batch in batches]).astype(np.float64)
    shifted, scaled = np.square(2).sum() * x.size / np.square(x + 1).sum(), np.square(2 * x).sum() / np.square(x).sum()
    before, after = softmax(x), softmax(3 * x)
    divergence = float((before * np.log(before / after)).sum(-1).mean())
    assert list(perturb(model(), [change], lambda: batches)) == pytest.approx([shifted + scaled], rel=1e-5)
    both = list(perturb(model(), [change], lambda: batches, classes=("y", "z")))
    assert both == pytest.approx([divergence], rel=1e-5)  # classes do not see a shift of all scores
    assert list(perturb(model(), [change], lambda: batches, classes=("z",))) == pytest.approx([shifted + divergence])


def test_another_model_departs_as_far_as_the_same_change_does() -> None:
    batches = [{"x": np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)}]
    changed = model()
    changed.graph.inputs[1].const_value = ir.tensor(np.full(1, 3, np.float32), name="c")
    for classes in ((), ("y", "z")):
        [expected] = perturb(model(), [{"c": np.full(1, 3, np.float32)}], lambda: batches, classes=classes)
        assert Departure(model(), lambda: batches, classes=classes)(changed) == pytest.approx(expected)
    assert Departure(model(), lambda: batches)(model()) == 0
    assert Departure(model(), list)(changed) is None


@pytest.mark.parametrize(("room", "runs"), [(1 << 20, 2 + 2 * 2), (1000, 2 * 2 + 2 + 1), (0, 4 * 2)])
def test_what_errors_are_counted_from_is_computed_once(monkeypatch: pytest.MonkeyPatch, room: int, runs: int) -> None:
    """Two changed models and two batches, of whose outputs 960 bytes are kept each; fewer are computed again."""
    batches = [{"x": np.random.default_rng(seed).standard_normal((20, 3)).astype(np.float32)} for seed in (0, 1)]
    expected = [Departure(model(), lambda: batches)(scaled_by(by)) for by in (2, 3)]
    ran: list[int] = []

    def counted(*given: Any) -> Any:
        ran.append(1)
        return run(*given)

    monkeypatch.setattr(perturbing, "MAX_KEPT", room)
    monkeypatch.setattr(perturbing, "run", counted)
    departure = Departure(model(), lambda: batches)
    assert [departure(scaled_by(by)) for by in (2, 3)] == expected
    assert len(ran) == runs


def scaled_by(by: float) -> ir.Model:
    changed = model()
    changed.graph.inputs[1].const_value = ir.tensor(np.full(1, by, np.float32), name="c")
    return changed


def test_the_task_says_which_output_holds_classes() -> None:
    interface = ModelInterface.of(make_session(DIGITS / "model.onnx"))
    task = load_task(DIGITS / "task.yaml")
    assert task.metric.name == "top1"
    assert class_scores(task, interface) == {interface.outputs[0].name}
