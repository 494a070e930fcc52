# SPDX-License-Identifier: Apache-2.0
"""Keras networks (weights=None) and layers, through tf2onnx."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from keras import layers

APPLICATIONS = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "ResNet50": 64, "ResNet50V2": 64,
    "EfficientNetB0": 64, "EfficientNetV2B0": 64, "DenseNet121": 64, "Xception": 96, "NASNetMobile": 64,
    "InceptionV3": 96, "VGG16": 64,
}  # fmt: skip


def randomized(model: keras.Model) -> keras.Model:
    """Gives normalizations statistics of their own, as training would."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization | layers.LayerNormalization):
            shapes = [weight.shape for weight in layer.get_weights()]
            layer.set_weights([random.uniform(0.5, 1.5, shape).astype(np.float32) for shape in shapes])
    return model


def write(build: Callable[[], keras.Model], path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = randomized(build())
    signature = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, tensor.name) for tensor in model.inputs]
    function = tf.function(lambda *arrays: model(arrays[0] if len(arrays) == 1 else list(arrays), training=False))
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(path))


def application(name: str, side: int) -> keras.Model:
    options: dict[str, Any] = {"weights": None, "input_shape": (side, side, 3)}
    if "V3" in name or "Efficient" in name:
        options |= {} if name == "InceptionV3" else {"include_preprocessing": False}
    if name == "EfficientNetB0":
        del options["include_preprocessing"]
    return getattr(keras.applications, name)(**options)


def recurrent(kind: Callable[..., layers.Layer]) -> keras.Model:
    steps = layers.Input((12, 40), name="steps")
    y = kind(96, return_sequences=True)(steps)
    return keras.Model(steps, layers.Dense(10)(kind(64)(y)))


def gelu(x: Any) -> Any:
    """By tanh: tf2onnx writes the exact one with an operator that ONNX does not have."""
    return keras.activations.gelu(x, approximate=True)


def attention() -> keras.Model:
    """Two encoder layers with keras.layers.MultiHeadAttention and LayerNormalization."""
    tokens = layers.Input((16, 64), name="tokens")
    y = tokens
    for _ in range(2):
        normed = layers.LayerNormalization(epsilon=1e-6)(y)
        y = y + layers.MultiHeadAttention(4, 16)(normed, normed)
        y = y + layers.Dense(64)(layers.Dense(256, activation=gelu)(layers.LayerNormalization(epsilon=1e-6)(y)))
    return keras.Model(tokens, layers.Dense(10)(layers.GlobalAveragePooling1D()(y)))


def autoencoder() -> keras.Model:
    picture = layers.Input((32, 32, 1), name="picture")
    y = picture
    for width in (32, 64):
        y = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu")(y)
    y = layers.Reshape((8, 8, 64))(layers.Dense(4096, activation="relu")(layers.Dense(32)(layers.Flatten()(y))))
    for width in (64, 32):
        y = layers.Conv2DTranspose(width, 3, strides=2, padding="same", activation="relu")(y)
    return keras.Model(picture, layers.Conv2D(1, 3, padding="same")(y))


def keyword_spotter() -> keras.Model:
    """Depthwise-separable convolutions on a spectrogram (the DS-CNN of speech benchmarks)."""
    sound = layers.Input((49, 10, 1), name="spectrogram")
    y = layers.Conv2D(64, (10, 4), strides=2, padding="same")(sound)
    for _ in range(4):
        y = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y)))
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(64, 1)(y)))
    return keras.Model(sound, layers.Dense(12, activation="softmax")(layers.GlobalAveragePooling2D()(y)))


def perceptron() -> keras.Model:
    rows = layers.Input((64,), name="rows")
    y = layers.Dense(128, activation="relu")(layers.Dense(256, activation="relu")(rows))
    return keras.Model(rows, layers.Dense(10, activation="softmax")(y))


def catalogue() -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes the file."""
    small: dict[str, Callable[[], keras.Model]] = {
        "lstm": partial(recurrent, layers.LSTM),
        "gru": partial(recurrent, layers.GRU),
        "bidirectional": partial(recurrent, lambda *a, **k: layers.Bidirectional(layers.LSTM(*a, **k))),
        "mha": attention,
        "autoencoder": autoencoder,
        "ds_cnn": keyword_spotter,
        "mlp": perceptron,
    }
    large = {name: partial(application, name, side) for name, side in APPLICATIONS.items()}
    return {name: partial(write, build) for name, build in {**small, **large}.items()}
