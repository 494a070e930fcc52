# SPDX-License-Identifier: Apache-2.0
"""Gates learned together: which residual blocks the outputs can do without."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import torch

from edgefold.errors import UsageError
from edgefold.heal.gates import _drawn, _within_budget, learn_gates
from edgefold.passes.depth.blocks import find_stacks
from edgefold.passes.depth.gates import gated
from edgefold.scoring.task import Task, load_task
from edgefold.session import make_session

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'


def residual(*strengths: float) -> ir.Model:
    """A stream of 8 features through blocks ``x + strength * Relu(x U) V``."""
    random = np.random.default_rng(0)

    def weights(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    lines, tensors, stream = ["s = MatMul(x, stem)"], {"stem": weights(8, 8), "head": weights(8, 5)}, "s"
    for number, strength in enumerate(strengths):
        tensors |= {f"u{number}": weights(8, 16), f"v{number}": strength * weights(16, 8)}
        lines.append(f"a{number} = MatMul({stream}, u{number})")
        lines.append(f"r{number} = Relu(a{number})")
        lines.append(f"b{number} = MatMul(r{number}, v{number})")
        lines.append(f"s{number} = Add({stream}, b{number})")
        stream = f"s{number}"
    body = "\n".join([*lines, f"y = MatMul({stream}, head)"])
    text = f"{HEADER}g (float[n, 8] x) => (float[n, 5] y) {{\n{body}\n}}"
    return ir.from_onnx_text(text, initializers=[ir.tensor(array, name=name) for name, array in tensors.items()])


def task(folder: Path, samples: int = 64) -> Task:
    x = np.random.default_rng(1).standard_normal((samples, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    (folder / "task.yaml").write_text(
        "data: gone.npz\ninputs: {x: {array: x}}\nmetric: {name: mse, labels: y}\n"
        "calibration: {data: data.npz}\nbatch: 16\n"
    )
    return load_task(folder / "task.yaml")


def closed(model: ir.Model, parsed: Task, count: int) -> set[int]:
    """The blocks whose gates are closed most."""
    blocks = [block for stack in find_stacks(model) for block in stack.blocks]
    copy, names = gated(model, blocks)
    opened = learn_gates(copy, dict.fromkeys(names, 1.0), 1 - count / len(blocks), parsed, 0)
    values = [opened[name] for name in names]
    assert sum(value < 0.5 for value in values) == count
    return set(np.argsort(values)[:count].tolist())


def exhaustive(model: ir.Model, parsed: Task, count: int) -> set[int]:
    blocks = [block for stack in find_stacks(model) for block in stack.blocks]
    copy, names = gated(model, blocks)
    session = make_session(copy, threads=1)
    feeds = {"x": np.load(parsed.path.parent / "data.npz")["x"]}
    whole = session.run(None, feeds)[0]

    def error(gone: tuple[int, ...]) -> float:
        return float(
            np.square(session.run(None, feeds | {names[i]: np.zeros(1, np.float32) for i in gone})[0] - whole).sum()
        )

    return set(min(itertools.combinations(range(len(names)), count), key=error))


def test_gates_close_where_exhaustive_search_would(tmp_path: Path) -> None:
    model, parsed = residual(1.0, 0.3, 1.1, 0.2, 0.9), task(tmp_path)
    assert closed(model, parsed, 2) == exhaustive(model, parsed, 2) == {1, 3}


def test_coupled_blocks_are_judged_together(tmp_path: Path) -> None:
    # Block 1 undoes what block 0 did, so that each alone is dear and both together are nearly free.
    model = residual(1.0, 1.0, 0.8, 0.9)
    of = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    model.graph.initializers["u1"].const_value = ir.tensor(of["u0"], name="u1")
    model.graph.initializers["v1"].const_value = ir.tensor(-of["v0"], name="v1")
    parsed = task(tmp_path)
    assert exhaustive(model, parsed, 1) == {2}  # with which a search that takes one block at a time begins
    assert closed(model, parsed, 2) == exhaustive(model, parsed, 2) == {0, 1}


def test_the_same_seed_gives_the_same_gates_and_the_model_is_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefold.heal.gates.STEPS", 20)
    model, parsed = residual(1.0, 0.5), task(tmp_path)
    copy, names = gated(model, find_stacks(model)[0].blocks)
    before = ir.to_proto(copy).SerializeToString(deterministic=True)
    once, again = (learn_gates(copy, dict.fromkeys(names, 0.0), 0.5, parsed, 3) for _ in range(2))
    assert once == again
    assert ir.to_proto(copy).SerializeToString(deterministic=True) == before
    assert learn_gates(copy, dict.fromkeys(names, 1.0), 1.0, parsed, 3) == dict.fromkeys(names, 1.0)
    assert learn_gates(copy, dict.fromkeys(names, 1.0), 0.0, parsed, 3) == dict.fromkeys(names, 0.0)


@pytest.mark.parametrize("batch", [None, 3])
def test_too_few_samples_for_the_draws_of_a_step_are_refused(
    batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step shows 8 draws to as many samples, or batches where the model's is fixed, and one more is held out."""
    monkeypatch.setattr("edgefold.heal.gates.STEPS", 2)
    model, least = residual(1.0, 0.5), 9 * (batch or 1)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([batch or "n", *list(value.shape)[1:]])
    copy, names = gated(model, find_stacks(model)[0].blocks)
    costs = dict.fromkeys(names, 1.0)
    fixed = f" for a model whose batch is {batch}" if batch else ""
    with pytest.raises(UsageError, match=rf"gates needs {least} calibration samples{fixed}, and there are {least - 1}"):
        learn_gates(copy, costs, 0.5, task(tmp_path, least - 1), 0)
    assert set(learn_gates(copy, costs, 0.5, task(tmp_path, least), 0)) == set(names)


def test_what_is_open_costs_the_budget_and_the_shift_has_its_derivative() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def opened(values: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(_within_budget(values, shares, 0.6))

    assert float((shares * opened(scores)).sum().detach()) == pytest.approx(0.6)
    assert torch.autograd.gradcheck(lambda values: opened(values).sum(), (scores,))


def test_draws_are_open_about_as_often_as_asked() -> None:
    places = torch.tensor([-2.0, 0.0, 2.0])
    random = np.random.default_rng(0)
    drawn = torch.stack([_drawn(places, random) for _ in range(4000)])
    assert (drawn > 0.5).float().mean(dim=0).numpy() == pytest.approx([0.12, 0.5, 0.88], abs=0.03)
    assert float(((drawn == 0) | (drawn == 1)).float().mean()) > 0.4
