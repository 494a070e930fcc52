# SPDX-License-Identifier: Apache-2.0
"""The Attention operator of opset 23, as newer exporters write it; without a cache of past keys."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from edgefold.heal.operators.node import Binding, BoundNode, Kernel, UnsupportedNodeError

_ATTRIBUTES = (
    "is_causal",
    "kv_num_heads",
    "q_num_heads",
    "scale",
    "softcap",
    "softmax_precision",
    "qk_matmul_output_mode",
)


def _attention(node: BoundNode) -> Kernel:
    if any(node.has(position) for position in (4, 5, 6)) or any(node.reads_output(place) for place in (1, 2, 3)):
        raise UnsupportedNodeError("keeps past keys or gives its scores; export the model without a cache")
    unknown = [name for name in node.node.attributes if name not in _ATTRIBUTES]
    if unknown or node.real("softcap", 0.0):
        raise UnsupportedNodeError(f"has the attribute {(unknown or ['softcap'])[0]}, which has no trainable form here")
    heads, key_heads = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
    causal = bool(node.integer("is_causal", 0))
    stated_scale = node.real("scale", 0.0)

    def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        flat = q.dim() == 3
        if flat:
            q, k, v = _by_head(q, heads), _by_head(k, key_heads), _by_head(v, key_heads)
        if q.shape[1] != k.shape[1]:  # several heads of queries share one of keys
            share = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        scores = torch.matmul(q, k.transpose(2, 3)) * (stated_scale or 1 / math.sqrt(q.shape[-1]))
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        alone = torch.isneginf(scores).all(-1, keepdim=True)  # a row that may look at nothing gives zeros, not NaN
        y = torch.matmul(torch.softmax(scores.masked_fill(alone, 0), -1).masked_fill(alone, 0), v)
        return y.transpose(1, 2).flatten(2) if flat else y

    return kernel


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


OPERATORS: Mapping[str, Binding] = {"Attention": _attention}
