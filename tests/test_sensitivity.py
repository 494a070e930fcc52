# SPDX-License-Identifier: Apache-2.0
"""Gains: how much of a tensor's error arrives at the outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgefold.sensitivity import gains

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[n, 400] x) => (float[n, 400] y, int64[n] z) {
  a = Neg(x)
  b = Mul(a, small)
  s = Add(x, b)
  y = Identity(s)
  z = ArgMax<axis = 1, keepdims = 0>(x)
}
"""


def test_a_small_branch_of_a_sum_counts_little() -> None:
    model = ir.from_onnx_text(TEXT, initializers=[ir.tensor(np.array(0.1, np.float32), name="small")])
    feeds = {"x": np.random.default_rng(7).standard_normal((4, 400), dtype=np.float32)}
    found = gains(model, ["a", "b", "s", "y"], feeds=feeds)
    branch = (0.1 / 0.9) ** 2
    assert found == pytest.approx({"a": branch, "b": branch, "s": 1, "y": 1}, rel=0.2)
    assert found == gains(model, ["a", "b", "s", "y"], feeds=feeds)
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
