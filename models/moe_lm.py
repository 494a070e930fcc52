# SPDX-License-Identifier: Apache-2.0
"""Trains a byte-level mixture-of-experts language model on the source of Python's own standard library.

Run ``python models/moe_lm.py FOLDER`` (about half an hour of one core). It is too large to be committed:
four layers of 16 SwiGLU experts, of which a router picks two for each byte. The folder gets the model, its task, and
``routing.json``: how the load spreads over the experts, and what each layer's experts have specialized in.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from char_lm import windows
from exporting import describe, write_arrays, write_model
from torch import nn
from torch.nn import functional

STEPS = 1500
BATCH = 24
CONTEXT = 128
WIDTH = 160
HEADS = 4
LAYERS = 4
EXPERTS = 16
HIDDEN = 256
CHOSEN = 2
BALANCE = 0.04
"""Weight of the load-balancing loss, experts * sum(share of bytes * mean probability) (Switch Transformer)."""

KINDS = {
    "letter": b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_",
    "digit": b"0123456789",
    "space": b" \t",
    "line end": b"\r\n",
}

TASK = """\
data: test.npz
inputs:
  input_ids: {array: x}
metric: {name: perplexity, output: logits, labels: y}
calibration: {data: calib.npz}
batch: 16
"""


class RmsNorm(nn.Module):
    """Root mean square normalization with a learnt scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    """Causal self-attention with one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = self.input(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        return self.output(mixed)


class Expert(nn.Module):
    """A SwiGLU feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Mixture(nn.Module):
    """A router and its experts: the two most probable serve a byte, weighted by their renormalized probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, WIDTH)
        probabilities = self.router(rows).softmax(-1)
        weights, chosen = probabilities.topk(CHOSEN, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        gates = torch.zeros_like(probabilities).scatter(1, chosen, weights)
        result = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            picked = gates[:, number].nonzero().squeeze(1)
            result = result.index_add(0, picked, expert(rows[picked]) * gates[picked, number, None])
        return result.reshape(x.shape)


class Block(nn.Module):
    """A pre-norm transformer block whose feed-forward network is a mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = RmsNorm()
        self.attention = Attention()
        self.mixture_norm = RmsNorm()
        self.mixture = Mixture()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mixture(self.mixture_norm(x))


class MoeLm(nn.Module):
    """Bytes [batch, length] to logits [batch, length, 256]; 8.3 million weights, 1.5 million used for a byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = RmsNorm()
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        mask = torch.where(places[None, :] > places[:, None], -1e4, 0.0)
        x = self.embedding(ids) + self.position(places)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) @ self.embedding.weight.T


@contextmanager
def router_logits(model: MoeLm) -> Iterator[list[torch.Tensor]]:
    """What each router gives in the model's latest run, while the block lasts: the exported graph must not hold it."""
    layers = [torch.zeros(0)] * LAYERS
    hooks = [
        block.mixture.router.register_forward_hook(lambda _module, _inputs, out, n=n: layers.__setitem__(n, out))
        for n, block in enumerate(model.blocks)
    ]
    yield layers
    for hook in hooks:
        hook.remove()


def imbalance(layers: list[torch.Tensor]) -> torch.Tensor:
    """The load-balancing loss, mean of the layers; 1 where all experts serve alike."""
    losses = []
    for logits in layers:
        chosen = functional.one_hot(logits.topk(CHOSEN, dim=-1).indices, EXPERTS).sum(1)
        losses.append(EXPERTS * (chosen.float().mean(0) / CHOSEN * logits.softmax(-1).mean(0)).sum())
    return torch.stack(losses).mean()


def load_text() -> dict[str, np.ndarray]:
    """The standard library's modules as bytes in three parts, split by module."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
    files = sorted(file for file in folder.rglob("*.py") if not skipped & set(file.relative_to(folder).parts))
    order = np.random.default_rng(0).permutation(len(files))
    chosen = {"test": order[:40], "calib": order[40:80], "train": order[80:]}
    return {
        part: np.frombuffer(b"\n\n".join(files[i].read_bytes() for i in numbers), np.uint8)
        for part, numbers in chosen.items()
    }


def train(text: np.ndarray, seed: int, steps: int, device: str) -> MoeLm:
    """Trains with AdamW, a short warm-up and a cosine schedule; returns the model in evaluation mode."""
    torch.manual_seed(seed)
    model = MoeLm().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.07)
    with router_logits(model) as logits:
        for step in range(steps):
            starts = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1))
            rows = torch.from_numpy(text[(starts + torch.arange(CONTEXT + 1)).numpy()].astype(np.int64)).to(device)
            loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            balance = imbalance(logits)
            optimizer.zero_grad()
            (loss + BALANCE * balance).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0:
                print(f"step {step}: {loss.item():.3f} nats, imbalance {balance.item():.3f}", flush=True)
    return model.eval().cpu()


def routing(model: MoeLm, x: np.ndarray) -> list[dict[str, object]]:
    """Of each layer: the share of bytes that every expert serves, and the mutual information of expert and byte.

    Mutual information, in bits, between the first choice and the kind of byte read (letter, digit, space, line end,
    other) and the byte itself; 0 where the router takes no notice of it.
    """
    kinds = np.full(256, len(KINDS))
    for number, members in enumerate(KINDS.values()):
        kinds[list(members)] = number
    with router_logits(model) as layers, torch.no_grad():
        model(torch.from_numpy(x).long())
    found: list[dict[str, object]] = []
    for logits in layers:
        chosen = logits.topk(CHOSEN, dim=-1).indices.numpy()
        load = np.bincount(chosen.ravel(), minlength=EXPERTS) / chosen.size
        found.append(
            {
                "load": [round(float(share), 4) for share in load],
                "bits about the kind of byte": round(mutual_information(chosen[:, 0], kinds[x.ravel()]), 3),
                "bits about the byte": round(mutual_information(chosen[:, 0], x.ravel()), 3),
            }
        )
    return found


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sequences of small integers, in bits."""
    joint = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / independent[seen])).sum())


def main() -> None:
    """Trains, exports, writes the arrays, and says how the experts have specialized."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = load_text()
    model = train(parts["train"], options.seed, options.steps, options.device)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.folder / "weights.pt")
    interface = {
        "input_names": ["input_ids"],
        "output_names": ["logits"],
        "dynamic_shapes": ({0: "batch", 1: "length"},),
    }
    write_model(
        model, torch.zeros(2, 16, dtype=torch.int64), options.folder / "model.onnx", optimize=True, interface=interface
    )
    (options.folder / "task.yaml").write_text(TASK)
    for name, count in (("test", 192), ("calib", 256), ("train", 4096)):
        x, y = windows(parts[name], count)
        write_arrays(options.folder / f"{name}.npz", x=x, y=y)
        if name == "train":  # to heal on
            continue
        with torch.no_grad():
            logits = model(torch.from_numpy(x).long()).flatten(0, 1)
        loss = functional.cross_entropy(logits, torch.from_numpy(y).long().flatten())
        print(f"{name}: perplexity {math.exp(loss):.3f} of {x.size} bytes")
        if name == "test":
            report = {"seed": options.seed, "steps": options.steps, "layers": routing(model, x)}
            (options.folder / "routing.json").write_text(json.dumps(report, indent=2) + "\n")
    print(describe(options.folder))


if __name__ == "__main__":
    main()
