# SPDX-License-Identifier: Apache-2.0
"""Nothing that a model file says is believed: places, sizes and structure, each with its one-line refusal."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from edgefold.errors import ModelError
from edgefold.files.quoting import quoted
from edgefold.files.safety import MAX_NESTING, check_model_file, check_tensor

NUMBER_TYPES = [t for t in TensorProto.DataType.values() if t not in (TensorProto.UNDEFINED, TensorProto.STRING)]

ADD = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }
"""


def written(model: ModelProto | str | bytes, folder: Path) -> Path:
    path = folder / "model.onnx"
    if isinstance(model, str):
        model = parser.parse_model(model)
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def refusal(model: ModelProto | str | bytes, folder: Path) -> str:
    """The message with which the model is refused, after the path; the folder must be left as it was."""
    path = written(model, folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ModelError) as caught:
        check_model_file(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert caught.value.exit_code == 2
    assert sorted(folder.rglob("*")) == before
    return message.removeprefix(f"{path}: ")


def external(location: str, *, name: str = "w", **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def with_weight(tensor: TensorProto) -> ModelProto:
    model = parser.parse_model(ADD)
    del model.graph.initializer[:]
    model.graph.initializer.append(tensor)
    return model


def with_sparse(values: TensorProto, indices: TensorProto, *, as_attribute: bool) -> ModelProto:
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=[4])
    model = parser.parse_model(ADD)
    if as_attribute:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    return model


def places() -> list[tuple[str, ModelProto]]:
    """A model for each place in which a tensor can stand; the tensor named "bad" points out of the folder."""
    bad = external("../outside", name="bad")
    good = numpy_helper.from_array(numpy_helper.to_array(parser.parse_model(ADD).graph.initializer[0]), "good")
    index = TensorProto(name="i", data_type=TensorProto.INT64, dims=[2], int64_data=[0, 1])
    constant = helper.make_node("Constant", [], ["k"], name="const", value=bad)

    in_constant = parser.parse_model(ADD)
    in_constant.graph.node.insert(0, constant)

    branch = helper.make_graph([helper.make_node("Identity", ["bad"], ["t"])], "b", [], [onnx.ValueInfoProto(name="t")])
    branch.initializer.append(bad)
    in_branch = parser.parse_model(ADD)
    in_branch.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))

    in_function = parser.parse_model(ADD)
    in_function.functions.append(helper.make_function("f", "F", [], ["k"], [constant], [helper.make_opsetid("", 21)]))

    in_training = parser.parse_model(ADD)
    in_training.training_info.add().initialization.initializer.append(bad)

    in_list = parser.parse_model(ADD)
    in_list.graph.node[0].attribute.append(helper.make_attribute("t", [good, bad]))

    return [
        ("initializer 'bad'", with_weight(bad)),
        ("node 'const' (Constant)", in_constant),
        ("sparse tensor 'bad' (values)", with_sparse(bad, index, as_attribute=True)),
        ("sparse tensor 'bad' (indices)", with_sparse(good, bad, as_attribute=True)),
        ("sparse tensor 'bad' (values)", with_sparse(bad, index, as_attribute=False)),
        ("initializer 'bad'", in_branch),
        ("node 'const' (Constant)", in_function),
        ("initializer 'bad'", in_training),
        ("node 'y' (Add)", in_list),
    ]


class TestEveryTensorIsWalked:
    @pytest.mark.parametrize(("where", "model"), places())
    def test_a_path_out_of_the_folder_is_refused_wherever_it_stands(
        self, where: str, model: ModelProto, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "outside").write_bytes(bytes(8))
        message = refusal(model, folder)
        assert where in message
        assert "'../outside' has a '..'; keep the data inside the model's folder" in message

    def test_a_good_model_is_returned_parsed(self, tmp_path: Path) -> None:
        assert check_model_file(written(ADD, tmp_path)) == parser.parse_model(ADD)

    def test_external_data_beside_the_model_are_accepted_and_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "w.bin").write_bytes(bytes(72))
        model = with_weight(external("sub/w.bin", offset="64", length="8"))
        assert check_model_file(written(model, tmp_path)) == model


