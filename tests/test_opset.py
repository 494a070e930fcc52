# SPDX-License-Identifier: Apache-2.0
"""Raising a model to opset 21: the same outputs, names and weights, whatever the model is made of."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgefold.errors import ModelError
from edgefold.files.loading import load_model
from edgefold.files.opset import BODY_OPSET, raise_opset
from edgefold.files.saving import save_model

TOLERANCE = 5e-6  # of the largest magnitude: the design's bound; the converter may split a node, which reassociates


def model_of(text: str, opset: int, imports: str = "") -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : {opset}{imports}]>\n{text}')


def outputs(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, feeds)


def assert_same_outputs(before: ir.Model, after: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    for old, new in zip(outputs(before, feeds), outputs(after, feeds), strict=True):
        assert old.shape == new.shape
        assert old.dtype == new.dtype
        wanted = old.astype(np.float64)
        assert np.abs(new - wanted).max(initial=0) <= TOLERANCE * np.abs(wanted).max(initial=1e-30)


GRAPHS = {
    "axes become inputs": (11, """g (float[2, 3] x) => (float[2] y) {
        a = Unsqueeze <axes = [0]> (x)
        b = Squeeze <axes = [0]> (a)
        y = ReduceSum <axes = [1], keepdims = 0> (b) }"""),
    "softmax over what follows the axis": (11, "g (float[2, 3] x) => (float[2, 3] y) { y = Softmax <axis = 0> (x) }"),
    "an upsample whose factors are an attribute": (7, """g (float[2, 3] x) => (float[1, 1, 4, 6] y)
        <int64[4] s = {1, 1, 2, 3}> {
        a = Reshape (x, s)
        y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 2.0]> (a) }"""),
    "a reduction, a dropout and a slice of opset 8": (8, """g (float[2, 3] x) => (float[2, 2] y) {
        a = Max(x, x)
        b = Dropout <ratio = 0.5> (a)
        c = Slice <axes = [1], starts = [0], ends = [2]> (b)
        d, i = TopK <k = 2> (c)
        y = Flatten(d) }"""),
    "upsample becomes resize": (9, """g (float[2, 3] x) => (float[1, 1, 4, 6] y)
        <int64[4] s = {1, 1, 2, 3}, float[4] f = {1, 1, 2, 2}> {
        a = Reshape (x, s)
        y = Upsample <mode = "nearest"> (a, f) }"""),
    "a function": (11, """g (float[2, 3] x) => (float[2, 3] y) { a = my.Twice(x) y = my.Twice(a) }
        <domain: "my", opset_import: ["" : 11]> Twice (a) => (b) {
          c = Unsqueeze <axes = [0]> (a)
          d = Squeeze <axes = [0]> (c)
          b = Add(d, d) }"""),
    "a function with attributes that calls another": (17, """
        g (float[2, 3] x) => (float[2, 3] y) { y = my.Outer <axis = 0> (x) }
        <domain: "my", opset_import: ["" : 17, "my" : 1]>
        Outer <axis> (a) => (b) { b = my.Inner <axis : int = @axis> (a) }
        <domain: "my", opset_import: ["" : 17]>
        Inner <axis> (a) => (b) { b = Softmax <axis : int = @axis> (a) }"""),
    "branches": (11, """g (float[2, 3] x) => (float[2, 3] y) {
        s = ReduceSum <keepdims = 0> (x)
        z = Sub(s, s)
        c = Less(s, z)
        u = Unsqueeze <axes = [0]> (x)
        y = If (c) <
          then_branch = t () => (float[2, 3] p) { p = Squeeze <axes = [0]> (u) },
          else_branch = e () => (float[2, 3] q) { r = Squeeze <axes = [0]> (u) q = my.Centre(r) }> }
        <domain: "my", opset_import: ["" : 11]>
        Centre (a) => (b) { c = ReduceMean <axes = [0]> (a) b = Sub(a, c) }"""),
    "a loop": (11, """g (float[2, 3] x) => (float[2, 3] y) <int64 n = {3}, bool c = {1}> { y = Loop (n, c, x) <
        body = b (int64 i, bool k, float[2, 3] v) => (bool l, float[2, 3] w) {
          l = Identity(k)
          a = Unsqueeze <axes = [0]> (v)
          e = Squeeze <axes = [0]> (a)
          w = Add(e, x) }> }"""),
    "a sequence": (13, """g (float[2, 3] x) => (float[4, 3] y) {
        s = SequenceConstruct(x, x)
        y = ConcatFromSequence <axis = 0> (s) }"""),
    "a contrib operator": (12, "g (float[2, 3] x) => (float[2, 3] y) { a = com.microsoft.Gelu(x) y = Dropout(a) }"),
}  # fmt: skip


@pytest.mark.parametrize("case", GRAPHS)
def test_the_outputs_stay_the_same(case: str, rng: np.random.Generator) -> None:
    opset, text = GRAPHS[case]
    model = model_of(text, opset, ', "my" : 1, "com.microsoft" : 1')
    raised, changed = raise_opset(model)
    assert changed
    assert raised.opset_imports[""] == BODY_OPSET
    assert raised.ir_version == 10
    assert not raised.functions
    onnx.checker.check_model(ir.to_proto(raised), full_check=True)
    assert_same_outputs(model, raised, {"x": rng.standard_normal((2, 3)).astype(np.float32)})


@pytest.mark.parametrize("opset", [21, 22])
def test_a_model_that_is_there_already_is_handed_back(opset: int) -> None:
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset)
    assert raise_opset(model) == (model, False)


def test_a_model_without_the_standard_domain_gets_it() -> None:
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["ai.onnx.ml" : 1]>
        g (float[2, 3] x) => (float[2, 3] y) { y = ai.onnx.ml.Normalizer <norm = "L2"> (x) }""")
    raised, changed = raise_opset(model)
    assert changed
    assert raised.opset_imports == {"ai.onnx.ml": 1, "": 21}
    assert_same_outputs(model, raised, {"x": np.ones((2, 3), np.float32)})


