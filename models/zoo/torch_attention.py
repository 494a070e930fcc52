# SPDX-License-Identifier: Apache-2.0
"""Vision transformers and their relatives, written as timm writes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_layers import Residual, classifier, unit


class Attention(nn.Module):
    """Fused q, k, v; the softmax is written out or left to scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class LayerScale(nn.Module):
    """A learnt factor for each channel, which ``after`` axes follow."""

    def __init__(self, width: int, after: int = 0) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width, *[1] * after))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def block(width: int, mixer: nn.Module, scaled: bool = False) -> nn.Module:
    """Pre-norm: mix the tokens, then the channels."""
    last = [LayerScale(width)] if scaled else []
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(width), mixer, *last)),
        Residual(
            nn.Sequential(nn.LayerNorm(width), feed_forward(width, 4 * width), *([LayerScale(width)] if scaled else []))
        ),
    )


class VisionTransformer(nn.Module):
    """ViT; with ``distilled`` a second token and head and layer scales, as in DeiT."""

    def __init__(self, width: int, heads: int, depth: int, distilled: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        extra = 2 if distilled else 1
        self.tokens = nn.Parameter(torch.randn(1, extra, width))
        self.places = nn.Parameter(torch.randn(1, 16 + extra, width))
        self.blocks = nn.Sequential(*(block(width, Attention(width, heads, fused), distilled) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, 1000) for _ in range(extra))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.tokens.expand(x.shape[0], -1, -1), patches], 1) + self.places
        y = self.norm(self.blocks(y))
        scores = [head(y[:, place]) for place, head in enumerate(self.heads)]
        return sum(scores[1:], scores[0]) / len(scores)


class TorchViT(nn.Module):
    """ViT with torch's own encoder layer and nn.MultiheadAttention, as torchvision writes it."""

    def __init__(self, width: int = 384, heads: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.places = nn.Parameter(torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))


class WindowAttention(nn.Module):
    """Swin: attention in 4x4 windows, cyclically shifted or not, with a bias for each relative position."""

    def __init__(self, width: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.heads, self.side, self.shift = heads, side, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(49, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        offset = grid[:, :, None] - grid[:, None] + 3
        self.register_buffer("index", (offset[0] * 7 + offset[1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        n = self.side // 4
        y = x.view(batch, self.side, self.side, width)
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        y = y.view(batch, n, 4, n, 4, width).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, width)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index].view(16, 16, -1).permute(2, 0, 1).unsqueeze(0)
        scores = q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1) + bias
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 16, width))
        y = y.view(-1, n, n, 4, 4, width).permute(0, 1, 3, 2, 4, 5).reshape(batch, self.side, self.side, width)
        y = torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y
        return y.reshape(batch, -1, width)


