# SPDX-License-Identifier: Apache-2.0
"""Sequences that go on as another of the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgefold.errors import UsageError
from edgefold.heal.augmentation import Draw, check_inputs, mixed
from edgefold.passes.heal import Heal

OWN = np.array([[101, 1, 2, 3, 4, 102, 0, 0], [101, 5, 102, 0, 0, 0, 0, 0]])
PARTNERS = np.array([[101, 11, 12, 13, 14, 15, 16, 102], [101, 21, 22, 23, 24, 102, 0, 0]])


def feeds(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "x": np.ones((2, 3), np.float32)}


def cut(*places: float) -> Draw:
    return dataclasses.replace(Draw.of(np.random.default_rng(0), 2), cuts=np.array(places))


def test_a_sequence_goes_on_as_its_partner_and_ends_as_that_does() -> None:
    spliced = mixed(feeds(OWN), feeds(PARTNERS), ("splice",), cut(0.5, 0.0))
    np.testing.assert_array_equal(
        spliced["input_ids"], [[101, 1, 2, 13, 14, 15, 16, 102], [101, 21, 22, 23, 24, 102, 0, 0]]
    )
    np.testing.assert_array_equal(spliced["attention_mask"], spliced["input_ids"] > 0)
    assert spliced["x"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_no_cut_lies_behind_the_shorter_of_the_two() -> None:
    spliced = mixed(feeds(OWN), feeds(PARTNERS), ("splice",), cut(0.999, 0.999))
    np.testing.assert_array_equal(
        spliced["input_ids"], [[101, 1, 2, 3, 4, 15, 16, 102], [101, 5, 22, 23, 24, 102, 0, 0]]
    )


def test_a_sequence_without_a_cut_stays_whole() -> None:
    spliced = mixed(feeds(OWN), feeds(PARTNERS), ("splice",), cut(1.0, 1.7))
    np.testing.assert_array_equal(spliced["input_ids"], OWN)


def test_half_of_the_sequences_are_cut() -> None:
    cuts = Draw.of(np.random.default_rng(0), 1000).cuts
    assert 450 < (cuts < 1).sum() < 550


def test_sequences_without_a_mask_are_full_and_images_are_not_blended(rng: np.random.Generator) -> None:
    ids, images = rng.integers(0, 9, (2, 6)), rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    spliced = mixed({"ids": ids, "x": images}, {"ids": ids[::-1], "x": images[::-1]}, ("splice",), cut(0.4, 1.1))
    np.testing.assert_array_equal(spliced["ids"], [[*ids[0, :3], *ids[1, 3:]], ids[1]])
    assert spliced["x"] is images


def test_what_holds_no_sequences_is_refused(rng: np.random.Generator) -> None:
    images = {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32)}
    with pytest.raises(UsageError, match=r"--augment splice joins sequences.*x \[2, 3, 8, 8\]"):
        check_inputs(images, ("flip", "splice"))
    with pytest.raises(UsageError, match="splice joins sequences"):
        check_inputs({"a": OWN, "b": OWN[:, :3]}, ("splice",))  # which of the two holds the positions nobody says
    with pytest.raises(UsageError, match="changes images"):
        check_inputs({"a": OWN}, ("splice", "flip"))
    check_inputs({"a": OWN, "b": OWN, "c": images["x"]}, ("splice", "flip"))


def test_spliced_sequences_have_no_labels() -> None:
    with pytest.raises(ValueError, match="augment splice mixes samples"):
        Heal(loss=("labels",), augment=("splice",))
