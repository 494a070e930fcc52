# SPDX-License-Identifier: Apache-2.0
"""Several weight widths in one file: which nodes get them, and what a width is worth."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph, nodes, run, weights

from edgefold.passes import Context
from edgefold.passes.quantization.codes import quantize_matrix
from edgefold.passes.quantization.narrow_widths import narrow_widths, narrowed
from edgefold.passes.quantize import Quantize

THREE_LAYERS = """g (float[N, 64] x) => (float[N, 64] y) {
    a = MatMul(x, w1)
    b = Relu(a)
    c = MatMul(b, w2)
    d = Relu(c)
    y = MatMul(d, w3)
}"""


def quantized(**options: object) -> ir.Model:
    model = graph(THREE_LAYERS, {f"w{seed}": weights(64, 64, seed=seed) for seed in (1, 2, 3)})
    Quantize(weights=8, method="shift", **options).rewrite(model, Context())
    return model


def layers(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "ShiftMatMul"]


def test_layers_between_the_first_and_the_last_get_the_further_widths() -> None:
    first, middle, last = layers(quantized(widths=(4, 8, 6)))
    assert middle.attributes.get_ints("narrow_bits") == (6, 4)
    assert len(middle.attributes.get_floats("narrow_scales")) == 2 * 64
    assert "narrow_bits" not in first.attributes
    assert "narrow_bits" not in last.attributes


def test_stock_onnxruntime_takes_no_notice_of_them() -> None:
    several, one = quantized(widths=(8, 4)), quantized()
    assert nodes(several) == nodes(one)
    assert all("narrow_bits" not in node.attributes for node in layers(one))
    feeds = {"x": weights(3, 64)}
    np.testing.assert_array_equal(run(several, feeds)[0], run(one, feeds)[0])


@pytest.mark.parametrize("options", [{"weights": 4, "method": "shift"}, {"weights": 8, "method": "shift-lut"}])
def test_other_codes_cannot_be_rounded(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"shift-lut ends at 6 bits|set weights to 8"):
        Quantize(**options, widths=(8, 4))


@pytest.mark.parametrize("bits", [6, 4])
def test_a_width_comes_close_to_a_matrix_of_its_own(bits: int) -> None:
    """Squared errors of normal weights: 1.21 times that of `shift` at 6 bits, 1.08 at 4."""
    weight = weights(256, 40)
    matrix = quantize_matrix(weight, 8, "shift")
    narrow = narrow_widths(weight, matrix, (bits,))
    error = np.square(weight - narrowed(matrix.integers(), bits) * narrow.scales[0]).sum()
    own = np.square(weight - quantize_matrix(weight, bits, "shift").dequantize()).sum()
    assert error < 1.25 * own


def test_codes_of_several_tables_have_one_width() -> None:
    weight = weights(64, 64)
    assert narrow_widths(weight, quantize_matrix(weight, 4, "shift"), (3,)).bits == ()
