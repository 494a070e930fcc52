# SPDX-License-Identifier: Apache-2.0
"""Chains and concatenations: AlexNet, VGG, SqueezeNet, GoogLeNet, Inception v3, DenseNet, VoVNet, CSPDarknet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_layers import Branches, Residual, classifier, unit


def alexnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(1), nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000),
    )  # fmt: skip


def vgg16_bn() -> nn.Module:
    """For pictures of 64x64: the first fully connected layer reads 512 x 2 x 2."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(1), nn.Linear(2048, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, *head)


def fire(inputs: int, squeeze: int, expand: int) -> nn.Module:
    wide = Branches(
        nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU()),
    )
    return nn.Sequential(nn.Conv2d(inputs, squeeze, 1), nn.ReLU(), wide)


def squeezenet1_1() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        fire(64, 16, 64), fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
        fire(128, 32, 128), fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
        fire(256, 48, 192), fire(384, 48, 192), fire(384, 64, 256), fire(512, 64, 256),
        nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
    )  # fmt: skip


def inception(inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> nn.Module:
    """A GoogLeNet module, with batch normalization."""
    return Branches(
        unit(inputs, one, 1),
        nn.Sequential(unit(inputs, three[0], 1), unit(*three)),
        nn.Sequential(unit(inputs, five[0], 1), unit(*five)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(inputs, pool, 1)),
    )


def googlenet() -> nn.Module:
    down = lambda: nn.MaxPool2d(3, 2, 1)  # noqa: E731 (a fresh module each time)
    layers = [
        unit(3, 64, 7, 2), down(), unit(64, 64, 1), unit(64, 192), down(),
        inception(192, 64, (96, 128), (16, 32), 32), inception(256, 128, (128, 192), (32, 96), 64), down(),
        inception(480, 192, (96, 208), (16, 48), 64), inception(512, 160, (112, 224), (24, 64), 64),
        inception(512, 128, (128, 256), (24, 64), 64), inception(512, 112, (144, 288), (32, 64), 64),
        inception(528, 256, (160, 320), (32, 128), 128), down(),
        inception(832, 256, (160, 320), (32, 128), 128), inception(832, 384, (192, 384), (48, 128), 128),
    ]  # fmt: skip
    return classifier(layers, 1024)


def oblong(inputs: int, outputs: int, height: int, width: int) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, (height, width), padding=(height // 2, width // 2), bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def seven(inputs: int, middle: int, outputs: int) -> nn.Module:
    return nn.Sequential(unit(inputs, middle, 1), oblong(middle, middle, 1, 7), oblong(middle, outputs, 7, 1))


def wide(inputs: int) -> nn.Module:
    """The last module of Inception v3: branches that branch again."""
    split = lambda: Branches(oblong(384, 384, 1, 3), oblong(384, 384, 3, 1))  # noqa: E731 (a fresh module each time)
    pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, 192, 1))
    deep = nn.Sequential(unit(inputs, 448, 1), unit(448, 384), split())
    return Branches(unit(inputs, 320, 1), nn.Sequential(unit(inputs, 384, 1), split()), deep, pooled)


def inception_v3() -> nn.Module:
    """One module of each kind fewer than the original; the widths are the original's."""

    def early(inputs: int, pool: int) -> nn.Module:
        double = nn.Sequential(unit(inputs, 64, 1), unit(64, 96), unit(96, 96))
        five = nn.Sequential(unit(inputs, 48, 1), unit(48, 64, 5))
        return Branches(unit(inputs, 64, 1), five, double, nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, pool, 1)))

    def middle(width: int) -> nn.Module:
        twice = nn.Sequential(seven(768, width, width), oblong(width, width, 1, 7), oblong(width, 192, 7, 1))
        pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(768, 192, 1))
        return Branches(unit(768, 192, 1), seven(768, width, 192), twice, pooled)

    first = Branches(
        unit(288, 384, 3, 2), nn.Sequential(unit(288, 64, 1), unit(64, 96), unit(96, 96, 3, 2)), nn.MaxPool2d(3, 2, 1)
    )
    last = Branches(
        nn.Sequential(unit(768, 192, 1), unit(192, 320, 3, 2)),
        nn.Sequential(seven(768, 192, 192), unit(192, 192, 3, 2)),
        nn.MaxPool2d(3, 2, 1),
    )
    stem = [unit(3, 32, 3, 2), unit(32, 32), unit(32, 64), nn.MaxPool2d(3, 2, 1), unit(64, 80, 1), unit(80, 192)]
    body = [early(192, 32), early(256, 64), early(288, 64), first, middle(128), middle(160), middle(192), last]
    return classifier([*stem, nn.MaxPool2d(3, 2, 1), *body, wide(1280), wide(2048)], 2048)


class Grow(nn.Module):
    """A DenseNet layer: what it computes is appended to what it read."""

    def __init__(self, inputs: int, growth: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    layers: list[nn.Module] = [unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate((6, 12, 24, 16)):
        if stage:
            norm = [nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [*norm, nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
        layers += [Grow(channels + 32 * n) for n in range(depth)]
        channels += 32 * depth
    return classifier([*layers, nn.BatchNorm2d(channels), nn.ReLU()], channels)


class OneShot(nn.Module):
    """One-shot aggregation (VoVNet): a chain whose members are all concatenated at its end."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(unit(width if n else inputs, width) for n in range(5))
        self.join = unit(inputs + 5 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.units:
            found.append(layer(found[-1]))
        return self.join(torch.cat(found, 1))


def vovnet39() -> nn.Module:
    layers: list[nn.Module] = [unit(3, 64, 3, 2), unit(64, 64), unit(64, 128, 3, 2)]
    channels = 128
    for width, outputs, depth in ((128, 256, 1), (160, 512, 1), (192, 768, 2), (224, 1024, 2)):
        for _ in range(depth):
            layers.append(OneShot(channels, width, outputs))
            channels = outputs
        layers.append(nn.MaxPool2d(3, 2, 1))
    return classifier(layers[:-1], channels)


class CrossStage(nn.Module):
    """A CSPDarknet stage: half of the channels pass by the residual blocks."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        half = outputs // 2
        self.down = unit(inputs, outputs, 3, 2, act=nn.SiLU)
        self.blocks = nn.Sequential(
            *(
                Residual(nn.Sequential(unit(half, half, 1, act=nn.SiLU), unit(half, half, act=nn.SiLU)))
                for _ in range(depth)
            )
        )
        self.join = unit(outputs, outputs, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        beside, through = self.down(x).chunk(2, 1)
        return self.join(torch.cat([beside, self.blocks(through)], 1))


class Focus(nn.Module):
    """Space to depth by four strided slices (YOLOv5's stem)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.join = unit(12, outputs, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.join(torch.cat(corners, 1))


def cspdarknet() -> nn.Module:
    stages = [CrossStage(32, 64, 1), CrossStage(64, 128, 3), CrossStage(128, 256, 3), CrossStage(256, 512, 1)]
    return classifier([Focus(32), *stages], 512)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": alexnet,
    "vgg16_bn": vgg16_bn,
    "squeezenet1_1": squeezenet1_1,
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    "densenet121": densenet121,
    "vovnet39": vovnet39,
    "cspdarknet": cspdarknet,
}
