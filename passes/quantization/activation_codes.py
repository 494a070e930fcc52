# SPDX-License-Identifier: Apache-2.0
"""Chooses, node by node, how activations become codes of 4, 6 or 8 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._layer_inputs import Rows
from edgefold.passes._ranges import Range
from edgefold.passes._weighted_nodes import WeightedNode
from edgefold.passes.base import Calibrates, Skip, SkipReason
from edgefold.passes.quantization.channel_shifts import choose_dynamic, choose_static
from edgefold.passes.quantization.shift_nodes import FLOAT_ACTIVATION, Activation
from edgefold.passes.quantization.step_costs import Float

_SAMPLED = 1 << 19  # elements of a layer's input by which narrow codes are chosen
MOST_GROUPS = 8
STAYS_FLOAT = "activations stay float"  # of a convolution, which is no faster then
UNSEEN = "no calibration data reached it"
_FEWEST_ROWS, _MOST_ROWS = 4096, 8192  # a step for a channel that is rarely active needs many rows


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for the activations of one node.

    Attributes:
        kind: codes with one scale for all rows, with one scale a row, or none; `usual` is static for a convolution
            and dynamic for the others.
        bits: 4, 6 or 8; of no meaning for `float`.
        groups: of input channels, at most, whose steps differ.
    """

    kind: Literal["float", "usual", "dynamic", "static"]
    bits: int = 8
    groups: int = MOST_GROUPS

    @classmethod
    def of(cls, option: int | str, groups: int = MOST_GROUPS) -> Wanted:
        """From the options of the pass: `float`, 6, `dynamic6` or `static6`, and the number of groups."""
        if isinstance(option, int):
            return cls("usual", option, groups)
        if option == "float":
            return cls("float")
        return cls("dynamic" if option.startswith("dynamic") else "static", int(option[-1]), groups)

    def is_static(self, site: WeightedNode) -> bool:
        """Whether the node gets one scale for all rows, as far as it can."""
        return self.kind == "static" or (self.kind == "usual" and site.kind == "conv")


def choose_activations(
    sites: Sequence[WeightedNode], wanted: Mapping[ir.Node, Wanted], calibration: Calibrates | None
) -> tuple[dict[ir.Node, Activation], list[Skip]]:
    """The activation codes of every node, and a Skip for each that gets less than was asked for.

    Args:
        sites: the nodes.
        wanted: for each.
        calibration: of the model that the nodes are in; gives the ranges of static codes and a sample for narrow ones.
    """
    chosen: dict[ir.Node, Activation] = {}
    skips: list[Skip] = []
    ranges = _ranges([str(one.data.name) for one in sites if _is_plain_static(one, wanted[one.node])], calibration)
    for site in sites:
        asked = wanted[site.node]
        if site.kind == "gather" or asked.kind == "float":
            chosen[site.node] = FLOAT_ACTIVATION
        elif site.kind == "conv" and asked.kind == "dynamic":
            chosen[site.node] = FLOAT_ACTIVATION
            skips.append(
                Skip(site.label, SkipReason.FALLBACK, "a convolution has no dynamic activations: they stay float")
            )
        elif asked.is_static(site) or asked.bits < 8:
            found = _observed(site, asked, ranges, calibration)
            chosen[site.node] = found if isinstance(found, Activation) else _substitute(site, asked)
            if not isinstance(found, Activation):
                skips.append(found)
        else:
            chosen[site.node] = _dynamic(asked.bits)
    return chosen, skips


def _is_plain_static(site: WeightedNode, asked: Wanted) -> bool:
    return site.kind != "gather" and asked.bits == 8 and asked.is_static(site)


def _observed(
    site: WeightedNode, asked: Wanted, ranges: Mapping[str, Range | str], calibration: Calibrates | None
) -> Activation | Skip:
    """Codes that calibration chooses; a Skip where it cannot."""
    if site.kind == "conv":
        instead = STAYS_FLOAT
    else:
        instead = "activations are quantized per row instead" if asked.is_static(site) else "no channel shifts"
    if calibration is None:
        return Skip(site.label, SkipReason.NO_CALIBRATION, instead)
    if asked.bits == 8:
        observed = ranges.get(str(site.data.name), UNSEEN)
        if isinstance(observed, Range) and observed.seen:
            return Activation(*observed.byte_codes())
        observed = UNSEEN if isinstance(observed, Range) else observed
        return Skip(site.label, SkipReason.FALLBACK, f"{observed}: {instead}")
    try:
        rows = sampled_rows(site, calibration)
    except ModelError as error:
        return Skip(site.label, SkipReason.FALLBACK, f"{error}: {instead}")
    choose = choose_static if asked.is_static(site) else choose_dynamic
    return choose(rows, channel_gram(site), asked.bits, asked.groups)


def _substitute(site: WeightedNode, asked: Wanted) -> Activation:
    return FLOAT_ACTIVATION if site.kind == "conv" else _dynamic(asked.bits)


def _dynamic(bits: int) -> Activation:
    high = 2 ** (bits - 1) - 1
    return Activation(-high, high, 0.0)


def sampled_rows(site: WeightedNode, calibration: Calibrates) -> Float:
    """Vectors of a layer's input channels, float32 [R, C]: positions of a convolution, rows of a matrix product.

    Raises:
        ModelError: no calibration data reach the layer.
    """
    axis = 1 if site.geometry is not None else -2 if site.on_left else -1
    request = Rows(str(site.data.name), axis)
    limit = int(np.clip(_SAMPLED // _channels(site), _FEWEST_ROWS, _MOST_ROWS))
    found = calibration.rows([request], limit)
    if request not in found or not found[request].size:
        raise ModelError(UNSEEN)
    rows: Float = found[request][0]
    return rows


def _channels(site: WeightedNode) -> int:
    if site.geometry is None:
        return site.k
    return site.k // int(np.prod(site.geometry.kernel)) * site.geometry.group


def channel_gram(site: WeightedNode) -> Float:
    """What errors of the input channels cost together: float32 [C, C], the sum of W W' over positions and outputs."""
    weight = site.matrix()
    if site.geometry is None:
        product: Float = weight @ weight.T
        return product
    group = site.geometry.group
    width = _channels(site) // group
    gram = np.zeros((group * width, group * width), np.float32)
    by_run = weight.reshape(-1, width, group, site.n // group)
    for run in range(group):
        part = slice(run * width, (run + 1) * width)
        gram[part, part] = np.einsum("tkn,tln->kl", by_run[:, :, run], by_run[:, :, run], optimize=True)
    return gram


def _ranges(tensors: Sequence[str], calibration: Calibrates | None) -> dict[str, Range | str]:
    """Ranges of tensors; the reason where one could not be observed; nothing without calibration."""
    if calibration is None or not tensors:
        return {}
    names = list(dict.fromkeys(tensors))
    try:
        return dict(calibration.ranges(names))
    except ModelError as error:
        if len(names) == 1:
            return {names[0]: str(error)}
        half = len(names) // 2
        return {**_ranges(names[:half], calibration), **_ranges(names[half:], calibration)}
