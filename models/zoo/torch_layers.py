# SPDX-License-Identifier: Apache-2.0
"""The few layers that most convolutional networks of the zoo are written with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the picture's size at stride 1."""
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)


def unit(
    inputs: int,
    outputs: int,
    size: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
    dilation: int = 1,
) -> nn.Sequential:
    """Convolution, batch normalization and, unless ``act`` is None, an activation."""
    layers = [conv(inputs, outputs, size, stride, groups, dilation), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    """A body, a shortcut beside it, and an activation after their sum."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Branches(nn.Module):
    """Branches of one input, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class SqueezeExcite(nn.Module):
    """Gates every channel by its global average."""

    def __init__(self, channels: int, hidden: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), act(), nn.Conv2d(hidden, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Chain(nn.Sequential):
    """Modules in a row that returns what each of them gave."""

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        found = []
        for module in self:
            x = module(x)
            found.append(x)
        return found


def classifier(features: Sequence[nn.Module], channels: int, classes: int = 1000) -> nn.Sequential:
    """Features, global average pooling and one fully connected layer."""
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(channels, classes))
