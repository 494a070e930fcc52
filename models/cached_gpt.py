# SPDX-License-Identifier: Apache-2.0
"""A GPT with a key/value cache, in PyTorch, and its export: a step takes tokens and the past and gives logits and more.

``load_gpt`` reads the weights of a GPT that was exported without a cache, with the names of its parameters.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

Exporter = Literal["torchscript", "dynamo"]


@dataclasses.dataclass(frozen=True)
class Form:
    """Sizes of a GPT; ``key_heads`` heads of keys are shared by the ``heads`` of queries."""

    tokens: int
    positions: int
    width: int
    heads: int
    key_heads: int
    layers: int

    @property
    def depth(self) -> int:
        return self.width // self.heads


class CachedAttention(nn.Module):
    """Self-attention of new positions over the past and themselves."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.q_proj = nn.Linear(form.width, form.width)
        self.k_proj = nn.Linear(form.width, form.key_heads * form.depth)
        self.v_proj = nn.Linear(form.width, form.key_heads * form.depth)
        self.o_proj = nn.Linear(form.width, form.width)

    def forward(
        self, x: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        key = torch.cat([past_key, self._by_head(self.k_proj(x))], dim=2)
        value = torch.cat([past_value, self._by_head(self.v_proj(x))], dim=2)
        scores = self._by_head(self.q_proj(x)) @ self._repeated(key).transpose(-1, -2) / math.sqrt(self.form.depth)
        mixed = (scores + mask).softmax(-1) @ self._repeated(value)
        return self.o_proj(mixed.transpose(1, 2).reshape(x.shape)), key, value

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.form.depth).transpose(1, 2)

    def _repeated(self, x: torch.Tensor) -> torch.Tensor:
        share = self.form.heads // self.form.key_heads
        if share == 1:
            return x
        batch, heads, positions, depth = x.shape
        return x[:, :, None].expand(batch, heads, share, positions, depth).reshape(batch, -1, positions, depth)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(form.width)
        self.attn = CachedAttention(form)
        self.ln_2 = nn.LayerNorm(form.width)
        self.fc = nn.Linear(form.width, 4 * form.width)
        self.proj = nn.Linear(4 * form.width, form.width)

    def forward(
        self, x: torch.Tensor, past_key: torch.Tensor, past_value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mixed, key, value = self.attn(self.ln_1(x), past_key, past_value, mask)
        x = x + mixed
        return x + self.proj(functional.gelu(self.fc(self.ln_2(x)))), key, value


class CachedGPT(nn.Module):
    """Logits of new tokens, and the keys and values of all positions, from tokens and the past of every layer."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.wte = nn.Embedding(form.tokens, form.width)
        self.wpe = nn.Embedding(form.positions, form.width)
        self.h = nn.ModuleList(Block(form) for _ in range(form.layers))
        self.ln_f = nn.LayerNorm(form.width)
        self.head = nn.Linear(form.width, form.tokens, bias=False)

    def forward(self, input_ids: torch.Tensor, past: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        before, new = past[0].shape[2], input_ids.shape[1]
        own = torch.arange(new, device=input_ids.device) + before
        every = torch.arange(before + new, device=input_ids.device)
        mask = torch.where(every[None, :] <= own[:, None], 0.0, float("-inf"))[None, None]
        x = self.wte(input_ids) + self.wpe(own)
        present: list[torch.Tensor] = []
        for layer, block in enumerate(self.h):
            x, key, value = block(x, past[2 * layer], past[2 * layer + 1], mask)
            present += [key, value]
        return (self.head(self.ln_f(x)), *present)


def cache_names(form: Form, kind: Literal["past", "present"]) -> list[str]:
    """Names of the inputs or outputs that hold the cache."""
    return [f"{kind}.{layer}.{part}" for layer in range(form.layers) for part in ("key", "value")]


def load_gpt(path: Path, heads: int) -> CachedGPT:
    """The GPT whose export without a cache is at ``path``, as MatMul weights in the order of its layers."""
    proto = onnx.load(str(path))
    arrays = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    layers = 1 + max(int(found[1]) for name in arrays if (found := re.match(r"h\.(\d+)\.", name)))
    tokens, width = arrays["wte.weight"].shape
    model = CachedGPT(Form(tokens, len(arrays["wpe.weight"]), width, heads, heads, layers)).eval()
    matrices = [
        arrays[node.input[1]] for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] in arrays
    ]
    linear = [f"h.{layer}.{name}.weight" for layer in range(layers)
              for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "fc", "proj")]  # fmt: skip
    arrays |= {name: matrix.T for name, matrix in zip([*linear, "head.weight"], matrices, strict=True)}
    state = {name: torch.from_numpy(np.array(arrays[name])) for name in model.state_dict()}
    model.load_state_dict(state)
    return model


def export(model: CachedGPT, path: Path, exporter: Exporter) -> None:
    """Writes the model with dynamic batch, number of new tokens and length of the past."""
    form = model.form
    past = [torch.zeros(2, form.key_heads, 5, form.depth) for _ in range(2 * form.layers)]
    ids = torch.ones(2, 3, dtype=torch.long)
    names: dict[str, Any] = {
        "input_names": ["input_ids", *cache_names(form, "past")],
        "output_names": ["logits", *cache_names(form, "present")],
    }
    if exporter == "dynamo":
        batch, new, before = (torch.export.Dim(name) for name in ("batch", "new", "before"))
        shapes = ({0: batch, 1: new}, [{0: batch, 2: before} for _ in past])
        torch.onnx.export(
            model, (ids, past), str(path), dynamo=True, opset_version=21, verbose=False, dynamic_shapes=shapes, **names
        )
        return
    axes = {"input_ids": {0: "batch", 1: "new"}, "logits": {0: "batch", 1: "new"}}
    axes |= {name: {0: "batch", 2: "before"} for name in names["input_names"][1:]}
    axes |= {name: {0: "batch", 2: "positions"} for name in names["output_names"][1:]}
    torch.onnx.export(model, (ids, past), str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **names)
