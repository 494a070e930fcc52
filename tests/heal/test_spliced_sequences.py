# SPDX-License-Identifier: Apache-2.0
"""Sequences that go on as another of the batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.errors import UsageError
from edgefold.heal.augmentation import Draw, check_inputs, mixed, swapped
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


def swap(share: float) -> Draw:
    return dataclasses.replace(cut(1.5, 1.5), swaps=np.full(2, share), seeds=np.array([3, 4]))


def test_tokens_between_the_first_and_the_last_become_others_of_the_vocabulary() -> None:
    swapped_all = swapped(feeds(OWN), ("input_ids", 9), swap(1.0))
    ids = swapped_all["input_ids"]
    np.testing.assert_array_equal(ids[:, 0], OWN[:, 0])
    assert (ids[0, 5], ids[1, 2]) == (102, 102)
    assert (ids[OWN == 0] == 0).all()  # padding stays padding
    assert ((ids[0, 1:5] >= 0) & (ids[0, 1:5] < 9)).all()
    assert not np.array_equal(ids, OWN)
    np.testing.assert_array_equal(swapped_all["attention_mask"], OWN > 0)
    np.testing.assert_array_equal(swapped(feeds(OWN), ("input_ids", 9), swap(0.0))["input_ids"], OWN)


def test_about_the_drawn_share_of_tokens_is_swapped_and_each_row_draws_its_own() -> None:
    ids = np.full((2, 2000), 10)
    changed = swapped({"ids": ids}, ("ids", 5), swap(0.3))["ids"] != 10
    np.testing.assert_allclose(changed.mean(axis=1), 0.3, atol=0.04)
    assert not np.array_equal(changed[0], changed[1])


def test_tokens_are_what_a_model_looks_up_in_its_largest_table() -> None:
    pytest.importorskip("torch")
    from edgefold.heal.engine import vocabulary

    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (int64[n, s] ids, int32[n, s] types, float[n, s, 2] x) => (float[n, s, 2] y)
    <float[9, 2] words = {WORDS}, float[2, 2] kinds = {1, 2, 3, 4}>
    { a = Gather(words, ids) wide = Cast<to=7>(types) b = Gather(kinds, wide) c = Add(a, b) y = Add(c, x) }"""
    text = text.replace("WORDS", ", ".join(["1"] * 18))
    assert vocabulary(ir.from_onnx_text(text)) == ("ids", 9)
    without = text.replace("a = Gather(words, ids)", "a = Identity(x)").replace("Gather(kinds, wide)", "Identity(x)")
    assert vocabulary(ir.from_onnx_text(without)) is None
    with pytest.raises(UsageError, match="--augment swap replaces tokens that the model looks up"):
        check_inputs(feeds(OWN), ("swap",), None)
    check_inputs(feeds(OWN), ("swap",), ("input_ids", 9))
