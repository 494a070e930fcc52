# SPDX-License-Identifier: Apache-2.0
"""Rounds the matrices of groups of nodes, by the moments of their inputs and of what they should give.

With X the inputs that the quantized layers before really give, rounded to activation codes, and Y what the original
gives, the matrix is first refitted to Y by least squares towards the original weights, which makes up for part of what
was lost before it, and then rounded by GPTQ to a code at most one from the code nearest to the original weight. The
bias takes the mean of what is left, so both minimize the error on centred inputs: X'X - n m m' with means m.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgefold.errors import ModelError
from edgefold.passes._least_squares import least_squares
from edgefold.passes._weighted_nodes import Float, WeightedNode, layer_inputs
from edgefold.passes.base import Calibrates, Skip, SkipReason
from edgefold.passes.quantization.activation_codes import UNSEEN
from edgefold.passes.quantization.coded_inputs import Coded
from edgefold.passes.quantization.codes import QuantizedMatrix, Rounding, quantize_matrix
from edgefold.passes.quantization.layer_evidence import Evidence, by_run, joined
from edgefold.passes.quantization.order import Stage
from edgefold.passes.quantization.shared_weights import WeightGroup
from edgefold.passes.quantization.shift_nodes import Activation

Double = npt.NDArray[np.float64]
Asked = dict[Coded, list[WeightedNode]]

_MOMENT_BYTES = 192 << 20
"""Second moments held at once; every portion of them costs one more run over the calibration data."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What became of one group.

    Attributes:
        group: the nodes.
        matrix: their common matrix.
        corrections: for each node what to add to its bias, float32 [N]; empty without moments.
        error: mean squared error of the nodes' outputs over their variance; None without moments.
        fallbacks: a Skip where a simpler rounding had to do.
    """

    group: WeightGroup
    matrix: QuantizedMatrix
    corrections: Mapping[ir.Node, Float] = dataclasses.field(default_factory=dict)
    error: float | None = None
    fallbacks: Sequence[Skip] = ()

    def without_new_biases(self) -> Quantized:
        """The same without corrections of nodes that have no bias so far."""
        biased = {site.node for site in self.group.sites if site.bias is not None}
        return dataclasses.replace(
            self, corrections={node: c for node, c in self.corrections.items() if node in biased}
        )


def round_stage(
    stage: Stage,
    rounding: Rounding,
    activations: Mapping[ir.Node, Activation],
    now: Calibrates | None,
    original: Calibrates | None,
) -> Iterator[Quantized]:
    """Rounds the matrices of a stage, one at a time.

    Args:
        stage: groups and targets.
        rounding: `nearest` needs no calibration.
        activations: codes of every node.
        now: of the model with all earlier stages replaced.
        original: of the model before.
    """
    for portion in _portions(stage.groups):
        asked: Asked = {}
        for site in (site for group in portion for site in group.sites if site.kind != "gather"):
            asked.setdefault(_coded(site, activations), []).append(site)
        found: dict[ir.Node, Evidence] = {}
        failures: dict[ir.Node, str] = {}
        if rounding != "nearest" and now is not None and original is not None:
            found, failures = _observe(stage, asked, now, original)
        for group in portion:
            evidence = {site.node: found[site.node] for site in group.sites if site.node in found}
            instead = "rounded for the other nodes that apply its matrix" if evidence else "nearest"
            failed = [(site.label, failures[site.node]) for site in group.sites if site.node in failures]
            skips = [Skip(label, SkipReason.FALLBACK, f"{why}: {instead}") for label, why in failed]
            yield dataclasses.replace(_round(group, rounding, evidence), fallbacks=skips)


def _round(group: WeightGroup, rounding: Rounding, found: Mapping[ir.Node, Evidence]) -> Quantized:
    """Rounds one matrix by the evidence of its readers, to nearest where there is none."""
    weight = group.sites[0].matrix()
    readers = list(found.values())
    same = [reader for reader in readers if reader.runs == readers[0].runs]
    sums = [reader.centred() for reader in same]
    second: Double = np.add.reduce([second for second, _ in sums]) if sums else np.zeros(1)
    if not second.any():
        return Quantized(group, quantize_matrix(weight, group.bits, group.method))
    fitted = weight
    dampings = [reader.damping() for reader in same]
    if None not in dampings:
        cross = np.add.reduce([cross for _, cross in sums])
        ridge = max(damping for damping in dampings if damping is not None)
        fitted = joined(least_squares(second, cross, damping=ridge, prior=same[0].weight))
    matrix = quantize_matrix(fitted, group.bits, group.method, second_moment=second, rounding=rounding, original=weight)
    rounded = matrix.dequantize()
    corrections = {node: reader.correction(by_run(rounded, reader.runs)) for node, reader in found.items()}
    error = float(np.mean([reader.error(by_run(rounded, reader.runs)) for reader in readers]))
    return Quantized(group, matrix, corrections, error)


def _coded(site: WeightedNode, activations: Mapping[ir.Node, Activation]) -> Coded:
    inputs = layer_inputs(site)
    assert inputs is not None
    return Coded(inputs, activations[site.node], site.node.graph)


def _moment_bytes(group: WeightGroup) -> int:
    site = group.sites[0]
    runs = site.geometry.group if site.geometry else 1
    return 2 * 8 * runs * site.k * site.k * sum(one.kind != "gather" for one in group.sites)


def _portions(groups: Sequence[WeightGroup]) -> Iterator[list[WeightGroup]]:
    portion: list[WeightGroup] = []
    held = 0
    for group in groups:
        size = _moment_bytes(group)
        if portion and held + size > _MOMENT_BYTES:
            yield portion
            portion, held = [], 0
        portion.append(group)
        held += size
    if portion:
        yield portion


def _observe(
    stage: Stage, asked: Asked, now: Calibrates, original: Calibrates
) -> tuple[dict[ir.Node, Evidence], dict[ir.Node, str]]:
    """The evidence of each node, and the reason for each that calibration knows nothing of."""
    if not asked:
        return {}, {}
    try:
        targets = {request: [stage.targets[site.node] for site in sites] for request, sites in asked.items()}
        moments = now.regressions(targets, original)
    except ModelError as error:
        if len(asked) == 1:
            return {}, {site.node: str(error) for sites in asked.values() for site in sites}
        items = list(asked.items())
        half = len(items) // 2
        left, wrong = _observe(stage, dict(items[:half]), now, original)
        right, more = _observe(stage, dict(items[half:]), now, original)
        return {**left, **right}, {**wrong, **more}
    found: dict[ir.Node, Evidence] = {}
    for request, halves in moments.items():
        start = 0
        for site in asked[request]:  # the targets of nodes that read the same stand side by side
            end = start + site.n // len(halves.even.sums)
            found[site.node] = Evidence.of(site, halves.targets(slice(start, end)))
            start = end
    return found, {one.node: UNSEEN for sites in asked.values() for one in sites if one.node not in found}
