# SPDX-License-Identifier: Apache-2.0
"""On a trained language model half of the experts go, and its predictions change less than by published methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.calibration import Calibration
from edgefold.files.loading import load_model
from edgefold.files.opset import raise_opset
from edgefold.passes import Pass
from edgefold.passes.base import Context
from edgefold.passes.experts.dispatched import find_dispatched
from edgefold.passes.merge_experts import MergeExperts
from edgefold.passes.prune_experts import PruneExperts
from edgefold.probing import probe
from edgefold.session import compute, make_session, run


def loss(model: ir.Model, tokens: np.ndarray) -> float:
    """Mean loss of each next token, in nats."""
    [logits] = run(make_session(model, threads=1), None, {"input_ids": tokens})
    scores = logits[:, :-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    right = np.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    return float((np.log(np.exp(scores).sum(axis=-1)) - right).mean())


@pytest.mark.slow
def test_half_of_the_experts_of_a_language_model(data_folder: Path) -> None:
    path = data_folder / "moe_charlm" / "model.onnx"
    if not path.exists():
        pytest.skip("moe_charlm/model.onnx is not there")
    text = np.load(data_folder / "tinyshakespeare" / "calib.npz")["x"].astype(np.int64)
    original = raise_opset(load_model(path).model, 21)[0]

    def batches() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"input_ids": part} for part in np.split(text[:48], 3))

    def harm(step: Pass) -> float:
        model = original.clone()
        feeds = {"input_ids": text[:2]}
        context = Context(
            calibration=Calibration(original, batches, threads=1), probe=lambda one: probe(one, feeds), compute=compute
        )
        notes = step.rewrite(model, context)
        assert notes.stats["experts_after"] == 16
        assert sum(len(layer.experts) for layer in find_dispatched(model)) == 16
        return loss(model, text[-32:]) - loss(original, text[-32:])

    ours = harm(MergeExperts(keep=0.5, method="merge"))
    assert 0 < ours < 0.5 * harm(PruneExperts(keep=0.5, refit="none"))
