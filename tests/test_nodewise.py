# SPDX-License-Identifier: Apache-2.0
"""The proof that stock ONNX Runtime and the library agree must fail when they do not."""

from __future__ import annotations

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


def altered(monkeypatch: pytest.MonkeyPatch, optimized: float, as_written: float) -> None:
    """Stock ONNX Runtime gives every output more than it does, with its optimizer and without it."""
    original = nodewise.run_outputs

    def run(*place: Any, library: bool = True, optimize: bool = True) -> list[Array]:
        results = original(*place, library=library, optimize=optimize)
        added = np.float32(0 if library else optimized if optimize else as_written)
        return [result + added for result in results]

    monkeypatch.setattr(nodewise, "run_outputs", run)


def test_both_agree_on_real_inputs(model: ir.Model, rng: np.random.Generator) -> None:
    agreement = nodewise.prove_portable(model, {"x": rng.standard_normal((5, K)).astype(np.float32)})
    assert agreement.nodes == 1
    assert agreement.reordered == 0
    assert agreement.worst <= nodewise.PORTABLE_TOLERANCE


def test_the_body_as_it_is_written_decides(
    model: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = {"x": rng.standard_normal((5, K)).astype(np.float32)}
    small = 1e-3 * float(np.abs(nodewise.run_node(model, nodewise.custom_nodes(model)[0], feeds)).max())
    altered(monkeypatch, optimized=small, as_written=0.0)
    assert nodewise.prove_portable(model, feeds).reordered == 1
    altered(monkeypatch, optimized=small, as_written=small)
    with pytest.raises(VerificationError, match=r"node linear: .* as it is written, .* 1e-05 in every element"):
        nodewise.prove_portable(model, feeds)


def test_what_the_optimizer_may_change_has_a_bound(
    model: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered(monkeypatch, optimized=1.0, as_written=0.0)
    with pytest.raises(VerificationError, match=r"node linear: .* as ONNX Runtime optimizes it"):
        nodewise.prove_portable(model, {"x": rng.standard_normal((5, K)).astype(np.float32)})


def test_no_number_is_no_agreement(model: ir.Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, optimized=np.nan, as_written=np.nan)
    with pytest.raises(VerificationError, match="node linear"):
        nodewise.prove_portable(model, {"x": rng.standard_normal((5, K)).astype(np.float32)})
