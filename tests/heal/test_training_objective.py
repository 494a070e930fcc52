# SPDX-License-Identifier: Apache-2.0
"""What is made small, and on which samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import torch
from damaged import DIGITS, original

from edgefold.errors import UsageError
from edgefold.heal.hidden import paired_hidden
from edgefold.heal.objective import Objective, make_objective
from edgefold.heal.samples import read_samples
from edgefold.heal.views import mean_values
from edgefold.interface import ModelInterface
from edgefold.padding import padding_mask
from edgefold.passes import Heal
from edgefold.scoring.task import Task, load_task
from edgefold.session import make_session

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
RNG = np.random.default_rng(0)


def model(text: str, **weights: tuple[int, ...]) -> ir.Model:
    tensors = [ir.tensor(RNG.standard_normal(shape).astype(np.float32), name=name) for name, shape in weights.items()]
    return ir.from_onnx_text(HEADER + text, initializers=tensors)


def chain(width: int, end: str = "y = Identity(z)", kind: str = "float[n, 3] y") -> ir.Model:
    text = f"""g (float[n, 4] x) => ({kind}) {{
        a = MatMul(x, u)
        r = Relu(a)
        b = MatMul(r, v)
        s = Relu(b)
        z = MatMul(s, w)
        {end}
    }}"""
    return model(text, u=(4, 6), v=(6, width), w=(width, 3))


def task(folder: Path, metric: str, rows: int = 20, samples: str = "", **arrays: np.ndarray) -> Task:
    x = RNG.standard_normal((rows, 4)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, **arrays)
    (folder / "task.yaml").write_text(
        f"data: gone.npz\ninputs: {{x: {{array: x}}}}\nmetric: {metric}\n"
        f"calibration: {{data: data.npz{samples}}}\nbatch: 8\n"
    )
    return load_task(folder / "task.yaml")


def objective(student: ir.Model, teacher: ir.Model, parsed: Task, **options: object) -> Objective:
    interface = ModelInterface.of(make_session(student))
    feeds = {"x": np.ones((2, 4), np.float32)}
    return make_objective(Heal(**options), parsed, interface, student, teacher, feeds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "end", "says"),
    [
        ("top1", "y = Identity(z)", "KL divergence of logits"),
        ("top1", "y = Softmax(z)", "KL divergence of probabilities"),
        ("perplexity", "y = Identity(z)", "KL divergence of logits"),
        ("spearman_cosine", "y = Identity(z)", "cosine distance"),
        ("cosine", "y = Identity(z)", "cosine distance"),
        ("psnr", "y = Identity(z)", "relative squared error"),
    ],
)
def test_the_metric_chooses_the_distance_of_outputs(metric: str, end: str, says: str, tmp_path: Path) -> None:
    student = chain(5, end)
    chosen = objective(student, student, task(tmp_path, f"{{name: {metric}, labels: y}}"))
    assert says in chosen.described[0]
    assert chosen.of_teacher == ("y",)


def test_outputs_that_the_metric_does_not_read_count_too(tmp_path: Path) -> None:
    student = chain(
        5, "y = Identity(z)\n i = ArgMax<axis = 1>(z)\n t = Identity(s)", "float[n, 3] y, int64[n, 1] i, float[n, 5] t"
    )
    chosen = objective(student, student, task(tmp_path, "{name: top1, output: y, labels: y}"))
    assert chosen.outputs == ("y", "t")
    assert "relative squared error" in chosen.described[1]


def test_integer_outputs_have_no_gradient(tmp_path: Path) -> None:
    student = chain(5, "y = ArgMax<axis = 1>(z)", "int64[n, 1] y")
    parsed = task(tmp_path, "{name: top1, labels: y}")
    with pytest.raises(UsageError, match="take --loss tail"):
        objective(student, student, parsed)
    assert objective(student, student, parsed, loss=("tail",)).hidden == (("r", "r"), ("s", "s"))


def test_hidden_tensors_that_pruning_made_narrower_are_left_out(tmp_path: Path) -> None:
    feeds = {"x": np.ones((2, 4), np.float32)}
    assert paired_hidden(chain(5), chain(5), feeds) == (("r", "r"), ("s", "s"))
    assert paired_hidden(chain(4), chain(5), feeds) == (("r", "r"),)
    parsed = task(tmp_path, "{name: top1, labels: y}")
    assert objective(chain(4), chain(5), parsed, loss=("tail", "output")).of_teacher == ("y", "r")
    renamed = chain(5)
    for node in renamed.graph:
        node.outputs[0].name = f"{node.outputs[0].name}.new"
    assert paired_hidden(renamed, chain(5), feeds) == ()
    with pytest.raises(UsageError, match="no hidden tensor of the same layer or name, and shape"):
        objective(renamed, chain(5), parsed, loss=("blockwise",))


def test_labels_need_a_metric_that_a_gradient_follows(tmp_path: Path) -> None:
    parsed = task(tmp_path, "{name: spearman_cosine, labels: y}")
    with pytest.raises(UsageError, match="no gradient follows the metric spearman_cosine"):
        objective(chain(5), chain(5), parsed, loss=("labels",))


def test_padded_positions_do_not_count() -> None:
    kept = np.array([[1, 1, 0], [1, 0, 0]])
    assert padding_mask({"ids": kept + 3, "attention_mask": kept}) == "attention_mask"
    assert padding_mask({"ids": kept, "attention_mask": kept + 1}) is None  # not of zeros and ones
    assert padding_mask({"mask": np.ones((2, 4, 4))}) is None
    error = Objective(
        (lambda ours, wanted, _: (ours["y"] - wanted["y"]).abs().sum(),), ("",), (), {"y": mean_values}, "mask"
    )
    zeros, ones = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    feeds = {"mask": torch.from_numpy(kept)}
    assert float(error({"y": zeros}, {"y": ones}, None, feeds)) == 3 * 4
    assert float(error({"y": torch.full_like(zeros, torch.nan)}, {"y": ones}, None, feeds)) != 0
    flat = {"y": zeros[:, 0]}  # one row a sample: nothing of it is padding
    assert float(error(flat, {"y": ones[:, 0]}, None, feeds)) == 2 * 4


def test_samples_are_split_once_and_all_are_used(tmp_path: Path) -> None:
    parsed = task(tmp_path, "{name: top1, labels: y}", samples=", samples: 8")  # of which healing takes no notice
    interface = ModelInterface.of(make_session(chain(5)))
    samples = read_samples(parsed, interface, Heal(), 0)
    assert samples.sizes == (18, 2)
    assert sorted([*samples.training, *samples.held_out]) == list(range(20))
    assert samples.labels is None
    assert read_samples(parsed, interface, Heal(samples=10), 0).sizes == (9, 1)
    other = read_samples(parsed, interface, Heal(held_out=0.5), 1)
    assert other.sizes == (10, 10)
    assert set(other.held_out) != set(read_samples(parsed, interface, Heal(held_out=0.5), 2).held_out)


def test_batches_are_shuffled_anew_each_epoch_and_never_hold_out(tmp_path: Path) -> None:
    parsed = task(tmp_path, "{name: top1, labels: y}")
    samples = read_samples(parsed, ModelInterface.of(make_session(chain(5))), Heal(), 0)
    first, second = samples.batches(4, 0, 0), samples.batches(4, 0, 1)
    assert first.shape == (4, 4)
    assert first.tolist() != second.tolist()
    assert len(set(first.ravel())) == 16
    assert not set(first.ravel()) & set(samples.held_out)
    np.testing.assert_array_equal(first, samples.batches(4, 0, 0))


def test_a_fixed_batch_is_kept_to(tmp_path: Path) -> None:
    fixed = model("g (float[4, 4] x) => (float[4, 3] y) { y = MatMul(x, w) }", w=(4, 3))
    samples = read_samples(task(tmp_path, "{name: top1, labels: y}"), ModelInterface.of(make_session(fixed)), Heal(), 0)
    assert samples.chunk == 4
    assert samples.sizes == (16, 4)


def test_too_few_samples_and_missing_labels_are_one_line(tmp_path: Path) -> None:
    interface = ModelInterface.of(make_session(chain(5)))
    with pytest.raises(UsageError, match="1 calibration samples are too few"):
        read_samples(task(tmp_path, "{name: top1, labels: y}", rows=1), interface, Heal(), 0)
    with pytest.raises(UsageError, match="have no array 'y'"):
        read_samples(task(tmp_path, "{name: top1, labels: y}"), interface, Heal(loss=("labels",)), 0)
    labelled = task(tmp_path, "{name: top1, labels: y}", y=np.arange(20) % 3)
    assert read_samples(labelled, interface, Heal(loss=("labels",)), 0).labels is not None


def test_the_tail_of_a_real_network_is_what_its_last_layers_read() -> None:
    feeds = {"image": np.load(DIGITS / "calib.npz")["x"][:2].astype(np.float32)}
    interface = ModelInterface.of(make_session(original()))
    name = interface.inputs[0].name
    feeds = {name: feeds["image"].reshape(2, *[s for s in interface.inputs[0].shape[1:] if isinstance(s, int)])}
    found = paired_hidden(original(), original(), feeds)
    assert len(found) == 8
    assert original().graph.outputs[0].name not in dict(found)
