# SPDX-License-Identifier: Apache-2.0
"""A teacher that answers for several views of an image: which views, what their mean is, and for what it has none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("torch")

import torch
from damaged import damaged, healed, original, training

from edgefold.errors import UsageError
from edgefold.heal.device_teacher import DeviceTeacher
from edgefold.heal.engine import heal_model
from edgefold.heal.losses import kl_divergence
from edgefold.heal.processes import Processes, chosen_device
from edgefold.heal.teacher import Teacher
from edgefold.heal.views import TeacherOfViews, mean_classes, mean_values, seen
from edgefold.passes import Heal
from edgefold.scoring.task import load_task

HEADER = '<ir_version: 10, opset_import: ["" : 21]>\n'
OF_TEXT = "(float[n, 5] x) => (float[n, 5] y) { h = Relu(x) y = Neg(h) }"
OF_PLACES = "(float[n, 1, 6, 8] x) => (float[n, 1, 6, 8] y) { h = Relu(x) y = Neg(h) }"
OF_IMAGES = "(float[n, 1, 6, 8] x) => (float[n, 48] y) { h = Relu(x) y = Flatten(h) }"


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((2, 1, 6, 8)).astype(np.float32)


def teacher(text: str, *names: str) -> Teacher:
    return Teacher(ir.from_onnx_text(f"{HEADER} g {text}"), names, 1)


def test_the_mean_is_of_outputs_and_hidden_tensors_are_of_the_image_as_given(images: np.ndarray) -> None:
    one = teacher(OF_IMAGES, "y", "h")
    told = TeacherOfViews(one, {"y": mean_values}, ("flip",), {"x": images})({"x": images})
    positive = np.maximum(images, 0)
    expected = (positive + positive[..., ::-1]) / 2
    np.testing.assert_allclose(told["y"], expected.reshape(2, 48), rtol=1e-6)
    np.testing.assert_array_equal(told["h"], positive)
    assert told["y"].dtype == np.float32


def test_the_mean_does_not_depend_on_which_way_round_the_image_is() -> None:
    options = Heal(loss=("output", "blockwise"), threads=1)
    run = training(damaged(), options)
    feeds = run._samples.take(run._samples.held_out)
    mirrored = {name: np.ascontiguousarray(value[..., ::-1]) for name, value in feeds.items()}
    told = TeacherOfViews(run._teacher, run._objective.means, ("flip",), feeds)
    np.testing.assert_allclose(told(feeds)["logits"], told(mirrored)["logits"], atol=1e-4)
    assert np.abs(run._teacher(feeds)["logits"] - run._teacher(mirrored)["logits"]).max() > 1


@pytest.mark.parametrize(("views", "count"), [(("flip",), 1), (("shift",), 4), (("flip", "shift"), 9)])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_views_are_all_combinations_each_once(
    views: tuple[str, ...], count: int, last: bool, rng: np.random.Generator
) -> None:
    first = rng.standard_normal((2, 3, 32, 48)).astype(np.float32)
    feeds = {"x": np.moveaxis(first, 1, 3) if last else first, "ids": np.arange(2)}
    found = list(seen(feeds, views))
    assert len(found) == len({view["x"].tobytes() for view in found} - {feeds["x"].tobytes()}) == count
    assert all(view["ids"] is feeds["ids"] and view["x"].shape == feeds["x"].shape for view in found)
    mirrored = np.flip(feeds["x"], 2 if last else 3)
    assert any(np.array_equal(view["x"], mirrored) for view in found) == ("flip" in views)


def test_a_shift_is_a_thirty_second_of_the_side(rng: np.random.Generator) -> None:
    wide = rng.standard_normal((1, 3, 32, 64)).astype(np.float32)
    found = [view["x"] for view in seen({"x": wide}, ("shift",))]
    np.testing.assert_array_equal(found[-1][:, :, :-1, :-2], wide[:, :, 1:, 2:])
    np.testing.assert_array_equal(found[0][:, :, 1:, 2:], wide[:, :, :-1, :-2])
    small = rng.standard_normal((1, 1, 8, 8)).astype(np.float32)  # of which it would be a quarter of a pixel
    np.testing.assert_array_equal(list(seen({"x": small}, ("shift",)))[-1]["x"][:, :, :-1, :-1], small[:, :, 1:, 1:])


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_mean_of_classes_is_what_all_views_together_teach(probabilities: bool, rng: np.random.Generator) -> None:
    answers = [torch.from_numpy(3 * rng.standard_normal((4, 5))) for _ in range(3)]
    student = torch.from_numpy(rng.standard_normal((4, 5))).requires_grad_()
    given = [one.softmax(-1) if probabilities else one for one in answers]
    mean = torch.from_numpy(mean_classes([one.numpy() for one in given], 2.0, probabilities))
    if probabilities:
        torch.testing.assert_close(mean.sum(-1), torch.ones(4, dtype=torch.float64))
        mean = mean.log()
    (of_mean,) = torch.autograd.grad(kl_divergence(student, mean, 2.0), student)
    (of_all,) = torch.autograd.grad(sum(kl_divergence(student, one, 2.0) for one in answers) / 3, student)
    torch.testing.assert_close(of_mean, of_all)


def test_the_mean_of_equal_answers_is_the_answer(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((4, 5))
    np.testing.assert_allclose(
        np.diff(mean_classes([logits] * 2, 2.0, False), axis=1), np.diff(logits, axis=1), atol=1e-12
    )


def test_a_teacher_on_a_device_has_views_too() -> None:
    run = training(damaged(), Heal(loss=("output", "blockwise"), threads=1))
    feeds = run._samples.take(run._samples.held_out[:4])
    device = DeviceTeacher(original(), run._objective.of_teacher, chosen_device("cpu"))
    ours, theirs = (
        TeacherOfViews(one, run._objective.means, ("flip",), feeds)(feeds) for one in (device, run._teacher)
    )
    assert ours.keys() == theirs.keys() == set(run._objective.of_teacher)
    for name, wanted in theirs.items():
        np.testing.assert_allclose(ours[name], wanted, atol=1e-4 * float(np.abs(wanted).max()))


def test_a_student_is_taught_the_mean_and_judged_by_it() -> None:
    plain, viewed = (
        healed(original(), steps=2, augment=("crop",), **more) for more in ({}, {"teacher_views": ("flip",)})
    )
    assert plain.history[0].held_out == pytest.approx(0, abs=1e-6)
    assert viewed.history[0].held_out > 0.1  # the original does not know the mean; digits are not their mirror images
    assert "mean over views of the image (flip)" in viewed.losses[-1]


def test_without_augmentation_the_mean_is_asked_for_once() -> None:
    done = healed(damaged(), epochs=2, batch=46, teacher_views=("flip", "shift"))
    assert done.history[-1].held_out < done.history[0].held_out


def test_what_holds_no_images_is_refused_in_one_line(images: np.ndarray) -> None:
    flat = np.zeros((2, 5), np.float32)
    with pytest.raises(
        UsageError, match=r"^--teacher-views flip: takes images, .* the inputs are x \[2, 5\]; leave it"
    ):
        TeacherOfViews(teacher(OF_TEXT, "y"), {"y": mean_values}, ("flip",), {"x": flat})
    with pytest.raises(
        UsageError, match=r"--teacher-views shift: takes outputs of one row an image.*'y' is \[2, 1, 6, 8"
    ):
        TeacherOfViews(teacher(OF_PLACES, "y"), {"y": mean_values}, ("shift",), {"x": images})
    TeacherOfViews(teacher(OF_IMAGES, "y"), {"y": mean_values}, ("flip",), {"x": images})


def test_the_engine_refuses_before_it_trains(tmp_path: Path) -> None:
    text = f"{HEADER} g (float[n, 5] x) => (float[n, 5] y) {{ y = MatMul(x, w) }}"
    weight = ir.tensor(np.eye(5, dtype=np.float32), name="w")
    model = ir.from_onnx_text(text, initializers=[weight])
    np.savez(tmp_path / "rows.npz", x=np.zeros((20, 5), np.float32), y=np.zeros(20, np.int64))
    (tmp_path / "task.yaml").write_text(
        "data: rows.npz\ninputs: {x: {array: x}}\nmetric: {name: top1, output: y, labels: y}\n"
        "calibration: {data: rows.npz}\n"
    )
    options = Heal(steps=1, threads=1, teacher_views=("flip",))
    alone = Processes(0, 1, chosen_device("cpu"))
    with pytest.raises(UsageError, match="--teacher-views flip: takes images"):
        heal_model(model.clone(), model, load_task(tmp_path / "task.yaml"), options, 0, alone)


def test_views_without_a_loss_of_outputs_average_nothing() -> None:
    with pytest.raises(ValueError, match="teacher_views averages outputs, which only the loss output reads"):
        Heal(loss=("blockwise",), teacher_views=("flip",))
    Heal(loss=("output", "blockwise"), teacher_views=("flip",))
