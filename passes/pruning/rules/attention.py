# SPDX-License-Identifier: Apache-2.0
"""Fused attention of the standard domain, since opset 23. Decomposed attention needs no rule of its own."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.groups import IntArray
from edgefold.passes.pruning.rules.site import Axes, OpaqueError, Rule, Site

_Heads = tuple[IntArray, IntArray, IntArray, IntArray]
"""Batch, heads, positions, size of a head."""


def attention(site: Site) -> Sequence[Axes | None]:
    """Query heads are key heads x repeats; queries and keys share the head size, values and results another."""
    flat = len(site.axes(0)) == 3
    query_heads, key_heads = site.integer("q_num_heads", 0), site.integer("kv_num_heads", 0)
    q, k, v = (_heads(site, index, key_heads if index else query_heads) for index in range(3))
    for one in (k, v):
        site.labels.union(q[0], one[0])
    site.freeze_all((q[2], k[2], v[2]), "it normalizes over the positions")
    if site.optional(6) is not None:
        site.freeze(q[0], "every sequence has a length of its own")
    site.labels.union(k[1], v[1])
    site.labels.union(q[3], k[3])
    group, _ = site.labels.split(q[1], (len(k[1]), len(q[1]) // len(k[1])))
    site.labels.union(group, k[1])
    y = (q[0], q[1], q[2], v[3])
    past = site.optional(4), site.optional(5)
    total = site.frozen(len(k[2]) + (0 if past[0] is None else len(past[0][2])), "past and present positions")
    for state, new in zip(past, (k, v), strict=True):
        if state is not None:
            site.union((*state[:2], *state[3:]), (*new[:2], *new[3:]))
            site.freeze(state[2], "past and present positions")
    if (mask := site.optional(3)) is not None:
        _mask(site, mask, (q[0], q[1], q[2], total))
    _count(site, flat)
    result = (y[0], y[2], site.labels.product((y[1], y[3]))) if flat else y
    present = [(*new[:2], total, *new[3:]) for new in (k, v)]
    return [result, *present, (q[0], q[1], q[2], total)]


def _heads(site: Site, index: int, heads: int) -> _Heads:
    """The four axes of an input, which may hold heads and their size as one."""
    axes = site.axes(index)
    if len(axes) == 4:
        return axes[0], axes[1], axes[2], axes[3]
    if len(axes) != 3 or heads < 1 or len(axes[2]) % heads:
        raise OpaqueError("its inputs are not laid out as the standard says")
    head, size = site.labels.split(axes[2], (heads, len(axes[2]) // heads))
    return axes[0], head, axes[1], size


def _mask(site: Site, mask: Axes, logits: Axes) -> None:
    """Broadcast to the logits; its last axis may be shorter than theirs."""
    for labels, target in zip(reversed(mask), reversed(logits), strict=False):
        if len(labels) == len(target):
            site.labels.union(labels, target)
        else:
            site.freeze(labels, "it is broadcast, or shorter than the positions")


def _count(site: Site, flat: bool) -> None:
    keys = site.keys(1, 1 if flat else 2)
    site.contraction((*site.keys(0), *keys))
    site.contraction((*site.keys(0, output=True), *keys))


def rotary_embedding(site: Site) -> Sequence[Axes]:
    """Pairs of head dimensions turn by one angle: (i, i + half), or (2i, 2i + 1) where interleaved."""
    x = site.axes(0)
    size = x[3] if len(x) == 4 else site.labels.split(x[2], (heads := _count_heads(site, x), len(x[2]) // heads))[1]
    turned = site.integer("rotary_embedding_dim", 0)
    if turned and turned != len(size):
        raise OpaqueError("it turns a part of every head")
    first, second = (size[::2], size[1::2]) if site.integer("interleaved", 0) else (*_halves(size),)
    site.labels.union(first, second)
    for index in (1, 2):
        site.labels.union(site.axes(index)[-1], first)
    sequence = x[2] if len(x) == 4 else x[1]
    site.freeze_all((x[0], sequence, *site.axes(1)[:-1], *site.axes(2)[:-1]), "every position has an angle of its own")
    return [x]


def _count_heads(site: Site, x: Axes) -> int:
    heads = site.integer("num_heads", 0)
    if heads < 1 or len(x[2]) % heads:
        raise OpaqueError("it does not say how many heads there are")
    return heads


def _halves(labels: IntArray) -> tuple[IntArray, IntArray]:
    return labels[: len(labels) // 2], labels[len(labels) // 2 :]


ATTENTION: dict[str, Rule] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
