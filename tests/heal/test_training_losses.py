# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from edgefold.heal import losses
from edgefold.heal.augmentation import Draw, augmented, check_inputs, mixed
from edgefold.heal.schedule import WARM_UP, learning_rate_factor
from edgefold.passes.heal import Heal


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def test_kl_divergence_is_that_of_the_definition(rng: np.random.Generator) -> None:
    student, teacher, temperature = tensor(rng, 4, 5), tensor(rng, 4, 5), 3.0
    p, q = (np.exp(x.numpy() / temperature) for x in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    wanted = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    assert float(losses.kl_divergence(student, teacher, temperature)) == pytest.approx(wanted)


def test_kl_divergence_sees_probabilities_as_their_logits(rng: np.random.Generator) -> None:
    student, teacher = tensor(rng, 4, 5), tensor(rng, 4, 5)
    of_logits = losses.kl_divergence(student, teacher, 2.0)
    through = losses.kl_divergence(*(losses.logits_of(x.softmax(1)) for x in (student, teacher)), 2.0)
    assert float(through) == pytest.approx(float(of_logits))


def test_every_distance_is_nothing_where_both_agree_and_something_where_not(rng: np.random.Generator) -> None:
    a, b = tensor(rng, 4, 5), tensor(rng, 4, 5)
    for distance in (
        lambda x, y: losses.kl_divergence(x, y, 1.0),
        losses.cosine_distance,
        losses.relative_error,
        losses.similarity_error,
    ):
        assert float(distance(a, a)) == pytest.approx(0, abs=1e-12)
        assert float(distance(a, b)) > 0.01


def test_relative_error_does_not_know_the_unit(rng: np.random.Generator) -> None:
    a, b = tensor(rng, 4, 5), tensor(rng, 4, 5)
    assert float(losses.relative_error(1e3 * a, 1e3 * b)) == pytest.approx(float(losses.relative_error(a, b)))
    assert float(losses.relative_error(torch.zeros_like(b), b)) == pytest.approx(1)


def test_similarity_knows_neither_rotation_nor_length(rng: np.random.Generator) -> None:
    a, b = tensor(rng, 6, 5), tensor(rng, 6, 5)
    rotation = torch.linalg.qr(tensor(rng, 5, 5))[0]
    assert float(losses.similarity_error(3 * a @ rotation, a)) == pytest.approx(0, abs=1e-12)
    unit_a, unit_b = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    cosines = [(x @ x.t())[~torch.eye(6, dtype=torch.bool)] for x in (unit_a, unit_b)]
    wanted = (cosines[0] - cosines[1]).square().mean() / cosines[1].var()
    assert float(losses.similarity_error(a, b)) == pytest.approx(float(wanted))
    assert float(losses.similarity_error(a[:1], b[:1])) == 0  # one sample has no other


def test_cross_entropy_leaves_negative_labels_out(rng: np.random.Generator) -> None:
    logits = tensor(rng, 2, 3, 5)
    labels = torch.tensor([[1, -7, 4], [0, 2, -1]])
    picked = logits.log_softmax(-1)[[0, 0, 1, 1], [0, 2, 0, 1], [1, 4, 0, 2]]
    assert float(losses.cross_entropy(logits, labels)) == pytest.approx(-float(picked.mean()))


@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_the_learning_rate_rises_then_falls(a: float, b: float) -> None:
    first, second = sorted((a, b))
    rate = learning_rate_factor(first), learning_rate_factor(second)
    assert all(0 <= one <= 1 for one in rate)
    if second <= WARM_UP:
        assert rate[0] <= rate[1]
    if first >= WARM_UP:
        assert rate[0] >= rate[1]


def test_the_learning_rate_ends_at_nothing() -> None:
    assert learning_rate_factor(WARM_UP) == 1
    assert learning_rate_factor(1.0) == pytest.approx(0)
    assert learning_rate_factor(1.3) == pytest.approx(0)  # a step that took longer than the minutes left


def draw(flip: bool, down: float, right: float) -> Draw:
    shares = np.array([0.25, 1.0], np.float32)
    flips, shifts = np.array([flip, False]), np.array([[down, right], [0.0, 0.0]])
    still = {
        "warps": np.zeros((2, 2)),
        "colours": np.zeros((2, 3)),
        "cuts": np.full(2, 1.5),
        "swaps": np.zeros(2),
        "seeds": np.zeros(2, int),
    }
    return Draw(flips, shifts, np.array([1, 0]), shares, np.array([False, False]), np.full((2, 2), 0.5), **still)


def test_images_are_flipped_and_moved_by_whole_pixels() -> None:
    images = np.arange(2 * 3 * 16 * 24, dtype=np.float32).reshape(2, 3, 16, 24)
    flipped = augmented({"x": images}, ("flip",), draw(True, 0, 0))["x"]
    np.testing.assert_array_equal(flipped[0], images[0, :, :, ::-1])
    np.testing.assert_array_equal(flipped[1], images[1])
    moved = augmented({"x": images}, ("crop",), draw(True, 1, -1))["x"]
    np.testing.assert_array_equal(moved[0, :, :14, 3:], images[0, :, 2:, :21])
    np.testing.assert_array_equal(moved[0, :, -1, 3:], images[0, :, -2 - 1 + 0, :21])  # mirrored, not black
    np.testing.assert_array_equal(moved[1], images[1])


def test_channels_may_come_last(rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 3, 16, 24)).astype(np.float32)
    change = draw(True, 0.5, -1)
    first = augmented({"x": images}, ("flip", "crop"), change)["x"]
    last = augmented({"x": np.moveaxis(images, 1, -1)}, ("flip", "crop"), change)["x"]
    np.testing.assert_array_equal(first, np.moveaxis(last, -1, 1))


