# SPDX-License-Identifier: Apache-2.0
"""Paddle's vision networks (not pretrained), its transformer encoder and its recurrent layers, through paddle2onnx."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import paddle2onnx
from paddle import nn
from paddle.vision import models

VISION: dict[str, tuple[Callable[[], nn.Layer], int]] = {
    "resnet18": (models.resnet18, 64),
    "resnet50": (models.resnet50, 64),
    "mobilenet_v1": (models.mobilenet_v1, 64),
    "mobilenet_v2": (models.mobilenet_v2, 64),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 64),
    "shufflenet_v2": (models.shufflenet_v2_x1_0, 64),
    "squeezenet1_1": (models.squeezenet1_1, 64),
    "densenet121": (models.densenet121, 64),
    "resnext50": (models.resnext50_32x4d, 64),
    "googlenet": (lambda: First(models.googlenet()), 224),
    "lenet": (models.LeNet, 28),
}


class First(nn.Layer):
    """The first of several outputs."""

    def __init__(self, body: nn.Layer) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.body(x)[0]


class Recurrent(nn.Layer):
    def __init__(self, kind: type[nn.Layer]) -> None:
        super().__init__()
        self.rnn, self.head = kind(40, 96, num_layers=2, direction="bidirect"), nn.Linear(192, 10)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.rnn(x)[0])


def transformer() -> nn.Layer:
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, activation="gelu", normalize_before=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(64, 10))


def randomize(module: nn.Layer) -> None:
    """Gives batch normalizations statistics of their own, as training would."""
    random = np.random.default_rng(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("_mean"):
            tensor.set_value(random.normal(0, 0.1, tensor.shape).astype(np.float32))
        if name.endswith("_variance"):
            tensor.set_value(random.uniform(0.5, 1.5, tensor.shape).astype(np.float32))


def write(build: Callable[[], nn.Layer], shape: list[int | None], path: Path) -> None:
    paddle.seed(0)
    module = build()
    module.eval()
    randomize(module)
    with tempfile.TemporaryDirectory() as folder:
        stem = str(Path(folder) / "model")
        paddle.jit.save(module, stem, input_spec=[paddle.static.InputSpec(shape, "float32", "x")])
        graph = next(Path(folder).glob("model.*json"), Path(folder) / "model.pdmodel")
        paddle2onnx.export(str(graph), stem + ".pdiparams", str(path), opset_version=16)


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    found = {
        name: partial(write, build, [None, 1 if name == "lenet" else 3, side, side])
        for name, (build, side) in VISION.items()
    }
    found["lstm"] = partial(write, partial(Recurrent, nn.LSTM), [None, 12, 40])
    found["gru"] = partial(write, partial(Recurrent, nn.GRU), [None, 12, 40])
    found["transformer_encoder"] = partial(write, transformer, [None, 16, 64])
    return found
