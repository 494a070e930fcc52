# SPDX-License-Identifier: Apache-2.0
"""Flax (nnx) networks through jax2onnx."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import onnx
from flax import nnx
from jax2onnx import to_onnx

Array = jax.Array


class Perceptron(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Linear(64, 256, rngs=rngs), nnx.Linear(256, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


class Cnn(nnx.Module):
    """Convolutions on channels-last pictures, flattened."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Conv(1, 32, (3, 3), rngs=rngs), nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense, self.head = nnx.Linear(3136, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.first(x)), window_shape=(2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.second(x)), window_shape=(2, 2), strides=(2, 2))
        return self.head(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


class ResidualBlock(nnx.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(inputs, outputs, (3, 3), stride, use_bias=False, rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(outputs, use_running_average=True, rngs=rngs) for _ in range(2)])
        self.side = nnx.Conv(inputs, outputs, (1, 1), stride, rngs=rngs) if inputs != outputs else None

    def __call__(self, x: Array) -> Array:
        y = self.norms[1](self.second(nnx.relu(self.norms[0](self.first(x)))))
        return nnx.relu(y + (x if self.side is None else self.side(x)))


class ResNet(nnx.Module):
    """ResNet-18's widths, one block a stage."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Conv(3, 64, (3, 3), rngs=rngs)
        widths = (64, 64, 128, 256, 512)
        pairs = itertools.pairwise(widths)
        self.blocks = nnx.List([ResidualBlock(i, o, 1 if i == o else 2, rngs) for i, o in pairs])
        self.head = nnx.Linear(512, 100, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.enter(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class EncoderLayer(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attend = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.first, self.second = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attend(self.norms[0](x))
        return x + self.second(nnx.gelu(self.first(self.norms[1](x))))


class Transformer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([EncoderLayer(64, 4, rngs) for _ in range(2)])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class Separable(nnx.Module):
    """Depthwise-separable blocks with an inverted residual."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.enter = nnx.Conv(3, 32, (3, 3), 2, rngs=rngs)
        self.wide = nnx.Conv(32, 192, (1, 1), rngs=rngs)
        self.depthwise = nnx.Conv(192, 192, (3, 3), feature_group_count=192, rngs=rngs)
        self.narrow, self.head = nnx.Conv(192, 32, (1, 1), rngs=rngs), nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu6(self.enter(x))
        x = x + self.narrow(nnx.relu6(self.depthwise(nnx.relu6(self.wide(x)))))
        return self.head(x.mean((1, 2)))


NETWORKS: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], tuple[int, ...]]] = {
    "mlp": (Perceptron, (64,)),
    "cnn": (Cnn, (28, 28, 1)),
    "resnet": (ResNet, (32, 32, 3)),
    "transformer": (Transformer, (16, 64)),
    "separable": (Separable, (32, 32, 3)),
}


def write(name: str, path: Path) -> None:
    build, shape = NETWORKS[name]
    module = build(nnx.Rngs(0))
    if hasattr(module, "eval"):
        module.eval()
    onnx.save(to_onnx(module, [("B", *shape)]), str(path))


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    return {name: partial(write, name) for name in NETWORKS}