class Merge(nn.Module):
    """Swin's patch merging: four strided slices beside each other, normalized and narrowed."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.body = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], self.side, self.side, -1)
        corners = [y[:, ::2, ::2], y[:, 1::2, ::2], y[:, ::2, 1::2], y[:, 1::2, 1::2]]
        return self.body(torch.cat(corners, -1).flatten(1, 2))


class Swin(nn.Module):
    """Swin-T's widths, windows of 4 for pictures of 64x64, two blocks a stage, three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 96, 4, 4)
        layers: list[nn.Module] = []
        for width, heads, side in ((96, 3, 16), (192, 6, 8), (384, 12, 4)):
            layers += [Merge(width // 2, side * 2)] if width > 96 else []
            shifts = (0, 2) if side > 4 else (0, 0)
            layers += [block(width, WindowAttention(width, heads, side, shift)) for shift in shifts]
        self.body = nn.Sequential(*layers, nn.LayerNorm(384))
        self.head = nn.Linear(384, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Turned(nn.Module):
    """A module applied along the tokens instead of the channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.transpose(1, 2)).transpose(1, 2)


class Mixer(nn.Module):
    """MLP-Mixer S/16."""

    def __init__(self, width: int = 512, depth: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.Sequential(
            *(block(width, Turned(feed_forward(16, 256))) for _ in range(depth)), nn.LayerNorm(width)
        )
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class PoolMix(nn.Module):
    """PoolFormer's token mixer: the average of the neighbours less the pixel itself."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x


def poolformer() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width, size, stride in ((64, 7, 4), (128, 3, 2), (320, 3, 2), (512, 3, 2)):
        layers.append(nn.Conv2d(channels, width, size, stride, size // 2))
        for _ in range(2):
            hidden = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))
            layers.append(Residual(nn.Sequential(nn.GroupNorm(1, width), PoolMix(), LayerScale(width, 2))))
            layers.append(Residual(nn.Sequential(nn.GroupNorm(1, width), hidden, LayerScale(width, 2))))
        channels = width
    return classifier(layers, 512)


class MobileViTBlock(nn.Module):
    """A convolution, attention among pixels at the same place of their 2x2 patches, and a join with the input."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(unit(channels, channels, act=nn.SiLU), nn.Conv2d(channels, width, 1, bias=False))
        self.body = nn.Sequential(*(block(width, Attention(width, 4)) for _ in range(2)), nn.LayerNorm(width))
        self.exit, self.join = unit(width, channels, 1, act=nn.SiLU), unit(2 * channels, channels, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        batch, width, height, breadth = y.shape
        patches = y.reshape(batch * width * height // 2, 2, breadth // 2, 2).transpose(1, 2)
        patches = patches.reshape(batch, width, height * breadth // 4, 4).transpose(1, 3)
        patches = self.body(patches.reshape(batch * 4, -1, width)).reshape(batch, 4, -1, width).transpose(1, 3)
        patches = patches.reshape(batch * width * height // 2, breadth // 2, 2, 2).transpose(1, 2)
        return self.join(torch.cat([x, self.exit(patches.reshape(batch, width, height, breadth))], 1))


def mobilevit() -> nn.Module:
    layers = [unit(3, 16, 3, 2, act=nn.SiLU), unit(16, 64, 3, 2, act=nn.SiLU), unit(64, 96, 3, 2, act=nn.SiLU)]
    return classifier(
        [*layers, MobileViTBlock(96, 144), unit(96, 128, 3, 2, act=nn.SiLU), MobileViTBlock(128, 192)], 128
    )


class SpatialGate(nn.Module):
    """gMLP: half of the channels gate the other half across the tokens."""

    def __init__(self, hidden: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden // 2)
        self.mix = nn.Conv1d(tokens, tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = x.chunk(2, -1)
        return kept * self.mix(self.norm(gate))


class GatedMlp(nn.Module):
    """gMLP-S with four blocks."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        parts = lambda: [nn.LayerNorm(width), nn.Linear(width, 6 * width), nn.GELU(), SpatialGate(6 * width, 16)]  # noqa: E731
        self.body = nn.Sequential(*(Residual(nn.Sequential(*parts(), nn.Linear(3 * width, width))) for _ in range(4)))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class CrossCovariance(nn.Module):
    """XCiT: attention among channels, with a temperature for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.rand(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = qkv.unbind(0)
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        y = (q @ k.transpose(-2, -1) * self.temperature).softmax(-1) @ v
        return self.out(y.permute(0, 3, 1, 2).reshape(batch, tokens, width))


class Xcit(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.blocks = nn.Sequential(*(block(width, CrossCovariance(width, 4), scaled=True) for _ in range(4)))
        self.head = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit_small": lambda: VisionTransformer(384, 6, 6),
    "vit_small_sdpa": lambda: VisionTransformer(384, 6, 6, fused=True),
    "vit_torch_encoder": TorchViT,
    "deit_tiny_distilled": lambda: VisionTransformer(192, 3, 6, distilled=True),
    "swin_t": Swin,
    "mlp_mixer_s16": Mixer,
    "poolformer_s12": poolformer,
    "mobilevit_s": mobilevit,
    "gmlp_s16": GatedMlp,
    "xcit_t": Xcit,
}
