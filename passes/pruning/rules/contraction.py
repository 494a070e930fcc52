# SPDX-License-Identifier: Apache-2.0
"""Operators that multiply and sum: the axis summed over is read, the other axis of the weights is written."""

from __future__ import annotations

from collections.abc import Sequence

from edgefold.passes.pruning.groups import IntArray, Role
from edgefold.passes.pruning.rules.site import Axes, Rule, Site

_SPATIAL = "a spatial axis"


def conv(site: Site) -> Sequence[Axes]:
    """Weights [O, I/g, kernel]. X.1 = groups x I/g, Y.1 = W.0 = groups x O/g, one I/g for all groups."""
    x, w = site.axes(0), site.axes(1)
    groups = site.integer("group", 1)
    depthwise = groups > 1 and len(w[1]) == 1
    site.role(1, 0, Role.CHANNELWISE if depthwise else Role.WRITER)
    site.role(1, 1, Role.READER)
    _grouped(site, groups, x[1], w[1], w[0])
    site.freeze_all(w[2:], _SPATIAL)
    if (bias := site.optional(2)) is not None:
        site.labels.union(bias[0], w[0])
    site.contraction((*site.keys(0, output=True), *site.keys(1, *range(1, len(w)))))
    return [(x[0], w[0], *_windows(site, x[2:], w[2:]))]


def _windows(site: Site, x: Axes, kernel: Axes) -> Axes:
    """Output axes of a convolution: one that is only ever looked at index by index passes through."""
    strides = site.integers("strides") or (1,) * len(x)
    pads = site.integers("pads") or (0,) * 2 * len(x)
    result = []
    for axis, labels in enumerate(x):
        if len(kernel[axis]) == strides[axis] == 1 and pads[axis] == pads[axis + len(x)] == 0:
            result.append(labels)
            continue
        site.freeze(labels, _SPATIAL)
        result.append(site.frozen(site.shape()[axis + 2], _SPATIAL))
    return tuple(result)


def conv_transpose(site: Site) -> Sequence[Axes]:
    """Weights [I, O/g, kernel]. X.1 = W.0 = groups x I/g, Y.1 = groups x O/g."""
    x, w = site.axes(0), site.axes(1)
    groups = site.integer("group", 1)
    site.role(1, 0, Role.CHANNELWISE if groups > 1 and len(w[0]) == groups else Role.READER)
    site.role(1, 1, Role.WRITER)
    site.labels.union(x[1], w[0])
    group, _ = site.labels.split(x[1], (groups, len(x[1]) // groups))
    channels = site.labels.product((group, w[1]))
    for axis in (*w[2:], *x[2:]):
        site.freeze(axis, _SPATIAL)
    if (bias := site.optional(2)) is not None:
        site.labels.union(bias[0], channels)
    # Every input element meets every kernel element of every output channel of its group.
    site.contraction((*site.keys(0), *site.keys(1, *range(1, len(w)))))
    return [(x[0], channels, *(site.frozen(length, _SPATIAL) for length in site.shape()[2:]))]


def _grouped(site: Site, groups: int, read: IntArray, per_group: IntArray, written: IntArray) -> None:
    if groups == 1:
        site.labels.union(read, per_group)
        return
    group, inside = site.labels.split(read, (groups, len(read) // groups))
    site.labels.union(inside, per_group)
    out, _ = site.labels.split(written, (groups, len(written) // groups))
    site.labels.union(group, out)


def gemm(site: Site) -> Sequence[Axes]:
    """Y = alpha A' B' + beta C."""
    a, b = site.axes(0), site.axes(1)
    row = site.integer("transA", 0)
    column = 1 - site.integer("transB", 0)
    site.labels.union(a[1 - row], b[1 - column])
    site.role(0, row, Role.WRITER)
    site.role(0, 1 - row, Role.READER)
    site.role(1, column, Role.WRITER)
    site.role(1, 1 - column, Role.READER)
    product = (a[row], b[column])
    site.contraction((*site.keys(0, output=True), *site.keys(1, 1 - column)))
    c = site.optional(2)
    return [product if c is None else site.broadcast((product, c))]


def matmul(site: Site) -> Sequence[Axes]:
    """NumPy's matmul: 1-D operands lose their axis, leading axes broadcast."""
    a, b = site.axes(0), site.axes(1)
    site.labels.union(a[-1], b[-2:][0])
    site.role(0, len(a) - 1, Role.READER)
    site.role(1, max(len(b) - 2, 0), Role.READER)
    if len(a) > 1:
        site.role(0, len(a) - 2, Role.WRITER)
    if len(b) > 1:
        site.role(1, len(b) - 1, Role.WRITER)
    lead = site.broadcast((a[:-2], b[:-2])) if len(a) > 2 or len(b) > 2 else ()
    site.contraction((*site.keys(0, output=True), *site.keys(0, -1)))
    return [(*lead, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))]


CONTRACTION: dict[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
}