def test_weights_are_shared_not_copied_and_the_model_is_not_changed(rng: np.random.Generator) -> None:
    model = model_of("g (float[1, 64] x, float[64, 64] w) => (float[1, 64] y) { y = MatMul(x, w) }", 13)
    weight = model.graph.inputs.pop()
    weight.const_value = ir.Tensor(rng.standard_normal((64, 64)).astype(np.float32), name="w")
    model.graph.initializers.add(weight)
    before = ir.to_proto(model).SerializeToString()
    raised, _ = raise_opset(model)
    assert raised.graph.initializers["w"].const_value is weight.const_value
    assert [value.name for value in raised.graph.inputs] == ["x"]
    assert ir.to_proto(model).SerializeToString() == before


def test_weights_of_three_gigabytes_do_not_matter(tmp_path: Path) -> None:
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(3 * 2**30)  # a sparse file
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 11]>
        g (float[1] x) => (float[1] y) <float[1] w = {1}> { s = ReduceSum<axes = [0]>(w) y = Add(x, s) }""")
    tensor = proto.graph.initializer[0]
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = "w", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    tensor.dims.append(3 * 2**28)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    raised, _ = raise_opset(load_model(tmp_path).model)
    assert raised.opset_imports[""] == 21
    assert raised.graph.initializers["w"].const_value.nbytes == 3 * 2**30


def test_small_tensors_of_a_file_beside_the_model_are_read(tmp_path: Path) -> None:
    """Exporters put all of them there; the converter reads axes, and knows no folder."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        g (float[2, 3] x) => (float[1, 6] y) <int64[2] shape = {1, 6}, float[1] b = {7}> {
            c = Constant <value = float[1] {5}> () h = Add(x, c) i = Add(h, b) y = Reshape(i, shape) }""")
    path = tmp_path / "model.onnx"
    for tensor in (*proto.graph.initializer, proto.graph.node[0].attribute[0].t):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))  # only bytes may lie there
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    x = np.zeros((2, 3), np.float32)
    assert np.array_equal(outputs(raise_opset(load_model(path).model)[0], {"x": x})[0], np.full((1, 6), 12))


def test_what_the_model_says_about_itself_is_kept() -> None:
    model = model_of("g (float[n] x) => (float[n] y) { [first] h = Relu(x) [second] y = Abs(h) }", 13)
    model.producer_name, model.doc_string, model.model_version = "someone", "a model", 7
    model.metadata_props["author"] = "someone"
    model.graph[0].metadata_props["layer"] = "encoder"
    raised, _ = raise_opset(model)
    assert (raised.producer_name, raised.doc_string, raised.model_version) == ("someone", "a model", 7)
    assert raised.metadata_props == {"author": "someone"}
    assert [node.name for node in raised.graph] == ["first", "second"]
    assert raised.graph[0].metadata_props == {"layer": "encoder"}
    assert str(raised.graph.inputs[0].shape) == "[n]"


def test_a_scan_with_a_batch_axis_is_refused() -> None:
    model = model_of(
        """g (float[1, 5, 4] x, float[1, 4] h) => (float[1, 4] y) { [scan] y = Scan <num_scan_inputs = 1,
        body = b (float[4] i, float[4] j) => (float[4] o) { o = Add(i, j) }> ("", h, x) }""",
        8,
    )
    with pytest.raises(ModelError, match="scan: a Scan of opset 8 cannot be raised; export with opset 9"):
        raise_opset(model)


def test_a_function_of_another_opset_is_converted_before_it_is_inlined() -> None:
    """ONNX Runtime cannot run this one as it is: it inlines the body under the model's opset."""
    model = model_of(
        """g (float[2, 3] x) => (float[2, 3] y) { y = my.F(x) }
        <domain: "my", opset_import: ["" : 11]>
        F (a) => (b) { c = Unsqueeze <axes = [0]> (a) b = Squeeze <axes = [0]> (c) }""",
        13,
        ', "my" : 1',
    )
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(outputs(raise_opset(model)[0], {"x": x})[0], x)


