# SPDX-License-Identifier: Apache-2.0
"""Recurrent nets, speech, text, points, tables: what is not a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_layers import Residual
from torch_residual import basic, resnet


class Recurrent(nn.Module):
    """Stacked recurrent layers on features, then a classifier for every step (``steps``) or for the last one."""

    def __init__(self, kind: type[nn.RNNBase], width: int, both: bool = False, steps: bool = False) -> None:
        super().__init__()
        self.rnn = kind(80, width, 2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(width * (2 if both else 1), 40)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(x)
        return self.head(y if self.steps else y[:, -1])


class Tagger(nn.Module):
    """Embedded words, a bidirectional LSTM, a label for every word."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 128)
        self.rnn = nn.LSTM(128, 128, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(256, 128), nn.Tanh(), nn.Linear(128, 20))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


class Crnn(nn.Module):
    """Text recognition: convolutions, the height folded into the features, an LSTM along the width."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, pool in ((64, 2), (128, 2), (256, (2, 1)), (256, (2, 1))):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(pool)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.rnn = nn.LSTM(512, 128, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, 97)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.head(self.rnn(y.permute(0, 3, 1, 2).flatten(2))[0])


class ConvolutionModule(nn.Module):
    """Conformer: pointwise, GLU, depthwise over time, pointwise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.body = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1), nn.GLU(1), nn.Conv1d(width, width, 15, padding=7, groups=width),
            nn.BatchNorm1d(width), nn.SiLU(), nn.Conv1d(width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.norm(x).transpose(1, 2)).transpose(1, 2)


def feed_forward(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))


class ConformerBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = feed_forward(width), feed_forward(width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.convolve = ConvolutionModule(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x) / 2
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        x = x + self.convolve(x)
        return self.last(x + self.second(x) / 2)


class Conformer(nn.Module):
    """Strided convolutions over time and mels, folded to features, conformer blocks."""

    def __init__(self, width: int = 144) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU())
        self.fold = nn.Linear(20 * width, width)
        self.blocks = nn.Sequential(*(ConformerBlock(width, 4) for _ in range(3)))
        self.head = nn.Linear(width, 128)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x.unsqueeze(1)).transpose(1, 2).flatten(2)
        return self.head(self.blocks(self.fold(y)))


class GatedTime(nn.Module):
    """WaveNet: tanh times sigmoid of one dilated convolution, a residual and a skip path."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.convolve = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.convolve(x).chunk(2, 1)
        y = torch.tanh(value) * torch.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 1)
        self.layers = nn.ModuleList(GatedTime(width, 2**n) for n in range(6))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.head(sum(skips[1:], skips[0]))


def temporal(width: int = 128) -> nn.Module:
    """A dilated one-dimensional residual network (TCN)."""

    def body(dilation: int) -> nn.Module:
        layer = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        return nn.Sequential(layer, nn.ReLU(), nn.Conv1d(width, width, 1))

    blocks = [Residual(body(2**n), None, nn.ReLU()) for n in range(4)]
    return nn.Sequential(nn.Conv1d(40, width, 1), *blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(width, 35))


class Transform(nn.Module):
    """PointNet's T-net: predicts a matrix that turns its input."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.features = nn.Sequential(
            nn.Conv1d(size, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 256, 1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, size * size))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.head(self.features(x).amax(2)).view(-1, self.size, self.size)
        return torch.bmm(x.transpose(1, 2), matrix + torch.eye(self.size)).transpose(1, 2)


def pointnet() -> nn.Module:
    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU()]

    head = [nn.Linear(1024, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 40)]
    body = [Transform(3), *layer(3, 64), Transform(64), *layer(64, 128), *layer(128, 1024)]
    return nn.Sequential(*body, nn.AdaptiveMaxPool1d(1), nn.Flatten(1), *head)


class Siamese(nn.Module):
    """Two pictures through one network; the features are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(*list(resnet(basic, (1, 1, 1, 1), 1).children())[:-1], nn.Linear(512, 128))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return functional.cosine_similarity(self.tower(a), self.tower(b))


class Translator(nn.Module):
    """torch's own encoder and decoder, with cross-attention."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.embed = nn.Embedding(300, width)
        self.body = nn.Transformer(width, 4, 2, 2, 512, 0.0, batch_first=True)
        self.head = nn.Linear(width, 300)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(self.embed(source), self.embed(target)))


class GraphNet(nn.Module):
    """Two graph convolutions on a dense adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 7)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.second(torch.relu(adjacency @ self.first(x)))


class Recommender(nn.Module):
    """DLRM: embedded categories and dense features, their pairwise products, and two perceptrons."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, width) for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, width), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(width + 25, 256), nn.ReLU(), nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        y = self.bottom(dense)
        features = torch.stack([y, *(table(ids[:, n]) for n, table in enumerate(self.tables))], 1)
        return self.top(torch.cat([y, (features @ features.transpose(1, 2)).flatten(1)], 1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lstm_classifier": lambda: Recurrent(nn.LSTM, 256),
    "gru_bidirectional": lambda: Recurrent(nn.GRU, 128, both=True, steps=True),
    "rnn_elman": lambda: Recurrent(nn.RNN, 128, steps=True),
    "lstm_tagger": Tagger,
    "crnn": Crnn,
    "conformer": Conformer,
    "wavenet": WaveNet,
    "tcn": temporal,
    "pointnet": pointnet,
    "siamese": Siamese,
    "nn_transformer": Translator,
    "gcn": GraphNet,
    "dlrm": Recommender,
    "mlp": perceptron,
}
