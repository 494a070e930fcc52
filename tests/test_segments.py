# SPDX-License-Identifier: Apache-2.0
"""Piecewise runs: the same values as whole runs, each node once, and nothing stale after a weight was exchanged."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold import segments as module
from edgefold.errors import ModelError
from edgefold.segments import Segments
from edgefold.session import make_session

DEEP = """<ir_version: 10, opset_import: ["" : 21]>
deep (float[B, 4] x) => (float[B, 4] y)
<float[4, 4] w1 = {W}, float[4, 4] w2 = {W}, float[4, 4] w3 = {W}>
{ a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  s = Add(b, c)  d = Relu(s)  y = MatMul(d, w3) }"""
BRANCH = """<ir_version: 10, opset_import: ["" : 21]>
branch (float[B, 4] x, bool[1] yes) => (float[B, 2] y)
{ a = Relu(x)  left, right = Split <axis = 1, num_outputs = 2> (a)  n = Neg(a)
  y = If (yes) <then_branch = then () => (float[B, 2] p) { p = Add(left, right) },
                else_branch = other () => (float[B, 2] q) { q = Identity(right) }> }"""


def model_of(text: str) -> ir.Model:
    rng = np.random.default_rng(0)
    while "{W}" in text:
        text = text.replace("{W}", "{" + ", ".join(f"{value:.3f}" for value in rng.standard_normal(16)) + "}", 1)
    return ir.from_proto(onnx.parser.parse_model(text))


def batches() -> Iterator[dict[str, np.ndarray]]:
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)
        yield {"x": x, "yes": np.array([True])}


def whole(model: ir.Model, name: str) -> np.ndarray:
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    session = make_session(proto.SerializeToString())
    used = {one.name for one in session.get_inputs()}
    return np.concatenate(
        [session.run([name], {k: v for k, v in feeds.items() if k in used})[0] for feeds in batches()]
    )


def asked(segments: Segments, name: str) -> np.ndarray:
    return np.concatenate([found[name] for found in segments.values([name])])


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nodes of every piece that becomes a session."""
    seen: list[int] = []

    def spy(model: ir.Model, **options: object) -> object:
        seen.append(sum(1 for _ in model.graph))
        return make_session(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "make_session", spy)
    return seen


def test_each_node_runs_once_on_the_way_down(sizes: list[int]) -> None:
    model = model_of(DEEP)
    segments = Segments(model, batches)
    for name in ("x", "b", "d", "y"):
        expected = np.concatenate([feeds["x"] for feeds in batches()]) if name == "x" else whole(model, name)
        np.testing.assert_allclose(asked(segments, name), expected, rtol=1e-6)
    assert sizes == [2, 3, 1]


def test_an_exchanged_weight_is_noticed_and_only_what_follows_runs_again(sizes: list[int]) -> None:
    model = model_of(DEEP)
    segments = Segments(model, batches)
    for name in ("b", "d"):
        asked(segments, name)
    weight = model.graph.initializers["w2"]
    weight.const_value = ir.tensor(np.eye(4, dtype=np.float32) * 3, name="w2")
    np.testing.assert_allclose(asked(segments, "d"), whole(model, "d"), rtol=1e-6)
    first = model.graph.initializers["w1"]
    first.const_value = ir.tensor(np.eye(4, dtype=np.float32), name="w1")
    np.testing.assert_allclose(asked(segments, "y"), whole(model, "y"), rtol=1e-6)
    assert sizes[-1] == 6


def test_too_much_to_hold_starts_again_from_the_inputs(sizes: list[int]) -> None:
    model = model_of(DEEP)
    segments = Segments(model, batches, max_held=100)
    for name in ("b", "d", "y"):
        np.testing.assert_allclose(asked(segments, name), whole(model, name), rtol=1e-6)
    assert sizes == [2, 5, 6]


@pytest.mark.parametrize(("remembers", "second"), [(1 << 20, []), (300, [3, 1]), (0, [2, 3, 1])])
def test_what_was_asked_for_is_remembered_as_far_as_there_is_room(
    sizes: list[int], remembers: int, second: list[int]
) -> None:
    """Batches of a tensor are 240 bytes: with room for one, the first is there on the second way down."""
    model = model_of(DEEP)
    segments = Segments(model, batches, remembers=remembers)
    for _ in range(2):
        for name in ("b", "d", "y"):
            np.testing.assert_allclose(asked(segments, name), whole(model, name), rtol=1e-6)
    assert sizes == [2, 3, 1, *second]


def test_what_is_remembered_is_forgotten_when_a_weight_changes() -> None:
    model = model_of(DEEP)
    segments = Segments(model, batches, remembers=1 << 20)
    asked(segments, "y")
    model.graph.initializers["w1"].const_value = ir.tensor(np.eye(4, dtype=np.float32), name="w1")
    np.testing.assert_allclose(asked(segments, "y"), whole(model, "y"), rtol=1e-6)


def test_nodes_of_several_outputs_and_captured_values() -> None:
    model = model_of(BRANCH)
    segments = Segments(model, batches)
    for name in ("left", "n", "right", "y"):
        np.testing.assert_allclose(asked(segments, name), whole(model, name), rtol=1e-6)


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(ModelError, match="no tensor 'absent'"):
        list(Segments(model_of(DEEP), batches).values(["absent"]))


def test_nodes_may_be_replaced_between_requests() -> None:
    model = model_of(DEEP)
    segments = Segments(model, batches)
    list(segments.values(["b"]))
    list(segments.values(["d"]))
    product = next(node for node in model.graph if node.op_type == "MatMul" and node.outputs[0].name == "c")
    doubled = ir.node("Add", [product.inputs[0], product.inputs[0]])
    ir.convenience.replace_nodes_and_values(
        model.graph, product, [product], [doubled], [product.outputs[0]], [doubled.outputs[0]]
    )
    found = np.concatenate([values["d"] for values in segments.values(["d"])])
    np.testing.assert_array_equal(found, whole(model, "d"))