def test_what_cannot_be_converted_is_one_line() -> None:
    model = model_of(
        """g (bool c, float[2, 3] x) => (float[2, 3] y) { y = If (c) <
             then_branch = t () => (float[2, 3] p) { q = Relu(x) p = my.F(q) },
             else_branch = e () => (float[2, 3] r) { r = Abs(x) }> }
        <domain: "my", opset_import: ["" : 9]>
        F (a) => (b) { c = Unsqueeze <axes = [0]> (a) b = Squeeze <axes = [0]> (c) }""",
        13,
        ', "my" : 1',
    )
    with pytest.raises(ModelError) as caught:
        raise_opset(model)
    assert str(caught.value).startswith("the model cannot be raised from opset 13 to 21: ")
    assert str(caught.value).endswith("; export it with opset 21 or newer")
    assert len(str(caught.value).splitlines()) == 1


def feeds_for(path: Path, model: ir.Model) -> dict[str, np.ndarray]:
    """Small random inputs that any of the real models accepts; token ids stay below the smallest vocabulary."""
    rng = np.random.default_rng(zlib.crc32(path.parent.name.encode()))
    feeds = {}
    for value in model.graph.inputs:
        fallback = [1, 3, 64, 64] if len(value.shape) == 4 else [1] + [32] * (len(value.shape) - 1)
        dims = [dim if isinstance(dim, int) else fallback[axis] for axis, dim in enumerate(value.shape)]
        dtype = value.dtype.numpy()
        if np.issubdtype(dtype, np.floating):
            feeds[value.name] = rng.standard_normal(dims).astype(dtype)
        else:
            top = 256 if dtype == np.uint8 else 2 if "mask" in value.name or "type" in value.name else 60
            feeds[value.name] = rng.integers(0, top, dims).astype(dtype)
    return feeds


def test_every_real_model_keeps_its_outputs(data_folder: Path, tmp_path: Path) -> None:
    """Opset 9 to 18, raised, saved, loaded again, and run beside the original in ONNX Runtime."""
    for path in sorted(data_folder.glob("*/*.onnx")):
        model = load_model(path).model
        raised, changed = raise_opset(model)
        assert changed
        assert [value.name for value in raised.graph.inputs] == [value.name for value in model.graph.inputs]
        assert [value.name for value in raised.graph.outputs] == [value.name for value in model.graph.outputs]
        save_model(raised, tmp_path / "model.onnx")
        assert_same_outputs(model, load_model(tmp_path).model, feeds_for(path, model))
