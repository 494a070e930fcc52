# SPDX-License-Identifier: Apache-2.0
"""Every network of this folder that torch exports, with an example of its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch_attention
import torch_classic
import torch_dense
import torch_mobile
import torch_residual
import torch_sequence
from torch import nn
from torch_export import Example


def pictures(side: int = 64, channels: int = 3, **more: int) -> Example:
    return Example({"image": (2, channels, side, side)}, {"image": {0: "batch"}}, **more)  # type: ignore[arg-type]


def series(name: str, *shape: int, time: int | None = None, ids: bool = False) -> Example:
    """One input with a dynamic batch and, at axis ``time``, a dynamic length."""
    axes = {0: "batch"} if time is None else {0: "batch", time: "length"}
    return Example({name: (2, *shape)}, {name: axes}, ids=(name,) if ids else ())


EXAMPLES: dict[str, Example] = {
    "alexnet": pictures(224),
    "inception_v3": pictures(96),
    "retinanet_fpn": pictures(64, outputs=2),
    "edsr": pictures(24),
    "dcgan_generator": series("noise", 100),
    "diffusion_unet": Example(
        {"image": (2, 3, 16, 16), "time": (2, 64)}, {"image": {0: "batch"}, "time": {0: "batch"}}
    ),
    "r3d18": Example({"clip": (2, 3, 8, 32, 32)}, {"clip": {0: "batch"}}),
    "lstm_classifier": series("features", 12, 80, time=1),
    "gru_bidirectional": series("features", 12, 80, time=1),
    "rnn_elman": series("features", 12, 80, time=1),
    "lstm_tagger": series("ids", 12, time=1, ids=True),
    "crnn": pictures(32, 1),
    "conformer": series("features", 32, 80),
    "wavenet": series("wave", 1, 128, time=2),
    "tcn": series("features", 40, 50, time=2),
    "pointnet": series("points", 3, 64, time=2),
    "siamese": Example(
        {"left": (2, 3, 64, 64), "right": (2, 3, 64, 64)}, {"left": {0: "batch"}, "right": {0: "batch"}}
    ),
    "nn_transformer": Example(
        {"source": (2, 9), "target": (2, 7)}, {"source": {0: "batch"}, "target": {0: "batch"}}, ids=("source", "target")
    ),
    "gcn": Example({"nodes": (10, 64), "adjacency": (10, 10)}, {}),
    "dlrm": Example({"dense": (2, 13), "ids": (2, 4)}, {"dense": {0: "batch"}, "ids": {0: "batch"}}, ids=("ids",)),
    "mlp": series("pixels", 784),
}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **torch_residual.NETWORKS,
    **torch_classic.NETWORKS,
    **torch_mobile.NETWORKS,
    **torch_dense.NETWORKS,
    **torch_attention.NETWORKS,
    **torch_sequence.NETWORKS,
}


def catalogue() -> dict[str, tuple[Callable[[], nn.Module], Example]]:
    """Name -> builder and example; most take pictures of 64x64."""
    return {name: (build, EXAMPLES.get(name, pictures())) for name, build in NETWORKS.items()}