class TestTensors:
    @pytest.mark.parametrize(
        ("tensor", "complaint"),
        [
            (TensorProto(data_type=1, dims=[3], raw_data=bytes(8)), "holds 8 bytes, but dims and data type ask for 12"),
            (
                TensorProto(data_type=1, dims=[10**6]),
                "holds 0 values in float_data, but dims and data type ask for 1000000",
            ),
            (TensorProto(data_type=7, dims=[2], int64_data=[1]), "holds 1 values in int64_data"),
            (TensorProto(data_type=10, dims=[2], int32_data=[1]), "holds 1 values in int32_data"),
            (TensorProto(data_type=8, dims=[2], string_data=[b"a"]), "holds 1 strings"),
            (TensorProto(data_type=22, dims=[3], raw_data=bytes(1)), "holds 1 bytes, but dims and data type ask for 2"),
            (TensorProto(data_type=1, dims=[-1], raw_data=b""), "has a negative dimension in [-1]"),
            (TensorProto(data_type=1, dims=[2**40, 2**40]), "more elements than 64 bits can count"),
            (TensorProto(data_type=0, dims=[1]), "has the unknown data type 0"),
            (TensorProto(data_type=77, dims=[1]), "has the unknown data type 77"),
            (TensorProto(data_type=8, dims=[1], data_location=1), "holds strings as external data"),
        ],
    )
    def test_refused(self, tensor: TensorProto, complaint: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as caught:
            check_tensor(tensor, tmp_path)
        assert complaint in str(caught.value)

    @pytest.mark.parametrize("data_type", NUMBER_TYPES)
    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize("count", [0, 1, 3, 4])
    def test_what_onnx_makes_is_accepted(self, data_type: int, raw: bool, count: int, tmp_path: Path) -> None:
        array = np.ones(count, helper.tensor_dtype_to_np_dtype(data_type))
        tensor = numpy_helper.from_array(array, "w") if raw else helper.make_tensor("w", data_type, [count], array)
        check_tensor(tensor, tmp_path)

    def test_a_sparse_tensor_of_absurd_size_is_refused(self, tmp_path: Path) -> None:
        value = TensorProto(name="v", data_type=1, dims=[1], float_data=[1])
        index = TensorProto(name="i", data_type=7, dims=[1], int64_data=[0])
        model = with_sparse(value, index, as_attribute=True)
        model.graph.node[0].attribute[0].sparse_tensor.dims[:] = [2**20, 2**20]
        assert "is sparse and would have 1099511627776 elements" in refusal(model, tmp_path)


class TestFiles:
    @pytest.mark.parametrize(
        ("data", "complaint"),
        [
            (b"", "is empty; expected an .onnx file"),
            (b"hello, world, this is text", "is not an ONNX model, or is damaged"),
            (b"\x08\x0a", "holds no graph"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "is a Git LFS pointer, not the model; run `git lfs pull`",
            ),
            (b"PK\x03\x04....", "is a zip archive (a PyTorch checkpoint or a Keras model?); export it to ONNX first"),
            (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model; convert it with tf2onnx first"),
        ],
    )
    def test_what_is_not_a_model(self, data: bytes, complaint: str, tmp_path: Path) -> None:
        assert complaint in refusal(data, tmp_path)

    def test_a_truncated_model_is_called_truncated(self, tmp_path: Path) -> None:
        data = parser.parse_model(ADD).SerializeToString()
        message = refusal(data[:-20], tmp_path)
        assert message.startswith(f"is truncated: {len(data) - 20} of at least ")

    def test_every_truncation_is_refused(self, tmp_path: Path) -> None:
        data = parser.parse_model(ADD).SerializeToString()
        end_of_graph = len(data) - len(
            ModelProto(opset_import=parser.parse_model(ADD).opset_import).SerializeToString()
        )
        for length in range(end_of_graph):
            refusal(data[:length], tmp_path)

    def test_a_missing_file_a_folder_and_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, complaint in (("no.onnx", "no such file"), (".", "is a folder"), ("pipe", "is empty")):
            with pytest.raises(ModelError, match=complaint):
                check_model_file(tmp_path / name)

    def test_a_file_over_2_gb_cannot_be_a_protobuf(self, tmp_path: Path) -> None:
        path = tmp_path / "huge.onnx"
        with path.open("wb") as file:
            file.truncate(2**31)  # a sparse file: takes no space
        with pytest.raises(ModelError, match=r"a protobuf cannot exceed 2 GB; .* weights as external data"):
            check_model_file(path)

    def test_damaged_bytes_never_cause_anything_but_a_refusal(self, tmp_path: Path) -> None:
        good = parser.parse_model(NESTED).SerializeToString()
        chance = random.Random(0)
        for _ in range(1500):
            data = bytearray(good)
            for _ in range(chance.randint(1, 3)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path = written(bytes(data), tmp_path)
            with contextlib.suppress(ModelError):
                check_model_file(path)


NESTED = """
<ir_version: 10, opset_import: ["" : 17, "my" : 1]>
g (bool c, float[3] x) => (float[3] y) <float[3] w = {1, 2, 3}>
{
  a = Add(x, w)
  k = Constant <value = float[3] {1, 2, 3}> ()
  y = If (c) <
    then_branch = t () => (float[3] p) { p = my.f(a) },
    else_branch = e () => (float[3] q) { q = Add(a, k) }
  >
}
<domain: "my", opset_import: ["" : 17]> f (i) => (o) { o = Identity(i) }
"""


class TestQuoting:
    def test_names_stay_on_one_line_and_short(self) -> None:
        assert quoted("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
        assert len(quoted("x" * 10_000)) < 120


def test_subgraphs_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [onnx.ValueInfoProto(name="y")])
    for _ in range(MAX_NESTING):
        node = onnx.NodeProto(op_type="If", input=["x"], output=["y"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.CopyFrom(graph)
        graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="y")])
    assert "nests subgraphs too deeply; at most 24 levels are read" in refusal(helper.make_model(graph), tmp_path)
