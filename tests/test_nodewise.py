# SPDX-License-Identifier: Apache-2.0
"""The proof that stock ONNX Runtime and the library agree must fail when they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgefold import nodewise
from edgefold.errors import VerificationError
from edgefold.passes import Context
from edgefold.passes.quantize import Quantize

K, N = 64, 48
Array = np.ndarray[Any, Any]


@pytest.fixture
def model(rng: np.random.Generator) -> ir.Model:
    weight = rng.standard_normal((K, N)).astype(np.float32)
    x = ir.Value(name="x", shape=ir.Shape(["batch", K]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", const_value=ir.tensor(weight, name="w"), shape=ir.Shape((K, N)))
    w.type = ir.TensorType(ir.DataType.FLOAT)
    y = ir.Value(name="y", shape=ir.Shape(["batch", N]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.Node("", "MatMul", [x, w], outputs=[y], name="linear")
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 21}, name="g")
    made = ir.Model(graph, ir_version=10)
    Quantize(method="shift", first_last=4).rewrite(made, Context())
    return made


def altered(monkeypatch: pytest.MonkeyPatch, change: float) -> None:
    """Stock ONNX Runtime gives every output ``change`` more than it does."""
    original = nodewise.run_node

    def run(model: ir.Model, node: ir.Node, data: Mapping[str, Array], *, library: bool = True) -> Array:
        return original(model, node, data, library=library) + np.float32(0 if library else change)

    monkeypatch.setattr(nodewise, "run_node", run)


def off_ties(rng: np.random.Generator) -> Array:
    """One row whose scale is exactly 1 and whose codes are whole numbers."""
    x = rng.integers(-126, 127, (1, K)).astype(np.float32)
    x[0, 0] = 127
    return x


def test_both_agree_on_real_inputs(model: ir.Model, rng: np.random.Generator) -> None:
    agreement = nodewise.prove_portable(model, {"x": rng.standard_normal((5, K)).astype(np.float32)})
    assert agreement.nodes == 1
    assert agreement.ties == 0
    assert agreement.worst <= nodewise.PORTABLE_TOLERANCE


def test_a_difference_without_a_tie_is_refused(
    model: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, 1.0)
    with pytest.raises(VerificationError, match=r"node linear: .* do not explain it"):
        nodewise.prove_portable(model, {"x": off_ties(rng)})


def test_a_tie_explains_one_code_and_no_more(
    model: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = off_ties(rng)
    x[0, 5] = 2.5
    altered(monkeypatch, 0.05)
    assert nodewise.prove_portable(model, {"x": x}).ties == 1
    altered(monkeypatch, 1e4)
    with pytest.raises(VerificationError, match="do not explain it"):
        nodewise.prove_portable(model, {"x": x})
