# SPDX-License-Identifier: Apache-2.0
"""What is said of a model that cannot be trained."""

from __future__ import annotations

import onnx_ir as ir
import pytest

pytest.importorskip("torch", reason="healing needs torch: pip install 'edgefold[heal]'")

from edgefold.heal.engine import refusal

MODEL = """<ir_version: 10, opset_import: ["" : 21, "ai.edgefold" : 1]>
net (float[3, 3] x) => (float z) {{ z = ai.edgefold.{name}(x) }}
<domain: "ai.edgefold", opset_import: ["" : 21]>
{name} (x) => (z) {{ z = {operator}(x) }}"""


def model(name: str, operator: str) -> ir.Model:
    return ir.from_onnx_text(MODEL.format(name=name, operator=operator))


@pytest.mark.parametrize(("name", "told"), [("FusedConvBlock", True), ("Activation", False)])
def test_layers_that_were_joined_are_to_be_healed_before(name: str, told: bool) -> None:
    said = refusal(model(name, "Det"))
    assert said is not None
    assert "Det" in said
    assert ("before the step fuse-blocks" in said) == told


def test_text_is_refused_by_the_name_of_its_input() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    net (string[n] tag, float[n, 3] x) => (float[n, 3] y, string[n] same) { y = Relu(x) same = Identity(tag) }"""
    assert refusal(ir.from_onnx_text(text)) == "the model cannot be trained: input 'tag' holds text"


def test_joined_layers_that_can_be_trained_are_not_refused() -> None:
    assert refusal(model("FusedConvBlock", "ReduceSum")) is None
