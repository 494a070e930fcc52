# SPDX-License-Identifier: Apache-2.0
"""What the ONNX checker is shown of a model that has operators it does not know."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.verification import check_onnx

RUNTIMES_OWN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n, 4] x, bool[1] c) => (float[n, 4] y) <float[4] s = {1, 1, 1, 1}> {
    h = SimplifiedLayerNormalization <epsilon = 1e-5> (x, s)
    y = If (c) <
        then_branch = t () => (float[n, 4] p) { p = SimplifiedLayerNormalization (h, s) },
        else_branch = e () => (float[n, 4] q) { q = Softmax <ATTRIBUTE = 1> (h) }>
}"""


def test_the_runtimes_own_operators_pass_and_stay_in_their_domain() -> None:
    model = ir.from_onnx_text(RUNTIMES_OWN.replace("ATTRIBUTE", "axis"))
    check_onnx(model)
    assert {node.domain for node in model.graph.all_nodes()} == {""}
    assert model.opset_imports == {"": 21}


@pytest.fixture(params=["in memory", "through a file"])
def checkable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of any size goes either way."""
    monkeypatch.setattr("edgefold.verification.CHECKABLE_BYTES", 1 << 30 if request.param == "in memory" else 0)


@pytest.mark.usefixtures("checkable")
def test_weights_of_the_graph_and_of_bodies_are_not_missed() -> None:
    model = ir.from_onnx_text(RUNTIMES_OWN.replace("ATTRIBUTE", "axis"))
    large = ir.tensor(np.ones((512, 4), np.float32), name="large")
    model.graph.initializers.add(ir.val("large", const_value=large))
    (branches,) = (node for node in model.graph if node.op_type == "If")
    branches.attributes["then_branch"].as_graph().initializers.add(
        ir.val("own", const_value=ir.tensor(large.numpy(), name="own"))
    )
    check_onnx(model)


@pytest.mark.usefixtures("checkable")
def test_what_stands_beside_them_is_still_checked() -> None:
    model = ir.from_onnx_text(RUNTIMES_OWN.replace("ATTRIBUTE", "axes"))
    with pytest.raises(onnx.checker.ValidationError, match="axes"):
        check_onnx(model)
    assert {node.domain for node in model.graph.all_nodes()} == {""}
