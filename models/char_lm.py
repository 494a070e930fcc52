# SPDX-License-Identifier: Apache-2.0
"""Trains a small character language model on the text of Python's own language reference and writes ``char_lm/``.

The text is ``pydoc_data.topics`` of the standard library. The model is a pre-norm transformer of three layers whose
embedding is also its output matrix, with dynamic batch and length. Run ``python models/char_lm.py``
(a few minutes on one core).
"""

from __future__ import annotations

import math
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from exporting import describe, write_arrays, write_model
from torch import nn
from torch.nn import functional

SEED = 0
STEPS = 1200
BATCH = 32
CONTEXT = 128
WIDTH = 96
HEADS = 4
LAYERS = 3
FOLDER = Path(__file__).parent / "char_lm"


class Attention(nn.Module):
    """Causal self-attention with one matrix for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = self.input(x).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        return self.output(mixed)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.feed_forward_norm = nn.LayerNorm(WIDTH)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


class CharLm(nn.Module):
    """Character ids [batch, length] to logits [batch, length, characters]; about 0.35 million weights."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.05)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        mask = torch.where(places[None, :] > places[:, None], -1e4, 0.0)
        x = self.embedding(ids) + self.position(places)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) @ self.embedding.weight.T


def load_text() -> tuple[str, dict[str, np.ndarray]]:
    """Returns the alphabet and the text as uint8 ids in three parts, split by topic so that none shares a page."""
    names = sorted(topics)
    alphabet = "".join(sorted(set("".join(topics.values()))))
    order = np.random.default_rng(SEED).permutation(len(names))
    chosen = {"test": order[:8], "calib": order[8:16], "train": order[16:]}
    text = {part: "\n\n".join(topics[names[i]] for i in numbers) for part, numbers in chosen.items()}
    index = {character: number for number, character in enumerate(alphabet)}
    return alphabet, {part: np.array([index[c] for c in body], np.uint8) for part, body in text.items()}


def windows(ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts evenly spaced windows: inputs and, one character on, labels, both [count, CONTEXT]."""
    starts = np.linspace(0, len(ids) - CONTEXT - 1, count).astype(int)
    rows = starts[:, None] + np.arange(CONTEXT)
    return ids[rows], ids[rows + 1]


def train(ids: np.ndarray, characters: int) -> CharLm:
    """Trains with AdamW, 100 warm-up steps and a cosine schedule; returns the model in evaluation mode."""
    torch.manual_seed(SEED)
    text, model = torch.from_numpy(ids).long(), CharLm(characters)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=100 / STEPS)
    for step in range(STEPS):
        rows = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1)) + torch.arange(CONTEXT)
        loss = functional.cross_entropy(model(text[rows]).flatten(0, 1), text[rows + 1].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.3f} nats", flush=True)
    return model.eval()


def main() -> None:
    """Trains, exports and writes the arrays; ends with the hashes for ``models/README.md``."""
    torch.set_num_threads(1)
    alphabet, parts = load_text()
    model = train(parts["train"], len(alphabet))
    interface = {
        "input_names": ["input_ids"],
        "output_names": ["logits"],
        "dynamic_shapes": ({0: "batch", 1: "length"},),
    }
    example = torch.zeros(2, 16, dtype=torch.int64)
    write_model(model, example, FOLDER / "model.onnx", optimize=True, interface=interface)
    for name, count in (("test", 192), ("calib", 128)):
        x, y = windows(parts[name], count)
        write_arrays(FOLDER / f"{name}.npz", x=x, y=y)
        with torch.no_grad():
            logits = model(torch.from_numpy(x).long()).flatten(0, 1)
        loss = functional.cross_entropy(logits, torch.from_numpy(y).long().flatten())
        print(f"{name}: perplexity {math.exp(loss):.3f} of {x.size} characters")
    print(describe(FOLDER))


if __name__ == "__main__":
    main()
