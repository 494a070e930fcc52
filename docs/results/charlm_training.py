# SPDX-License-Identifier: Apache-2.0
"""Trains the character GPT further: the subject `gpt_charlm_longer` of docs/results/depth.md.

    python docs/results/charlm_training.py DATA_FOLDER

DATA_FOLDER/gpt_charlm, the checkpoint, is trained with labels on the training text of DATA_FOLDER/tinyshakespeare, cut
into windows that do not overlap; one in ten is held out. DATA_FOLDER/gpt_charlm_longer gets the model, the task of the
checkpoint, so that it is scored and calibrated with the same text, and in `training` what it was trained with.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import yaml

import edgefold

WINDOW = 128
"""Characters that the model reads at once."""
TRAINING = {
    "loss": ("labels",),
    "steps": 3500,
    "batch": 32,
    "learning_rate": 0.01,
    "patience": 0,
    "precision": "bfloat16",
    "threads": 1,
    "device": "cpu",
}


def main(data: Path) -> None:
    checkpoint, out = data / "gpt_charlm", data / "gpt_charlm_longer"
    training = out / "training"
    training.mkdir(parents=True)
    task = yaml.safe_load((checkpoint / "task.yaml").read_text(encoding="utf-8"))
    count = write_windows(data / "tinyshakespeare" / "train.npz", training / "windows.npz")
    calibration = {"data": "windows.npz", "samples": count}
    labelled = {**task, "data": f"../{task['data']}", "calibration": calibration}
    (training / "task.yaml").write_text(yaml.safe_dump(labelled, sort_keys=False), encoding="utf-8")
    model = checkpoint / "model.onnx"
    report = edgefold.heal(model, model, training / "task.yaml", training / "trained", seed=0, **TRAINING)
    print(report.to_text())
    shutil.copy(training / "trained" / "model.onnx", out)
    (out / "task.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def write_windows(text: Path, path: Path) -> int:
    """Writes x [windows, characters], and y, the character behind each; how many windows there are."""
    with np.load(text) as arrays:
        ids = arrays["ids"]
    count = (len(ids) - 1) // WINDOW
    x, y = (ids[start : start + count * WINDOW].reshape(count, WINDOW) for start in (0, 1))
    np.savez_compressed(path, x=x, y=y)
    return count


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
