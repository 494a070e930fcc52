# SPDX-License-Identifier: Apache-2.0
"""Loading: what a model is after the checks, which versions are taken, and that nothing is read early or changed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from edgefold.errors import ModelError
from edgefold.files.dense import make_dense
from edgefold.files.loading import LoadedModel, load_model
from edgefold.files.opset import newest_opset, raise_opset

ADD = """
<ir_version: {ir}, opset_import: ["" : {opset}]>
g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ y = Add(x, w) }}
"""


def add(opset: int = 21, ir_version: int = 10) -> ModelProto:
    return parser.parse_model(ADD.format(opset=opset, ir=ir_version))


def written(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(model: ModelProto, folder: Path) -> str:
    path = written(model, folder)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def externalized(model: ModelProto, location: str, **entries: str) -> ModelProto:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


class TestWhatIsLoaded:
    def test_nodes_have_names_of_their_own(self, tmp_path: Path) -> None:
        text = """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x, bool c) => (float[2] y) {
            a = Abs (x)
            [y] b = Neg (a)
            [twice] d = Relu (b)
            [twice] e = If (c) <then_branch = t () => (float[2] p) { p = Exp (d) },
                                else_branch = o () => (float[2] q) { [a] q = Abs (d) }>
            y = Tanh (e)
        }"""
        model = load_model(written(parser.parse_model(text), tmp_path)).model
        names = {str(node.outputs[0].name): node.name for node in model.graph.all_nodes()}
        # Nodes of branches are called after these; y stands already for another node.
        assert names == {
            "a": "a",
            "b": "y",
            "d": "twice",
            "e": "twice_1",
            "p": "twice_1/then_branch:p",
            "q": "twice_1/else_branch:a",
            "y": "y_1",
        }

    def test_a_file(self, tmp_path: Path) -> None:
        path = written(add(), tmp_path)
        loaded = load_model(path)
        assert isinstance(loaded.model, ir.Model)
        assert (loaded.path, loaded.bytes, loaded.data_files, loaded.notes) == (path, path.stat().st_size, (), ())
        assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_an_output_folder(self, tmp_path: Path) -> None:
        assert load_model(written(add(), tmp_path).parent).path == tmp_path / "model.onnx"

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"is a folder without model\.onnx; expected an \.onnx file"):
            load_model(tmp_path)

    def test_a_path_relative_to_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "w.bin").write_bytes(np.float32([3, 4]).tobytes())
        written(externalized(add(), "w.bin"), tmp_path)
        monkeypatch.chdir(tmp_path)
        loaded = load_model("model.onnx")
        monkeypatch.chdir("/")
        assert loaded.path == tmp_path / "model.onnx"
        assert loaded.model.graph.initializers["w"].const_value.numpy().tolist() == [3, 4]

    def test_external_data_are_mapped_and_counted(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(bytes(64) + np.float32([3, 4]).tobytes())
        path = written(externalized(add(), "w.bin", offset="64", length="8"), tmp_path)
        loaded = load_model(path)
        tensor = loaded.model.graph.initializers["w"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.numpy().tolist() == [3, 4]
        assert loaded.data_files == (tmp_path / "w.bin",)
        assert loaded.bytes == path.stat().st_size + 72
        assert loaded.sha256 == hashlib.sha256(path.read_bytes() + (tmp_path / "w.bin").read_bytes()).hexdigest()

    def test_external_data_of_a_function(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(np.float32([3, 4]).tobytes())
        model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
            g (float[2] x) => (float[2] y) { y = my.F(x) }
            <domain: "my", opset_import: ["" : 21]> F (a) => (b) {
              k = Constant <value = float[2] {1, 2}> ()
              b = Add(a, k) }
        """)
        tensor = model.functions[0].node[0].attribute[0].t
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        loaded = load_model(written(model, tmp_path))
        (function,) = loaded.model.functions.values()
        assert function[0].attributes["value"].as_tensor().numpy().tolist() == [3, 4]

    def test_three_gigabytes_of_external_data_are_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(3 * 2**30)  # a sparse file: reading it would take seconds and the memory
        model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[1] x) => (float[1] y) <float[1] w = {1}> { k = ReduceSum(w) y = Add(x, k) }""")
        externalized(model, "w.bin").graph.initializer[0].dims[:] = [3 * 2**28]
        loaded = load_model(written(model, tmp_path))
        assert loaded.bytes > 3 * 2**30
        assert loaded.model.graph.initializers["w"].const_value.nbytes == 3 * 2**30

    def test_float16_and_bfloat16_weights_keep_their_type(self, tmp_path: Path) -> None:
        for name in ("FLOAT16", "BFLOAT16"):
            model = add()
            dtype = TensorProto.DataType.Value(name)
            array = np.ones(2, helper.tensor_dtype_to_np_dtype(dtype))
            model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.elem_type = dtype
            assert load_model(written(model, tmp_path)).model.graph.initializers["w"].dtype == ir.DataType[name]

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        path = written(add(opset=9, ir_version=4), tmp_path)
        before = path.read_bytes()
        load_model(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestInitializersThatAreInputs:
    @staticmethod
    def load(ir_version: int, listed: tuple[str, ...], folder: Path) -> LoadedModel:
        model = parser.parse_model(f"""<ir_version: {ir_version}, opset_import: ["" : 9]>
            g (float[2] x) => (float[2] y) <float[2] v = {{1, 2}}, float[2] w = {{1, 2}}> {{
              h = Add(x, w)
              y = Add(h, v) }}""")
        for name in listed:
            model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))
        return load_model(written(model, folder))

    @pytest.mark.parametrize("ir_version", [3, 4, 8])
    def test_where_all_are_listed_they_are_taken_as_constants_and_a_note_says_so(
        self, ir_version: int, tmp_path: Path
    ) -> None:
        loaded = self.load(ir_version, ("v", "w"), tmp_path)
        assert [value.name for value in loaded.model.graph.inputs] == ["x"]
        assert list(loaded.model.graph.initializers) == ["v", "w"]
        assert not loaded.model.graph.initializers["w"].is_graph_input()
        assert loaded.model.ir_version == max(ir_version, 4)  # older ones know no weight that is not an input too
        assert raise_opset(loaded.model)[0].graph.initializers.keys() == {"v", "w"}
        assert loaded.notes == (
            "All 2 weights were listed as inputs too, as old exporters do; they are taken as constants.",
        )

    def test_where_some_are_listed_they_are_defaults_and_stay_inputs(self, tmp_path: Path) -> None:
        loaded = self.load(8, ("v",), tmp_path)
        assert [value.name for value in loaded.model.graph.inputs] == ["x", "v"]
        assert loaded.notes == ()


class TestVersions:
    def test_the_newest_opset_is_what_onnx_runtime_runs(self) -> None:
        assert 21 <= newest_opset() <= onnx.defs.onnx_opset_version()

    @pytest.mark.parametrize("opset", [7, 9, 13, 21])
    def test_taken(self, opset: int, tmp_path: Path) -> None:
        assert load_model(written(add(opset), tmp_path)).model.opset_imports[""] == opset

    def test_the_newest_is_taken(self, tmp_path: Path) -> None:
        assert load_model(written(add(newest_opset()), tmp_path)).model.opset_imports[""] == newest_opset()

    def test_too_old(self, tmp_path: Path) -> None:
        assert "has opset 6; expected 7 to " in (message := refusal(add(6), tmp_path))
        assert message.endswith("export it again with a newer opset")

    def test_too_new(self, tmp_path: Path) -> None:
        message = refusal(add(newest_opset() + 1), tmp_path)
        assert f"has opset {newest_opset() + 1}; expected 7 to {newest_opset()}" in message
        assert message.endswith("export it with an older opset")

    def test_a_function_that_is_too_new(self, tmp_path: Path) -> None:
        model = add()
        imports = [helper.make_opsetid("", newest_opset() + 1)]
        node = helper.make_node("Relu", ["a"], ["b"])
        model.functions.append(helper.make_function("my", "F", ["a"], ["b"], [node], imports))
        assert f"function 'F' has opset {newest_opset() + 1}" in refusal(model, tmp_path)

    @pytest.mark.parametrize("ir_version", [0, onnx.IR_VERSION + 1])
    def test_an_unknown_ir_version(self, ir_version: int, tmp_path: Path) -> None:
        assert f"has IR version {ir_version}; the installed onnx" in refusal(add(ir_version=ir_version), tmp_path)


class TestWhatCannotBeHandled:
    def test_what_the_checker_finds(self, tmp_path: Path) -> None:
        model = parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 21]> g (float[2] x) => (float[2] y) { [n] y = Relu<beta = 1>(x) }'
        )
        message = refusal(model, tmp_path)
        assert "the ONNX checker refuses it: Unrecognized attribute: beta for operator Relu" in message

    def test_operators_of_onnx_runtime_in_the_standard_domain_are_left_to_it(self, tmp_path: Path) -> None:
        model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
            g (float[1, 2] x, float[2] s) => (float[1, 2] y) { y = SimplifiedLayerNormalization(x, s) }""")
        assert load_model(written(model, tmp_path)).model.graph[0].op_type == "SimplifiedLayerNormalization"

    def test_contrib_operators_are_taken(self, tmp_path: Path) -> None:
        model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
            g (float[2] x) => (float[2] y) { y = com.microsoft.Gelu(x) }""")
        assert load_model(written(model, tmp_path)).model.graph[0].domain == "com.microsoft"

    def test_a_map_as_output(self, tmp_path: Path) -> None:
        model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]>
            g (float[2, 2] x) => (seq(map(int64, float)) y) {
              y = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(x) }""")
        assert "'y' is a map" in (message := refusal(model, tmp_path))
        assert "options={'zipmap': False}" in message

    def test_training_information(self, tmp_path: Path) -> None:
        model = add()
        model.training_info.add().algorithm.CopyFrom(model.graph)
        model.training_info[0].algorithm.name = "a"
        assert "holds training information; export it for inference" in refusal(model, tmp_path)