def test_only_images_are_changed(rng: np.random.Generator) -> None:
    from edgefold.errors import UsageError

    feeds = {"ids": rng.integers(0, 9, (2, 3, 16, 24)), "x": rng.standard_normal((2, 3)).astype(np.float32)}
    changed = augmented(feeds, ("flip", "crop"), draw(True, 1, 1))
    assert all(changed[name] is feeds[name] for name in feeds)
    with pytest.raises(UsageError, match=r"--augment changes images.*ids \[2, 3, 16, 24\]"):
        check_inputs(feeds, ("flip",))


def test_images_are_blended_by_their_share_and_other_inputs_are_not(rng: np.random.Generator) -> None:
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32), "ids": rng.integers(0, 9, (2, 4))}
    partners = {name: value[::-1] for name, value in feeds.items()}
    blended = mixed(feeds, partners, ("mix",), draw(False, 0, 0))
    np.testing.assert_allclose(blended["x"][0], 0.25 * feeds["x"][0] + 0.75 * feeds["x"][1], rtol=1e-6)
    np.testing.assert_array_equal(blended["x"][1], feeds["x"][1])
    assert blended["x"].dtype == np.float32
    assert blended["ids"] is feeds["ids"]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_patch_comes_from_the_partner_and_the_rest_stays(last: bool, rng: np.random.Generator) -> None:
    images = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = images.copy()
    expected[0, :, :4, 2:6] = images[1, :, :4, 2:6]  # half of each side
    change = dataclasses.replace(
        draw(False, 0, 0), shares=np.array([0.75, 1], np.float32), centres=np.array([[0.25, 0.5], [0.5, 0.5]])
    )
    feeds = {"x": np.moveaxis(images, 1, -1) if last else images}
    pasted = mixed(feeds, {"x": feeds["x"][::-1]}, ("patch",), change)["x"]
    np.testing.assert_array_equal(np.moveaxis(pasted, -1, 1) if last else pasted, expected)


def test_of_both_ways_of_mixing_each_image_takes_one(rng: np.random.Generator) -> None:
    feeds = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    partners = {"x": feeds["x"][::-1]}
    change = dataclasses.replace(draw(False, 0, 0), patched=np.array([True, False]))
    both, mix, patch = (mixed(feeds, partners, ways, change)["x"] for ways in (("mix", "patch"), ("mix",), ("patch",)))
    np.testing.assert_array_equal(both, np.stack([patch[0], mix[1]]))


@pytest.mark.parametrize("way", ["mix", "patch"])
def test_mixtures_have_no_labels(way: str) -> None:
    with pytest.raises(ValueError, match=f"augment {way} mixes samples"):
        Heal(loss=("labels",), augment=(way,))
    Heal(loss=("output",), augment=(way,))


def test_a_process_gets_its_part_of_what_was_drawn() -> None:
    whole = Draw.of(np.random.default_rng(3), 8)
    again = Draw.of(np.random.default_rng(3), 8).take(np.array([5, 6]))
    np.testing.assert_array_equal(whole.flips[5:7], again.flips)
    np.testing.assert_array_equal(whole.shifts[5:7], again.shifts)
