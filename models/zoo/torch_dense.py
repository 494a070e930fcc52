# SPDX-License-Identifier: Apache-2.0
"""Networks that give pictures: segmentation, detection towers, super-resolution, generators, diffusion, video."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_layers import Branches, Chain, Residual, classifier, unit
from torch_residual import bottleneck


def double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(unit(inputs, outputs), unit(outputs, outputs))


class UNet(nn.Module):
    """Skip connections by concatenation, transposed convolutions on the way up."""

    widths = (64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(double(i, o) for i, o in zip((3, *self.widths), self.widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in self.widths[-2::-1])
        self.mix = nn.ModuleList(double(2 * w, w) for w in self.widths[-2::-1])
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for place, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if place else x)
            skips.append(x)
        for up, mix, skip in zip(self.up, self.mix, skips[-2::-1], strict=True):
            x = mix(torch.cat([skip, up(x)], 1))
        return self.head(x)


def backbone() -> nn.Module:
    """Stages of a ResNet-50 with one block each."""
    enter = nn.Sequential(unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), bottleneck(64, 64, 1))
    return Chain(enter, bottleneck(256, 128, 2), bottleneck(512, 256, 2), bottleneck(1024, 512, 2))


class RetinaNet(nn.Module):
    """A feature pyramid, and two towers whose weights all of its levels share."""

    def __init__(self, classes: int = 20) -> None:
        super().__init__()
        self.backbone = backbone()
        self.side = nn.ModuleList(nn.Conv2d(w, 256, 1) for w in (512, 1024, 2048))
        self.smooth = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1) for _ in range(3))
        self.classes, self.boxes = self.tower(9 * classes), self.tower(9 * 4)

    @staticmethod
    def tower(outputs: int) -> nn.Module:
        hidden = [layer for _ in range(4) for layer in (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Conv2d(256, outputs, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = [side(y) for side, y in zip(self.side, self.backbone(x)[1:], strict=True)]
        for place in (1, 0):
            levels[place] = levels[place] + functional.interpolate(levels[place + 1], scale_factor=2.0)
        levels = [smooth(y) for smooth, y in zip(self.smooth, levels, strict=True)]
        return self.flat(self.classes, levels, 20), self.flat(self.boxes, levels, 4)

    @staticmethod
    def flat(tower: nn.Module, levels: list[Tensor], width: int) -> Tensor:
        return torch.cat([tower(y).permute(0, 2, 3, 1).reshape(y.shape[0], -1, width) for y in levels], 1)


class DeepLab(nn.Module):
    """Atrous spatial pyramid pooling with a pooled branch that is enlarged again."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.pyramid = Branches(unit(2048, 256, 1), *(unit(2048, 256, 3, dilation=d) for d in (2, 4, 6)))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), unit(2048, 256, 1))
        self.project = unit(5 * 256, 256, 1)
        self.low = unit(256, 48, 1)
        self.head = nn.Sequential(unit(304, 256), nn.Conv2d(256, 21, 1))

    def forward(self, x: Tensor) -> Tensor:
        low, *_, high = self.backbone(x)
        pooled = functional.interpolate(self.pooled(high), size=(2, 2), mode="bilinear")
        y = self.project(torch.cat([self.pyramid(high), pooled], 1))
        y = torch.cat([functional.interpolate(y, scale_factor=8.0, mode="bilinear"), self.low(low)], 1)
        return functional.interpolate(self.head(y), scale_factor=4.0, mode="bilinear")


class Edsr(nn.Module):
    """Super-resolution: residual blocks without normalization, then pixel shuffle."""

    def __init__(self, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        plain = lambda: nn.Conv2d(width, width, 3, padding=1)  # noqa: E731 (a fresh module each time)
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(Residual(nn.Sequential(plain(), nn.ReLU(), plain())) for _ in range(blocks)), plain()
        )
        self.up = nn.Sequential(
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.up(y + self.body(y))


class Generator(nn.Module):
    """DCGAN's generator: a linear layer, a reshape to a picture, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(100, 512 * 4 * 4)
        layers: list[nn.Module] = []
        for inputs, outputs in ((512, 256), (256, 128), (128, 64)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(
            nn.BatchNorm2d(512), nn.ReLU(), *layers, nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh()
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.body(self.enter(noise).view(-1, 512, 4, 4))


def discriminator() -> nn.Module:
    """DCGAN's discriminator, flattened at 4x4."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
    for inputs, outputs in ((64, 128), (128, 256), (256, 512)):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(512 * 16, 1))


class Noised(nn.Module):
    """A diffusion U-Net's block: group normalization, SiLU, and the embedded time added in between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(32, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time = nn.Linear(256, outputs)
        self.second = nn.Sequential(nn.GroupNorm(32, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(x) + self.time(time)[:, :, None, None]
        return self.second(y) + self.shortcut(x)


class Diffusion(nn.Module):
    """A small denoising U-Net with attention at its lowest resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256))
        self.enter = nn.Conv2d(3, 64, 3, padding=1)
        self.down = nn.ModuleList([Noised(64, 64), Noised(64, 128)])
        self.shrink = nn.ModuleList([nn.Conv2d(64, 64, 3, 2, 1), nn.Conv2d(128, 128, 3, 2, 1)])
        self.norm = nn.GroupNorm(32, 128)
        self.attend = nn.MultiheadAttention(128, 4, batch_first=True)
        self.up = nn.ModuleList([Noised(256, 128), Noised(192, 64)])
        self.exit = nn.Sequential(nn.GroupNorm(32, 64), nn.SiLU(), nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        time = self.time(time)
        x, skips = self.enter(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x, time)
            skips.append(x)
            x = shrink(x)
        flat = self.norm(x).flatten(2).transpose(1, 2)
        x = x + self.attend(flat, flat, flat, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
        for block, skip in zip(self.up, skips[::-1], strict=True):
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), skip], 1), time)
        return self.exit(x)


