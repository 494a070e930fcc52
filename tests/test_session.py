# SPDX-License-Identifier: Apache-2.0
"""Sessions: what ONNX Runtime refuses becomes one line, and random feeds ask for the shapes they lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgefold.errors import ModelError, UsageError
from edgefold.interface import ModelInterface
from edgefold.random_feeds import parse_shapes, random_feeds
from edgefold.session import make_session, run

TEXT = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch, seq, 3] x, int64[batch] ids, uint8[2] raw, bool[2] flag)
=> (float[batch, seq, 3] y, int64[batch] i, uint8[2] r, bool[2] f) {
  y = Identity(x)
  i = Identity(ids)
  r = Identity(raw)
  f = Identity(flag)
}
"""
UNKNOWN = """
<ir_version: 10, opset_import: ["" : 17, "strange.vendor" : 1]>
g (float[2] x) => (float[2] y) { y = strange.vendor.Magic(x) }
"""


def test_a_model_a_file_and_bytes_open_alike(tmp_path: Path) -> None:
    model = ir.from_onnx_text(TEXT)
    ir.save(model, tmp_path / "m.onnx")
    for source in (model, tmp_path / "m.onnx", (tmp_path / "m.onnx").read_bytes()):
        session = make_session(source, threads=1)
        assert [port.name for port in ModelInterface.of(session).inputs] == ["x", "ids", "raw", "flag"]


def test_external_tensors_open_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 17]>\ng (float[3] x) => (float[3] y) { y = Add(x, w) }'
    model = ir.from_onnx_text(text)
    weight = ir.Value(name="w", const_value=ir.tensor(np.arange(3, dtype=np.float32), name="w"))
    weight.shape, weight.dtype = ir.Shape([3]), ir.DataType.FLOAT
    for node in model.graph:
        node.replace_input_with(1, weight)
    model.graph.register_initializer(weight)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    loaded = ir.load(tmp_path / "m.onnx")
    before = loaded.graph.initializers["w"].const_value
    assert isinstance(before, ir.ExternalTensor)
    session = make_session(loaded)
    (result,) = run(session, ["y"], {"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(result, [1, 2, 3])
    assert loaded.graph.initializers["w"].const_value is before


def test_a_large_model_goes_through_files_that_may_vanish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefold.files.external.EXTERNAL_ABOVE", 1000)
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        "g (float[n, 64] x, float[64, 64] w) => (float[n, 64] y) { y = MatMul(x, w) }"
    )
    weight = list(model.graph.inputs)[1]
    model.graph.inputs.remove(weight)
    weight.const_value = ir.tensor(np.eye(64, dtype=np.float32) * 3, name="w")
    model.graph.register_initializer(weight)
    session = make_session(model)
    (result,) = run(session, None, {"x": np.ones((2, 64), np.float32)})
    np.testing.assert_array_equal(result, np.full((2, 64), 3))


@pytest.mark.parametrize("content", [b"", b"not a protobuf", b"\x08\x0a"])
def test_what_is_no_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        make_session(path)
    assert "\n" not in str(caught.value)
    assert "m.onnx" in str(caught.value)


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ModelError, match=r"unknown operator strange\.vendor::Magic"):
        make_session(onnx.parser.parse_model(UNKNOWN).SerializeToString())


def test_a_failing_run_is_one_line() -> None:
    session = make_session(ir.from_onnx_text(TEXT))
    with pytest.raises(ModelError, match="cannot run the model") as caught:
        run(session, None, {"x": np.zeros((1, 1, 3), np.float64)})
    assert "\n" not in str(caught.value)


def test_random_feeds_are_seeded_and_typed() -> None:
    model = ModelInterface.of(make_session(ir.from_onnx_text(TEXT)))
    shapes = {"x": (2, 5, 3), "ids": (2,)}
    first, again = random_feeds(model, shapes, seed=1), random_feeds(model, shapes, seed=1)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert {name: array.dtype.name for name, array in first.items()} == {
        "x": "float32", "ids": "int64", "raw": "uint8", "flag": "bool",
    }  # fmt: skip
    assert set(np.unique(first["ids"])) <= {0, 1}


def test_unset_dimensions_are_listed_with_the_way_out() -> None:
    model = ModelInterface.of(make_session(ir.from_onnx_text(TEXT)))
    with pytest.raises(UsageError, match=r"x \[batch, seq, 3\]; ids \[batch\].*--shape x=1x128x3 --shape ids=1"):
        random_feeds(model, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x"], "expected INPUT=AxBxC"),
        (["x=0x2"], "expected INPUT=AxBxC"),
        (["x=1x2", "x=1"], "already given"),
        (["z=1", "x=1x1x3", "ids=1"], "no such input; its inputs are x, ids, raw, flag"),
        (["x=1x2x4", "ids=1"], r"the model declares \[batch, seq, 3\]"),
    ],
)
def test_wrong_shapes(options: list[str], message: str) -> None:
    model = ModelInterface.of(make_session(ir.from_onnx_text(TEXT)))
    with pytest.raises(UsageError, match=message):
        random_feeds(model, parse_shapes(options))


def test_a_cache_without_a_token_yet_has_a_size_of_zero() -> None:
    assert parse_shapes(["past=1x2x0x16", "ids=1x10"]) == {"past": (1, 2, 0, 16), "ids": (1, 10)}
    for wrong in ("past=0x2", "past=1x02", "past=1x-1"):  # no samples; not how a number is written
        with pytest.raises(UsageError, match="expected INPUT=AxBxC"):
            parse_shapes([wrong])
