# SPDX-License-Identifier: Apache-2.0
"""Residual networks: ResNet and what descends from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch_layers import Residual, SqueezeExcite, classifier, conv, unit

Block = Callable[[int, int, int], nn.Module]  # inputs, width of the stage, stride


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    return None if inputs == outputs and stride == 1 else unit(inputs, outputs, 1, stride, act=None)


def basic(inputs: int, width: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions (ResNet-18)."""
    body = nn.Sequential(unit(inputs, width, 3, stride), unit(width, width, act=None))
    return Residual(body, shortcut(inputs, width, stride), nn.ReLU())


def bottleneck(
    inputs: int, width: int, stride: int, *, groups: int = 1, inner: float = 1.0, squeeze: bool = False
) -> nn.Module:
    """1x1, 3x3, 1x1 (ResNet-50); grouped and wider for ResNeXt and Wide ResNet, gated for SE-ResNet."""
    middle, outputs = int(width * inner), 4 * width
    layers = [unit(inputs, middle, 1), unit(middle, middle, 3, stride, groups), unit(middle, outputs, 1, act=None)]
    gate = [SqueezeExcite(outputs, outputs // 16)] if squeeze else []
    return Residual(nn.Sequential(*layers, *gate), shortcut(inputs, outputs, stride), nn.ReLU())


class Preactivated(nn.Module):
    """Normalization and activation before each convolution (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(conv(inputs, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(), conv(width, width))
        self.shortcut = conv(inputs, width, 1, stride) if inputs != width or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        ready = self.head(x)
        return self.body(ready) + (self.shortcut(ready) if self.shortcut else x)


class Hierarchical(nn.Module):
    """The middle of a Res2Net block: split, convolve each part plus the one before, concatenate."""

    def __init__(self, channels: int, parts: int = 4) -> None:
        super().__init__()
        self.width = channels // parts
        self.units = nn.ModuleList(unit(self.width, self.width) for _ in range(parts - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = torch.split(x, self.width, 1)
        found = [first]
        for part, layer in zip(rest, self.units, strict=True):
            found.append(layer(part if len(found) == 1 else part + found[-1]))
        return torch.cat(found, 1)


def res2(inputs: int, width: int, stride: int) -> nn.Module:
    """A Res2Net bottleneck: 26 channels for every 16, in four parts."""
    middle, outputs = 4 * (26 * width // 64), 4 * width
    down = nn.AvgPool2d(stride, stride) if stride > 1 else nn.Identity()
    body = nn.Sequential(unit(inputs, middle, 1), down, Hierarchical(middle), unit(middle, outputs, 1, act=None))
    return Residual(body, shortcut(inputs, outputs, stride), nn.ReLU())


def resnet(block: Block, depths: tuple[int, ...], expansion: int, tail: bool = False) -> nn.Module:
    """Stem, four stages of doubling width, classifier. ``tail``: normalize once more before pooling."""
    layers: list[nn.Module] = [unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(depths):
        for place in range(depth):
            layers.append(block(channels, 64 << stage, 2 if stage and not place else 1))
            channels = expansion * (64 << stage)
    layers += [nn.BatchNorm2d(channels), nn.ReLU()] if tail else []
    return classifier(layers, channels)


def regnet(widths: tuple[int, ...], depths: tuple[int, ...], group_width: int, squeeze: bool) -> nn.Module:
    """RegNet X, and Y with gates: the residual stream is as wide as the grouped convolution."""
    layers: list[nn.Module] = [unit(3, 32, 3, 2)]
    channels = 32
    for width, depth in zip(widths, depths, strict=True):
        for place in range(depth):
            stride = 1 if place else 2
            gate = [SqueezeExcite(width, channels // 4)] if squeeze else []
            body = nn.Sequential(
                unit(channels, width, 1),
                unit(width, width, 3, stride, width // group_width),
                *gate,
                unit(width, width, 1, act=None),
            )
            layers.append(Residual(body, shortcut(channels, width, stride), nn.ReLU()))
            channels = width
    return classifier(layers, channels)


class RepVggBlock(nn.Module):
    """3x3, 1x1 and identity in parallel, each normalized, as it is trained."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.square = unit(inputs, outputs, 3, stride, act=None)
        self.point = unit(inputs, outputs, 1, stride, act=None)
        self.same = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.square(x) + self.point(x)
        return torch.relu(total + self.same(x) if self.same else total)


def repvgg() -> nn.Module:
    layers: list[nn.Module] = [RepVggBlock(3, 48, 2)]
    channels = 48
    for width, depth in ((48, 2), (96, 4), (192, 14), (1280, 1)):
        for place in range(depth):
            layers.append(RepVggBlock(channels, width, 1 if place else 2))
            channels = width
    return classifier(layers, channels)


class Tree(nn.Module):
    """Aggregation of two blocks and their input, as in Deep Layer Aggregation."""

    def __init__(self, inputs: int, outputs: int, stride: int, levels: int = 1) -> None:
        super().__init__()
        make = partial(Tree, levels=levels - 1) if levels > 1 else basic
        self.first, self.second = make(inputs, outputs, stride), make(outputs, outputs, 1)
        self.root = unit(2 * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(first)
        return self.root(torch.cat([second, first], 1))


def dla34() -> nn.Module:
    stem = [unit(3, 16, 7), unit(16, 16), unit(16, 32, 3, 2)]
    trees = [Tree(32, 64, 2, 1), Tree(64, 128, 2, 2), Tree(128, 256, 2, 2), Tree(256, 512, 2, 1)]
    return classifier([*stem, *trees], 512)


class Exchange(nn.Module):
    """One HRNet module: a residual branch for each resolution, then every branch sums over all of them."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(basic(w, w, 1), basic(w, w, 1)) for w in widths)
        self.fuse = nn.ModuleList(
            nn.ModuleList(self.path(widths, i, j) for i in range(len(widths))) for j in range(len(widths))
        )

    @staticmethod
    def path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            scale = float(2 ** (source - target))
            return nn.Sequential(unit(widths[source], widths[target], 1, act=None), nn.Upsample(scale_factor=scale))
        steps = [unit(widths[source], widths[source], 3, 2) for _ in range(target - source - 1)]
        return nn.Sequential(*steps, unit(widths[source], widths[target], 3, 2, act=None))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        ys = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        found = []
        for paths in self.fuse:
            total = paths[0](ys[0])
            for path, y in zip(list(paths)[1:], ys[1:], strict=True):
                total = total + path(y)
            found.append(torch.relu(total))
        return found


class HrNet(nn.Module):
    """HRNet-W18 with one module a stage."""

    widths = (18, 36, 72, 144)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(3, 64, 3, 2), unit(64, 64, 3, 2), bottleneck(64, 64, 1))
        self.enter = nn.ModuleList([unit(256, 18), *(unit(w, 2 * w, 3, 2) for w in self.widths[:-1])])
        self.stages = nn.ModuleList(Exchange(self.widths[: n + 1]) for n in range(4))
        self.head = unit(sum(self.widths), 256, 1)
        self.classify = nn.Linear(256, 1000)

    def forward(self, x: Tensor) -> Tensor:
        xs = [self.enter[0](self.stem(x))]
        for place, stage in enumerate(self.stages):
            xs = stage(xs if place == 0 else [*xs, self.enter[place](xs[-1])])
        scaled = [nn.functional.interpolate(x, scale_factor=float(2**n), mode="nearest") for n, x in enumerate(xs)]
        return self.classify(self.head(torch.cat(scaled, 1)).mean((2, 3)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet(basic, (2, 2, 2, 2), 1),
    "resnet50": lambda: resnet(bottleneck, (3, 4, 6, 3), 4),
    "resnext50_32x4d": lambda: resnet(partial(bottleneck, groups=32, inner=2.0), (3, 4, 6, 3), 4),
    "wide_resnet50_2": lambda: resnet(partial(bottleneck, inner=2.0), (3, 4, 6, 3), 4),
    "preact_resnet18": lambda: resnet(Preactivated, (2, 2, 2, 2), 1, tail=True),
    "se_resnet50": lambda: resnet(partial(bottleneck, squeeze=True), (3, 4, 6, 3), 4),
    "res2net50": lambda: resnet(res2, (3, 4, 6, 3), 4),
    "regnet_x_400mf": lambda: regnet((32, 64, 160, 400), (1, 2, 7, 12), 16, squeeze=False),
    "regnet_y_400mf": lambda: regnet((48, 104, 208, 440), (1, 3, 6, 6), 8, squeeze=True),
    "repvgg_a0": repvgg,
    "dla34": dla34,
    "hrnet_w18_small": HrNet,
}
