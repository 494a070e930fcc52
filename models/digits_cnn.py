# SPDX-License-Identifier: Apache-2.0
"""Trains a small convolutional classifier on scikit-learn's handwritten digits and writes ``digits_cnn/``.

The network holds one of each thing a pass must handle: batch normalization, a residual block, a depthwise with
its pointwise convolution, and a fully connected head. Run ``python models/digits_cnn.py`` (two minutes).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from exporting import describe, write_arrays, write_model
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

SEED = 0
EPOCHS = 40
BATCH = 64
FOLDER = Path(__file__).parent / "digits_cnn"


def normalized(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = normalized(channels, channels, 3)
        self.second = normalized(channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class DigitsCnn(nn.Module):
    """Images [batch, 1, 8, 8] in [0, 1] to ten logits a row; about 0.19 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            normalized(1, 32, 3), nn.ReLU(),
            normalized(32, 64, 3, stride=2), nn.ReLU(),
            Residual(64),
            Residual(64),
            normalized(64, 64, 3, groups=64), nn.ReLU(),
            normalized(64, 128, 1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(functional.adaptive_avg_pool2d(self.features(image), 1).flatten(1))


def load_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns images uint8 [n, 1, 8, 8] of values 0 to 16 and labels uint8 [n], shuffled, in three parts."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images = digits.images[order].astype(np.uint8)[:, None]
    labels = digits.target[order].astype(np.uint8)
    parts = {"test": slice(0, 500), "calib": slice(500, 756), "train": slice(756, None)}
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Moves each image by at most one pixel each way: the only augmentation."""
    padded = functional.pad(images, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(images)))
    row = (rows[:, None] + torch.arange(8))[:, None, :, None]
    column = (columns[:, None] + torch.arange(8))[:, None, None, :]
    return padded[torch.arange(len(images))[:, None, None, None], 0, row, column]


def train(images: np.ndarray, labels: np.ndarray) -> DigitsCnn:
    """Trains with Adam and a cosine schedule; returns the model in evaluation mode."""
    torch.manual_seed(SEED)
    x, y = torch.from_numpy(images) / 16, torch.from_numpy(labels).long()
    model = DigitsCnn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
            loss = functional.cross_entropy(model(shifted(x[rows])), y[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Trains, exports and writes the arrays; ends with the hashes for ``models/README.md``."""
    torch.set_num_threads(1)
    splits = load_splits()
    model = train(*splits["train"])
    # Not optimized: the exporter would fold batch normalization away, and fold-batchnorm would have nothing to do.
    interface = {"input_names": ["image"], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
    write_model(model, torch.zeros(2, 1, 8, 8), FOLDER / "model.onnx", optimize=False, interface=interface)
    for name in ("test", "calib"):
        images, labels = splits[name]
        write_arrays(FOLDER / f"{name}.npz", x=images, y=labels)
        with torch.no_grad():
            found = model(torch.from_numpy(images) / 16).argmax(1).numpy()
        print(f"{name}: top-1 {100 * np.mean(found == labels):.2f} % of {len(labels)}")
    print(describe(FOLDER))


if __name__ == "__main__":
    main()
