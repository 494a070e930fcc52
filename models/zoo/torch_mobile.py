# SPDX-License-Identifier: Apache-2.0
"""Networks of depthwise convolutions: MobileNet 1 to 3, MNASNet, EfficientNet, ShuffleNet, GhostNet, ConvNeXt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_layers import Residual, SqueezeExcite, classifier, unit

Row = tuple[int, int, int, int, int]  # expansion, outputs, repeats, stride, kernel


def inverted(
    inputs: int, outputs: int, hidden: int, stride: int, size: int = 3, act: type[nn.Module] = nn.ReLU6,
    gate: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """Widen, depthwise, (gate,) narrow; a shortcut where the shapes allow it."""
    layers = [unit(inputs, hidden, 1, act=act)] if hidden != inputs else []
    layers.append(unit(hidden, hidden, size, stride, hidden, act=act))
    body = nn.Sequential(*layers, *([gate] if gate else []), unit(hidden, outputs, 1, act=None))
    return Residual(body) if stride == 1 and inputs == outputs else body


def stacked(stem: int, rows: tuple[Row, ...], last: int, act: type[nn.Module], squeeze: bool) -> nn.Module:
    """The common plan of MobileNetV2, MNASNet and EfficientNet."""
    layers: list[nn.Module] = [unit(3, stem, 3, 2, act=act)]
    channels = stem
    for expansion, outputs, repeats, stride, size in rows:
        for place in range(repeats):
            hidden = channels * expansion
            gate = SqueezeExcite(hidden, max(1, channels // 4), act) if squeeze else None
            layers.append(inverted(channels, outputs, hidden, 1 if place else stride, size, act, gate))
            channels = outputs
    return classifier([*layers, unit(channels, last, 1, act=act)], last)


def mobilenet_v1() -> nn.Module:
    layers: list[nn.Module] = [unit(3, 32, 3, 2)]
    channels = 32
    widths = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for width, stride in widths:
        layers += [unit(channels, channels, 3, stride, channels), unit(channels, width, 1)]
        channels = width
    return classifier(layers, channels)


V2 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
      (6, 320, 1, 1, 3))  # fmt: skip
MNAS = ((1, 16, 1, 1, 3), (3, 24, 3, 2, 3), (3, 40, 3, 2, 5), (6, 80, 3, 2, 5), (6, 96, 2, 1, 3), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3))  # fmt: skip
B0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
      (6, 320, 1, 1, 3))  # fmt: skip


def mobilenet_v3_large() -> nn.Module:
    """Rows: kernel, hidden, outputs, gated, hard-swish, stride."""
    rows = [(3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
            (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
            (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
            (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1)]  # fmt: skip
    layers: list[nn.Module] = [unit(3, 16, 3, 2, act=nn.Hardswish)]
    channels = 16
    for size, hidden, outputs, gated, hard, stride in rows:
        act = nn.Hardswish if hard else nn.ReLU
        gate = SqueezeExcite(hidden, hidden // 4, nn.ReLU, nn.Hardsigmoid) if gated else None
        layers.append(inverted(channels, outputs, hidden, stride, size, act, gate))
        channels = outputs
    layers += [unit(channels, 960, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    return nn.Sequential(*layers, nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))


class Shuffle(nn.Module):
    """A ShuffleNetV2 unit: half passes by (stride 1) or is convolved too, then channels are interleaved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        enter = inputs if stride > 1 else half
        self.through = nn.Sequential(
            unit(enter, half, 1), unit(half, half, 3, stride, half, act=None), unit(half, half, 1)
        )
        self.beside = (
            nn.Sequential(unit(inputs, inputs, 3, stride, inputs, act=None), unit(inputs, half, 1))
            if stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = (self.beside(x), x) if self.beside else x.chunk(2, 1)
        joined = torch.cat([left, self.through(right)], 1)
        batch, channels, height, width = joined.shape
        return (
            joined.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        )


def shufflenet_v2() -> nn.Module:
    layers: list[nn.Module] = [unit(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for width, depth in ((116, 4), (232, 8), (464, 4)):
        for place in range(depth):
            layers.append(Shuffle(channels, width, 1 if place else 2))
            channels = width
    return classifier([*layers, unit(channels, 1024, 1)], 1024)


class GroupShuffle(nn.Module):
    """A ShuffleNet v1 unit: grouped 1x1 convolutions with a channel shuffle between."""

    def __init__(self, channels: int, groups: int = 4) -> None:
        super().__init__()
        middle = channels // 4
        self.groups = groups
        self.first = unit(channels, middle, 1, groups=groups)
        self.rest = nn.Sequential(
            unit(middle, middle, 3, 1, middle, act=None), unit(middle, channels, 1, groups=groups, act=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        batch, channels, height, width = y.shape
        y = y.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return torch.relu(x + self.rest(y.reshape(batch, channels, height, width)))


def shufflenet_v1() -> nn.Module:
    widths = (272, 544)
    layers: list[nn.Module] = [unit(3, 24, 3, 2), unit(24, widths[0], 3, 2)]
    layers += [GroupShuffle(widths[0]) for _ in range(3)]
    layers += [unit(widths[0], widths[1], 1), nn.AvgPool2d(2), *(GroupShuffle(widths[1]) for _ in range(4))]
    return classifier(layers, widths[1])


class Ghost(nn.Module):
    """Half of the channels are computed, the other half derived from them by a depthwise convolution."""

    def __init__(self, inputs: int, outputs: int, act: type[nn.Module] | None = nn.ReLU) -> None:
        super().__init__()
        half = outputs // 2
        self.primary = unit(inputs, half, 1, act=act)
        self.cheap = unit(half, half, 3, 1, half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], 1)


def ghost_block(inputs: int, hidden: int, outputs: int, stride: int, squeeze: bool) -> nn.Module:
    layers: list[nn.Module] = [Ghost(inputs, hidden)]
    layers += [unit(hidden, hidden, 3, stride, hidden, act=None)] if stride > 1 else []
    layers += [SqueezeExcite(hidden, hidden // 4, nn.ReLU, nn.Hardsigmoid)] if squeeze else []
    body = nn.Sequential(*layers, Ghost(hidden, outputs, None))
    if stride == 1 and inputs == outputs:
        return Residual(body)
    return Residual(
        body, nn.Sequential(unit(inputs, inputs, 3, stride, inputs, act=None), unit(inputs, outputs, 1, act=None))
    )


def ghostnet() -> nn.Module:
    rows = [(16, 16, 1, False), (48, 24, 2, False), (72, 24, 1, False), (72, 40, 2, True), (120, 40, 1, True),
            (240, 80, 2, False), (200, 80, 1, False), (480, 112, 1, True), (672, 160, 2, True),
            (960, 160, 1, True)]  # fmt: skip
    layers: list[nn.Module] = [unit(3, 16, 3, 2)]
    channels = 16
    for hidden, outputs, stride, squeeze in rows:
        layers.append(ghost_block(channels, hidden, outputs, stride, squeeze))
        channels = outputs
    return classifier([*layers, unit(channels, 960, 1)], 960)


class NextBlock(nn.Module):
    """ConvNeXt: depthwise 7x7, LayerNorm over channels-last, two linear layers, a learnt scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.depthwise(x).permute(0, 2, 3, 1)) * self.scale
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over axis 1 of a picture."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    """ConvNeXt-Tiny with stages of 2, 2, 4 and 2 blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)]
    channels = 96
    for stage, depth in enumerate((2, 2, 4, 2)):
        if stage:
            layers += [ChannelNorm(channels), nn.Conv2d(channels, 2 * channels, 2, 2)]
            channels *= 2
        layers += [NextBlock(channels) for _ in range(depth)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), ChannelNorm(channels), nn.Flatten(1), nn.Linear(channels, 1000)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": lambda: stacked(32, V2, 1280, nn.ReLU6, squeeze=False),
    "mobilenet_v3_large": mobilenet_v3_large,
    "mnasnet1_0": lambda: stacked(32, MNAS, 1280, nn.ReLU, squeeze=False),
    "efficientnet_b0": lambda: stacked(32, B0, 1280, nn.SiLU, squeeze=True),
    "shufflenet_v1_g4": shufflenet_v1,
    "shufflenet_v2_x1_0": shufflenet_v2,
    "ghostnet": ghostnet,
    "convnext_tiny": convnext,
}
