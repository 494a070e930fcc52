# SPDX-License-Identifier: Apache-2.0
"""Every real model compresses, or is left alone node by node with a reason; what is written runs in stock ORT."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgefold.plan import guessed_feeds
from edgefold.session import make_session, run

Command = Callable[..., Any]  # the fixture `edgefold`
DATA = Path(os.environ.get("EDGEFOLD_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))
QUICK = ("sklearn_digits", "keras_autoencoder_ad01", "dtln", "cifar_resnet20", "gpt_charlm")
MODELS = sorted(str(path.relative_to(DATA)) for path in DATA.glob("*/*.onnx"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n.split("/")[0] in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_a_real_model_compresses_without_a_task(name: str, tmp_path: Path, edgefold: Command) -> None:
    out = tmp_path / "out"
    flags = ["--set", "quantize.rounding=nearest", "--format", "json"]
    outcome = edgefold("compress", "-m", DATA / name, "-o", out, *flags)
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    edits = sum(step["edits"] for step in report["steps"] if step["pass"] == "quantize")
    skips = [skip for step in report["steps"] for skip in step["skips"]]
    assert edits or skips
    assert all(skip["reason"] for skip in skips)
    onnx.checker.check_model(out / "model.onnx", full_check=False)
    session = make_session(out / "model.onnx", library=False)
    feeds = guessed_feeds(session, seed=1)
    assert feeds is not None
    for array in run(session, None, feeds):
        assert array.dtype.kind != "f" or np.isfinite(array).all()


def test_there_are_real_models(data_folder: Path) -> None:
    assert list(data_folder.glob("*/*.onnx"))