class Yolo(nn.Module):
    """A detection neck and heads: SPPF, up- and downward paths, boxes decoded by a Split."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU
        self.enter = Chain(
            nn.Sequential(unit(3, 32, 3, 2, act=act), unit(32, 64, 3, 2, act=act), unit(64, 128, 3, 2, act=act)),
            unit(128, 256, 3, 2, act=act),
            unit(256, 512, 3, 2, act=act),
        )
        self.reduce, self.expand = unit(512, 256, 1, act=act), unit(1024, 512, 1, act=act)
        self.lateral = unit(512, 256, 1, act=act)
        self.joins = nn.ModuleList(unit(i, o, act=act) for i, o in ((512, 128), (256, 256)))
        self.down = unit(128, 128, 3, 2, act=act)
        self.heads = nn.ModuleList(nn.Conv2d(w, 3 * 25, 1) for w in (128, 256))

    def forward(self, x: Tensor) -> Tensor:
        _, middle, deep = self.enter(x)
        pooled = [self.reduce(deep)]
        for _ in range(3):
            pooled.append(functional.max_pool2d(pooled[-1], 5, 1, 2))
        top = self.lateral(self.expand(torch.cat(pooled, 1)))
        fine = self.joins[0](torch.cat([functional.interpolate(top, scale_factor=2.0), middle], 1))
        coarse = self.joins[1](torch.cat([self.down(fine), self.reduce_again(top)], 1))
        return torch.cat([self.decode(head, y) for head, y in zip(self.heads, (fine, coarse), strict=True)], 1)

    @staticmethod
    def reduce_again(top: Tensor) -> Tensor:
        return top[:, :128]  # a slice of the channels, as split-path necks take it

    @staticmethod
    def decode(head: nn.Module, x: Tensor) -> Tensor:
        y = head(x)
        batch, _, height, width = y.shape
        y = y.view(batch, 3, 25, height, width).permute(0, 1, 3, 4, 2)
        place, size, scores = y.sigmoid().split((2, 2, 21), -1)
        return torch.cat([place * 2 - 0.5, (size * 2) ** 2, scores], -1).reshape(batch, -1, 25)


def r3d18() -> nn.Module:
    """A 3-D ResNet with one block a stage."""

    def layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs))

    layers: list[nn.Module] = [
        nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(),
    ]
    channels = 64
    for width in (64, 128, 256, 512):
        stride = 1 if width == channels else 2
        side = (
            None
            if stride == 1
            else nn.Sequential(nn.Conv3d(channels, width, 1, stride, bias=False), nn.BatchNorm3d(width))
        )
        body = nn.Sequential(layer(channels, width, stride), nn.ReLU(), layer(width, width, 1))
        layers.append(Residual(body, side, nn.ReLU()))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(1), nn.Linear(512, 400))


def instance_style() -> nn.Module:
    """A style-transfer network: instance normalization and reflection padding."""

    def layer(inputs: int, outputs: int, size: int, stride: int) -> list[nn.Module]:
        norm = nn.InstanceNorm2d(outputs, affine=True)
        return [nn.ReflectionPad2d(size // 2), nn.Conv2d(inputs, outputs, size, stride), norm, nn.ReLU()]

    blocks = [Residual(nn.Sequential(*layer(128, 128, 3, 1), *layer(128, 128, 3, 1)[:-1])) for _ in range(3)]
    up = [nn.Upsample(scale_factor=2.0), *layer(128, 64, 3, 1), nn.Upsample(scale_factor=2.0), *layer(64, 32, 3, 1)]
    down = [*layer(3, 32, 9, 1), *layer(32, 64, 3, 2), *layer(64, 128, 3, 2)]
    return nn.Sequential(*down, *blocks, *up, nn.ReflectionPad2d(4), nn.Conv2d(32, 3, 9))


def maxout_gated() -> nn.Module:
    """Gated convolutions: GLU halves the channels after each layer."""
    layers = [layer for i, o in ((3, 64), (64, 128), (128, 256)) for layer in (nn.Conv2d(i, 2 * o, 3, 2, 1), nn.GLU(1))]
    return classifier(layers, 256, 10)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "retinanet_fpn": RetinaNet,
    "deeplab_aspp": DeepLab,
    "edsr": Edsr,
    "dcgan_generator": Generator,
    "dcgan_discriminator": discriminator,
    "diffusion_unet": Diffusion,
    "yolo_neck": Yolo,
    "r3d18": r3d18,
    "style_transfer": instance_style,
    "glu_cnn": maxout_gated,
}