class TestSparseTensors:
    @staticmethod
    def sparse(indices: list[int] | list[list[int]]) -> onnx.SparseTensorProto:
        values = numpy_helper.from_array(np.float32([5, 7]), "s")
        return helper.make_sparse_tensor(values, numpy_helper.from_array(np.int64(indices), "i"), [2, 2])

    def model(self, sparse: onnx.SparseTensorProto, as_attribute: bool) -> ModelProto:
        model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
            g (float[2, 2] x) => (float[2, 2] y) { y = Add(x, s) }""")
        if as_attribute:
            model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
        else:
            model.graph.sparse_initializer.append(sparse)
        return model

    @pytest.mark.parametrize("as_attribute", [True, False])
    @pytest.mark.parametrize("indices", [[1, 2], [[0, 1], [1, 0]]])
    def test_they_are_held_dense_and_mean_the_same(
        self, as_attribute: bool, indices: list[int] | list[list[int]], tmp_path: Path
    ) -> None:
        model = self.model(self.sparse(indices), as_attribute)
        loaded = load_model(written(model, tmp_path))
        assert loaded.notes == ("1 sparse tensors are held dense.",)
        session = ort.InferenceSession(ir.to_proto(loaded.model).SerializeToString())
        (output,) = session.run(None, {"x": np.zeros((2, 2), np.float32)})
        assert output.tolist() == [[0, 5], [7, 0]]

    @pytest.mark.parametrize(
        ("indices", "complaint"),
        [
            ([1, 4], "an index lies outside of [2, 2]"),
            ([-1, 2], "an index lies outside of [2, 2]"),
            ([[0, 1], [0, 2]], "an index lies outside of [2, 2]"),
            ([1, 2, 3], "do not fit indices of (3,)"),
            ([[0, 1, 1], [1, 0, 1]], "do not fit indices of (2, 3)"),
        ],
    )
    def test_malformed_indices_are_refused(
        self, indices: list[int] | list[list[int]], complaint: str, tmp_path: Path
    ) -> None:
        """Once by the checker, and once more where the checker stopped early at an operator that it does not know."""
        for as_attribute in (True, False):
            model = self.model(self.sparse(indices), as_attribute)
            assert "the ONNX checker refuses it: Sparse tensor" in refusal(model, tmp_path)
            with pytest.raises(ModelError, match=re.escape(complaint)):
                make_dense(model, tmp_path)


@pytest.fixture(scope="module")
def real_models(data_folder: Path) -> list[Path]:
    return sorted(data_folder.glob("*/*.onnx"))


def test_every_real_model_loads(real_models: list[Path]) -> None:
    """Both torch exporters, tf2onnx, keras2onnx, paddle2onnx, skl2onnx; opset 9 to 18."""
    assert len(real_models) >= 15
    for path in real_models:
        loaded = load_model(path)
        assert loaded.bytes == path.stat().st_size
        assert len(loaded.model.graph) > 0
        assert not any(value.is_initializer() for value in loaded.model.graph.inputs), path
