# SPDX-License-Identifier: Apache-2.0
"""The proof that stock ONNX Runtime and the library agree must fail when they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold import nodewise
from edgefold.errors import VerificationError
from edgefold.passes import Context
from edgefold.passes._names import name_apart
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


BRANCHES = """<ir_version: 10, opset_import: ["" : 21]>
g (float[n, 32] x, bool c) => (float[n, 16] y) {
    [if] y = If(c) <
        then_branch = a () => (float[n, 16] p) { h = Neg(x) [n] p = MatMul(h, w) },
        else_branch = b () => (float[n, 16] q) { k = Relu(x) l = Reshape(k, shape) [n] q = MatMul(l, w) }
    >
}"""


@pytest.mark.parametrize(
    ("choice", "shape", "reached"),
    [(False, (-1, 32), 2), (True, (-1, 32), 2), (True, (7, 32), 1)],  # five rows are not seven
)
def test_branches_that_are_not_taken_run_with_conditions_turned_round(
    choice: bool, shape: tuple[int, int], reached: int, rng: np.random.Generator
) -> None:
    proto = onnx.parser.parse_model(BRANCHES)
    for name, array in {"w": rng.standard_normal((32, 16)).astype(np.float32), "shape": np.array(shape)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    made = ir.from_proto(proto)
    name_apart(made)
    Quantize(method="shift", first_last=4).rewrite(made, Context())
    feeds = {"x": rng.standard_normal((5, 32)).astype(np.float32), "c": np.array(choice)}
    agreement = nodewise.prove_portable(made, feeds)
    assert (agreement.nodes, agreement.unreached) == (reached, 2 - reached)
    assert agreement.worst <= nodewise.PORTABLE_TOLERANCE
    ranked = nodewise.node_errors(ir.from_proto(proto), made, feeds)
    assert [one.node for one in ranked] == [f"if/{'then' if choice else 'else'}_branch:n"]


SCAN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[t, 32] x, int64[t, 3] ids) => (float[32] last, float[t, 32] steps, float[t, 3, 32] rows) {
    zero = Constant<value_float = 0.0>() size = Constant<value_ints = [32]>() start = Expand(zero, size)
    [scan] last, steps, rows = Scan<num_scan_inputs = 2, body = b (float[32] h, float[32] now, int64[3] some)
        => (float[32] next, float[32] step, float[3, 32] looked) {
        [product] a = MatMul(h, w) b = Add(a, now) next = Tanh(b) step = Identity(next)
        [lookup] looked = Gather(table, some)
    }>(start, x, ids)
}"""


def test_vectors_of_iterations_are_rows_to_a_layer_and_indices_to_a_table(rng: np.random.Generator) -> None:
    proto = onnx.parser.parse_model(SCAN)
    for name, size in {"w": 32, "table": 50}.items():
        array = rng.standard_normal((size, 32)).astype(np.float32) / 8
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    made = ir.from_proto(proto)
    name_apart(made)
    Quantize(method="shift", first_last=4).rewrite(made, Context())
    feeds = {"x": rng.standard_normal((5, 32)).astype(np.float32), "ids": rng.integers(0, 50, (5, 3))}
    agreement = nodewise.prove_portable(made, feeds)
    assert (agreement.nodes, agreement.unreached) == (2, 0)
    errors = {one.node: one.noise_to_signal for one in nodewise.node_errors(ir.from_proto(proto), made, feeds)}
    assert errors.keys() == {"scan/body:product", "scan/body:lookup"}
    assert all(0 < error < 0.05 for error in errors.values())
