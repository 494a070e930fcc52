# SPDX-License-Identifier: Apache-2.0
"""The training loop on the committed digits network with noise on its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from damaged import TASK, damaged, healed, original, same, training

from edgefold.errors import UsageError
from edgefold.heal.device_teacher import DeviceTeacher
from edgefold.heal.processes import chosen_device
from edgefold.heal.progress import FILE
from edgefold.heal.samples import Samples
from edgefold.heal.samples import _split as split
from edgefold.heal.teacher import Teacher
from edgefold.passes import Heal
from edgefold.scoring.evaluate import evaluate
from edgefold.scoring.task import load_task

OPTIONS = Heal(epochs=2, batch=46, threads=1)  # 230 samples to train on: five steps an epoch


def test_the_loss_falls_and_the_accuracy_comes_back() -> None:
    model = damaged()
    before = evaluate(model, load_task(TASK), threads=1).value
    done = healed(model, epochs=6, augment=("crop",), learning_rate=0.01)
    after = evaluate(model, load_task(TASK), threads=1).value
    losses = [epoch.held_out for epoch in done.history]
    assert losses[-1] < 0.3 * losses[0]
    assert (done.training, done.held_out) == (230, 26)
    assert before < 60
    assert after > 90


def test_too_few_samples_to_train_on_and_to_stop_by_are_refused() -> None:
    task = load_task(TASK)
    with pytest.raises(UsageError, match=r"task\.yaml: 1 calibration samples are too few .* stop by; give more"):
        split(1, 0.1, 1, 0, task)
    with pytest.raises(UsageError, match=r"7 calibration samples .* in batches of 4; give more"):
        split(7, 0.1, 4, 0, task)
    assert [len(part) for part in split(8, 0.1, 4, 0, task)] == [4, 4]
    assert [len(part) for part in split(2, 0.1, 1, 0, task)] == [1, 1]


@pytest.mark.parametrize("loss", ["tail", "blockwise", "labels"])
def test_every_loss_brings_the_outputs_back(loss: str) -> None:
    model = damaged(0.4)
    done = healed(model, epochs=3, loss=(loss,), learning_rate=0.01)
    assert done.history[-1].held_out < 0.7 * done.history[0].held_out
    assert done.losses[0].startswith(loss)


def test_losses_add_up() -> None:
    values = []
    for loss in (("output",), ("blockwise",), ("output", "blockwise")):
        values.append(healed(damaged(), steps=1, loss=loss).history[0].held_out)
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-5)


def test_the_same_seed_gives_the_same_bits() -> None:
    a, b = damaged(), damaged()
    healed(a, epochs=2, augment=("flip", "crop", "warp", "colour", "mix"))
    healed(b, epochs=2, augment=("flip", "crop", "warp", "colour", "mix"))
    assert same(a, b)
    assert not same(a, damaged())


def test_a_model_that_only_gets_worse_stays_as_it_came() -> None:
    model = damaged(0.05)
    done = healed(model, epochs=9, learning_rate=3.0, patience=2)
    assert done.best_step == 0
    assert same(model, damaged(0.05))
    assert len(done.history) == 3  # the first is of the model as it came
    assert done.history[-1].held_out > done.history[0].held_out


def test_the_best_weights_are_kept_and_not_the_last() -> None:
    options = Heal(epochs=5, learning_rate=0.02, batch=46, threads=1)
    run = training(damaged(), options)
    worst = iter([9.0, 8.0, 3.0, 7.0, 6.0, 5.0])
    run._held_out_loss = lambda: next(worst)  # type: ignore[method-assign]
    progress = run.run()
    assert progress.best_step == 10
    shorter = training(damaged(), options)
    while shorter.progress.step < 10:
        shorter._step(shorter._student)
    for kept, wanted in zip(run._student.parameters(), shorter._student.parameters(), strict=True):
        np.testing.assert_array_equal(kept.detach().numpy(), wanted.detach().numpy())


def test_a_training_that_diverges_stops_and_says_so() -> None:
    from edgefold.heal.report import findings_of

    model = damaged(0.05)
    done = healed(model, epochs=9, optimizer="sgd", learning_rate=1e30, clip=1e30)
    assert done.steps < 9 * 3
    assert same(model, damaged(0.05))
    assert "diverged" in findings_of(done)[0]


def test_products_in_bfloat16_teach_nearly_the_same_and_are_judged_in_float32() -> None:
    plain, short = damaged(), damaged()
    wanted, done = (
        healed(plain, epochs=3, learning_rate=0.01),
        healed(short, epochs=3, learning_rate=0.01, precision="bfloat16"),
    )
    assert done.history[0].held_out == wanted.history[0].held_out
    assert done.history[-1].held_out == pytest.approx(wanted.history[-1].held_out, rel=0.2)
    assert not same(plain, short)
    dtypes = {value.const_value.dtype for value in short.graph.initializers.values() if value.const_value is not None}
    assert dtypes == {
        value.const_value.dtype for value in plain.graph.initializers.values() if value.const_value is not None
    }


class Interrupted(Teacher):
    """A teacher before whose ninth batch the user presses Ctrl-C."""

    calls = 0

    def __call__(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        type(self).calls += 1
        if type(self).calls > 8:
            raise KeyboardInterrupt
        return super().__call__(feeds)


@pytest.mark.parametrize("every_step", [False, True])
def test_a_training_that_goes_on_ends_where_an_uninterrupted_one_does(
    every_step: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if every_step:
        monkeypatch.setattr("edgefold.heal.training.SAVE_SECONDS", 0.0)
    options = Heal(epochs=3, batch=46, augment=("flip", "crop", "mix"), threads=1)
    Interrupted.calls = 0
    with pytest.raises(KeyboardInterrupt):
        training(damaged(), options, Interrupted, tmp_path).run()
    resumed = training(damaged(), options, state=tmp_path)
    resumed._resume()
    assert resumed.progress.step == (6 if every_step else 5)
    whole, rest = training(damaged(), options), training(damaged(), options, state=tmp_path)
    wanted, got = whole.run(), rest.run()
    assert [(e.step, e.training, e.held_out) for e in got.history] == [
        (e.step, e.training, e.held_out) for e in wanted.history
    ]
    for a, b in zip(whole._student.parameters(), rest._student.parameters(), strict=True):
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def test_a_state_of_another_training_is_not_taken_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training(damaged(), OPTIONS, state=tmp_path).run()
    other = training(damaged(), OPTIONS, state=tmp_path)
    object.__setattr__(other._saved, "fingerprint", "other")
    other._resume()
    assert other.progress.step == 0
    assert "of another call" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UsageError, match="not a state of a training"):
        training(damaged(), OPTIONS, state=tmp_path).run()


def test_minutes_limit_the_training() -> None:
    done = healed(damaged(), minutes=0.01)
    assert 0.6 <= done.seconds < 6
    assert done.history[-1].learning_rate < 0.003 / 2  # the schedule follows the clock


def test_an_epoch_is_dealt_out_once() -> None:
    dealt, taken = [], []

    class Watched(Samples):
        def batches(self, size: int, seed: int, epoch: int) -> np.ndarray[Any, Any]:
            dealt.append(epoch)
            return super().batches(size, seed, epoch)

        def take(self, rows: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
            taken.append(rows)
            return super().take(rows)

    run = training(damaged(), Heal(epochs=3, batch=46, augment=("flip",), threads=1))
    run._samples = samples = Watched(**vars(run._samples))
    run.run()
    assert dealt == [1, 2]  # the first one when the training was put together
    steps = [rows for rows in taken if len(rows) == 46]
    expected = [batch for epoch in range(3) for batch in Samples.batches(samples, 46, 0, epoch)]
    np.testing.assert_array_equal(steps, expected)


def test_a_teacher_remembers_only_without_augmentation() -> None:
    calls = []

    class Counting(Teacher):
        def __call__(
            self, feeds: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str] | None = None
        ) -> dict[str, np.ndarray[Any, Any]]:
            calls.append(len(next(iter(feeds.values()))))
            return super().__call__(feeds, names)

    training(damaged(), OPTIONS, Counting).run()
    assert sum(calls) == 256  # every sample once
    calls.clear()
    training(damaged(), Heal(epochs=2, batch=46, augment=("flip",), threads=1), Counting).run()
    assert sum(calls) == 2 * 230 + 3 * 26


def test_a_teacher_on_a_device_says_the_same() -> None:
    run = training(damaged(), Heal(epochs=1, loss=("output", "blockwise"), threads=1))
    names = run._objective.of_teacher
    feeds = run._samples.take(run._samples.held_out)
    device = DeviceTeacher(original(), names, chosen_device("cpu"))
    for name, wanted in Teacher(original(), names, 1)(feeds).items():
        np.testing.assert_allclose(device(feeds)[name], wanted, atol=1e-4 * float(np.abs(wanted).max()))


def test_the_original_taught_by_itself_has_nothing_to_learn() -> None:
    model = original()
    done = healed(model, steps=2)
    assert done.history[0].held_out == pytest.approx(0, abs=1e-6)
    assert done.best_step == 0
    assert same(model, original())
