# SPDX-License-Identifier: Apache-2.0
"""Made-up inputs: the moments of real ones and nothing else of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.synthetic import BATCH, SAMPLES, synthetic_feeds, wide_batch


def images(channels_last: bool) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((40, 3, 16, 16)) * [[[[1.0]], [[2.0]], [[5.0]]]] + [[[[0.0]], [[3.0]], [[-1.0]]]]
    x = np.moveaxis(x, 1, -1) if channels_last else x
    return [{"x": part.astype(np.float32)} for part in np.split(x, 2)]


@pytest.mark.parametrize("channels_last", [False, True])
def test_noise_has_the_moments_of_each_channel(channels_last: bool) -> None:
    real = images(channels_last)
    axes = (0, 1, 2) if channels_last else (0, 2, 3)
    made = np.concatenate([feeds["x"] for feeds in synthetic_feeds(real, moments=True)()])
    whole = np.concatenate([feeds["x"] for feeds in real])
    assert made.shape[1:] == whole.shape[1:]
    assert len(made) >= SAMPLES
    np.testing.assert_allclose(made.mean(axis=axes), whole.mean(axis=axes), atol=0.2)
    np.testing.assert_allclose(made.std(axis=axes), whole.std(axis=axes), rtol=0.1)


def test_without_moments_only_shapes_and_types_are_taken_over() -> None:
    made = np.concatenate([feeds["x"] for feeds in synthetic_feeds(images(False), moments=False)()])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made.std(axis=(0, 2, 3)), 1, rtol=0.1)
    np.testing.assert_allclose(made.mean(axis=(0, 2, 3)), 0, atol=0.1)


def test_neighbours_in_an_image_are_alike_and_in_a_table_are_not() -> None:
    image = next(iter(synthetic_feeds(images(False), moments=False)()))["x"]
    assert np.corrcoef(image[..., :-1].ravel(), image[..., 1:].ravel())[0, 1] > 0.5
    table = [{"x": np.ones((64, 10), dtype=np.float32)}]
    rows = next(iter(synthetic_feeds(table, moments=False)()))["x"]
    assert abs(np.corrcoef(rows[:, :-1].ravel(), rows[:, 1:].ravel())[0, 1]) < 0.2


def test_tokens_come_from_those_seen_and_masks_stay_whole() -> None:
    real = [{"ids": np.array([[3, 5, 5, 9]] * 8), "mask": np.array([[1, 1, 1, 0]] * 8)}]
    first = next(iter(synthetic_feeds(real, moments=True)()))
    assert set(np.unique(first["ids"])) == {3, 5, 9}
    assert first["ids"].dtype == np.int64
    assert (first["mask"] == 1).all()


def test_every_call_makes_the_same() -> None:
    make = synthetic_feeds(images(False), moments=True, seed=3)
    for one, other in zip(make(), make(), strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        ("float[N, 3] x, int64[N] y", BATCH),
        ("float[N, 3] x, int64[M] y", 1),  # whether the two go together is not said
        ("float[?, 3] x, int64[?] y", 1),
        ("float[1, 3] x, int64[1] y", 1),
    ],
)
def test_single_samples_become_a_batch_where_all_inputs_leave_the_same_one_open(inputs: str, batch: int) -> None:
    graph = f"<ir_version: 10, opset_import: ['' : 21]> g ({inputs}) => (float[a, 3] z) {{ z = Identity(x) }}"
    model = ir.from_proto(onnx.parser.parse_model(graph.replace("'", '"')))
    feeds = wide_batch({"x": np.ones((1, 3), np.float32), "y": np.ones(1, np.int64)}, model)
    assert {len(value) for value in feeds.values()} == {batch}
