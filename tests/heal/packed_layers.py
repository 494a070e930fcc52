# SPDX-License-Identifier: Apache-2.0
"""Graphs of quantized layers, as the pass `quantize` leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from torch_graphs import graph, weights

from edgefold.ops import add_functions
from edgefold.passes.quantization.codes import Method, QuantizedMatrix, quantize_matrix
from edgefold.passes.quantization.packing import pack_codes, pack_selectors

SIGNED, UNSIGNED, FLOAT = (-127, 127), (0, 255), (0, 0)


def matrix(k: int, n: int, bits: int = 4, method: Method = "shift", seed: int = 0) -> QuantizedMatrix:
    """Rows of very different size, so that groups choose different tables."""
    rows = np.geomspace(0.2, 2, k).astype(np.float32)
    return quantize_matrix(weights(k, n, seed=seed) * rows[:, None], bits, method)


def packed(weight: QuantizedMatrix, name: str = "w") -> dict[str, Any]:
    """The four tensors of a packed matrix, as a node reads them in this order."""
    tables = len(weight.table)
    return {
        f"{name}_codes": pack_codes(weight.codes, weight.bits),
        f"{name}_selectors": pack_selectors(weight.selectors, tables=tables),
        f"{name}_table": weight.table,
        f"{name}_scales": weight.scales,
    }


def layers(text: str, **tensors: Any) -> ir.Model:
    """A model of `ai.edgefold` nodes, with the functions that stock ONNX Runtime runs."""
    model = graph(text, **tensors)
    add_functions(model)
    return model


def linear(
    weight: QuantizedMatrix, codes: tuple[int, int] = SIGNED, x_scale: float = 0.0, x_shifts: Sequence[int] = (0,)
) -> ir.Model:
    """``y = ShiftMatMul(x)``; a scale of 0 is dynamic."""
    k, n = weight.codes.shape
    return layers(
        f"""net (float[B, {k}] x) => (float[B, {n}] y) {{
            y = ai.edgefold.ShiftMatMul<k = {k}, bits = {weight.bits}, activation_low = {codes[0]},
                activation_high = {codes[1]}>(x, w_codes, w_selectors, w_table, w_scales, bias, x_scale, x_shifts)
        }}""",
        **packed(weight),
        bias=weights(n, seed=1),
        x_scale=np.float32([x_scale]),
        x_shifts=np.uint8(x_shifts),
    )


def convolution(
    weight: QuantizedMatrix, group: int, codes: tuple[int, int], x_scale: float, x_shifts: Sequence[int] = (0,)
) -> ir.Model:
    """``y = ShiftConv(x)``, 3 x 2 with stride 2, padded unevenly; the channels follow from K and the group."""
    k, n = weight.codes.shape
    return layers(
        f"""net (float[B, {k // 6 * group}, 9, 8] x) => (float[B, {n}, 5, 8] y) {{
            y = ai.edgefold.ShiftConv<kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1], dilations = [1, 1],
                group = {group}, k = {k}, bits = {weight.bits}, activation_low = {codes[0]},
                activation_high = {codes[1]}>(x, w_codes, w_selectors, w_table, w_scales, bias, x_scale, x_shifts)
        }}""",
        **packed(weight),
        bias=weights(n, seed=1),
        x_scale=np.float32([x_scale]),
        x_shifts=np.uint8(x_shifts),
    )


def float_convolution(weight: QuantizedMatrix, group: int) -> ir.Model:
    """``y = FloatConv(x)`` of the geometry of `convolution`."""
    model = convolution(weight, group, FLOAT, 0.0)
    node = model.graph.node(0)
    node.op_type = "FloatConv"
    node.resize_inputs(6)
    for name in ("activation_low", "activation_high"):
        del node.attributes[name]
    for name in ("x_scale", "x_shifts"):
        del model.graph.initializers[name]
    add_functions(model)
    return model


def lookup(weight: QuantizedMatrix, rows: int) -> ir.Model:
    """``y = ShiftGather(ids)``: rows of an embedding table."""
    return layers(
        f"""net (int64[{rows}] ids) => (float[{rows}, {len(weight.codes)}] y) {{
            y = ai.edgefold.ShiftGather<k = {len(weight.codes)}, bits = {weight.bits}>(ids, w_codes, w_selectors,
                w_table, w_scales)
        }}""",
        **packed(weight),
    )
