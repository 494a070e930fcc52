# SPDX-License-Identifier: Apache-2.0
"""Samples filled up to one length: batches of like lengths, computed no longer than their longest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import yaml

pytest.importorskip("torch")

from edgefold.heal.samples import Samples, read_samples
from edgefold.interface import ModelInterface
from edgefold.passes.heal import Heal
from edgefold.scoring.task import load_task
from edgefold.session import make_session

ROWS, POSITIONS = 400, 12
MODEL = """<ir_version: 9, opset_import: ["" : 17]>
g ({inputs}) => (float[n, k] y) {{
    a = Cast <to = 1> (ids)
    b = Cast <to = 1> (attention_mask)
    c = Mul(a, b)
    axes = Constant <value_ints = [1]> ()
    d = ReduceSum <keepdims = 1> (c, axes)
    y = Mul(d, x)
}}"""
INPUTS = "int64[n, s] ids, int64[n, s] attention_mask, float[n, 12] x"


def padded(folder: Path, inputs: str, lengths: np.ndarray) -> Samples:
    """What is read from samples of these lengths; ``x`` has as many columns as there are positions, by chance."""
    interface = ModelInterface.of(make_session(ir.from_onnx_text(MODEL.format(inputs=inputs))))
    mask = (np.arange(POSITIONS) < lengths[:, None]).astype(np.int64)
    arrays = {"ids": mask * 7, "attention_mask": mask, "x": np.ones((len(lengths), 12), np.float32)}
    np.savez(folder / "data.npz", **arrays, y=np.zeros(len(lengths)))
    rule = {
        "data": "data.npz",
        "inputs": {name: {"array": name} for name in arrays},
        "metric": {"name": "spearman_cosine", "labels": "y"},
        "calibration": {"data": "data.npz"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(rule))
    return read_samples(load_task(folder / "task.yaml"), interface, Heal(), 0)


@pytest.fixture
def lengths(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, POSITIONS + 1, ROWS)


def test_a_batch_is_as_long_as_its_longest_sample(tmp_path: Path, lengths: np.ndarray) -> None:
    samples = padded(tmp_path, INPUTS, lengths)
    rows = np.flatnonzero(lengths < 6)[:5]
    feeds = samples.take(rows)
    assert feeds["ids"].shape == feeds["attention_mask"].shape == (5, lengths[rows].max())
    assert feeds["x"].shape == (5, 12)
    np.testing.assert_array_equal(feeds["ids"].sum(axis=1), 7 * lengths[rows])


def test_batches_hold_samples_of_like_lengths_and_each_sample_once(tmp_path: Path, lengths: np.ndarray) -> None:
    samples = padded(tmp_path, INPUTS, lengths)
    batches = samples.batches(8, 0, 0)
    assert len(np.unique(batches)) == batches.size == 360
    assert set(batches.ravel()) <= set(samples.training)
    assert np.ptp(lengths[batches], axis=1).mean() < 2  # of 11 when they are dealt out at random
    np.testing.assert_array_equal(batches, samples.batches(8, 0, 0))
    assert not np.array_equal(batches, samples.batches(8, 0, 1))
    longest = lengths[batches].max(axis=1)
    assert (np.diff(longest) > 0).any()
    assert (np.diff(longest) < 0).any()  # not the shortest first
    assert (np.diff(lengths[samples.held_out]) >= 0).all()


def test_samples_without_padding_stay_whole(tmp_path: Path) -> None:
    assert padded(tmp_path, INPUTS, np.full(40, POSITIONS)).padding is None


def test_a_fixed_number_of_positions_stays(tmp_path: Path, lengths: np.ndarray) -> None:
    samples = padded(tmp_path, INPUTS.replace("int64[n, s]", "int64[n, 12]"), lengths)
    assert samples.padding is None
    assert samples.take(np.array([int(lengths.argmin())]))["ids"].shape == (1, POSITIONS)


def test_positions_on_another_axis_too_stay(tmp_path: Path, lengths: np.ndarray) -> None:
    """Such as a mask [batch, positions, positions], which would have to be cut twice."""
    assert padded(tmp_path, INPUTS.replace("float[n, 12]", "float[s, 12]"), lengths).padding is None
