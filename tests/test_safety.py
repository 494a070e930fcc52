# SPDX-License-Identifier: Apache-2.0
"""Nothing that a model file says is believed: places, sizes and structure, each with its one-line refusal."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from edgefold.confine import confined, external_range
from edgefold.errors import ModelError
from edgefold.quoting import quoted
from edgefold.safety import MAX_NESTING, check_model_file, check_tensor

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


def external(location: str, *, dims: tuple[int, ...] = (2,), name: str = "w", **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
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


class TestPlaces:
    @pytest.mark.parametrize(
        ("location", "complaint"),
        [
            ("", "is not a file name"),
            ("a\nb", "is not a file name"),
            ("a\0b", "is not a file name"),
            ("/etc/passwd", "is absolute"),
            ("\\\\server\\share\\w", "is absolute"),
            ("C:\\w.bin", "is absolute"),
            ("C:/w.bin", "is absolute"),
            ("..", "has a '..'"),
            ("a/../../b", "has a '..'"),
            ("a\\..\\..\\b", "has a '..'"),
            ("nothing.bin", "is missing; put it beside the model file"),
            (".", "is not a regular file"),
            ("folder", "is not a regular file"),
            ("pipe", "is not a regular file"),
            ("link_out", "is a link that leads out of the model's folder; copy the files with the links resolved"),
            ("folder_out/secret", "is a link that leads out of the model's folder"),
            ("loop", "cannot be read"),
            ("hard", "has 2 hard links"),
            ("x" * 5000, "cannot be read: File name too long"),
        ],
    )
    def test_refused(self, location: str, complaint: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError) as caught:
            confined(self.furnish(tmp_path), location)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        "location", ["w.bin", "./w.bin", "folder/w.bin", "link_in", "onnx::MatMul_12", "..w", "w:0"]
    )
    def test_accepted(self, location: str, tmp_path: Path) -> None:
        folder = self.furnish(tmp_path)
        path = confined(folder, location)
        assert path.is_file()
        assert path.is_relative_to(folder)

    def test_a_model_folder_reached_through_a_link_is_fine(self, tmp_path: Path) -> None:
        folder = self.furnish(tmp_path)
        (tmp_path / "alias").symlink_to(folder)
        assert confined(tmp_path / "alias", "w.bin") == folder / "w.bin"

    @settings(max_examples=300, deadline=None)
    @given(
        parts=st.lists(
            st.sampled_from(
                ["..", ".", "", "folder", "folder_out", "w.bin", "link_out", "link_in", "secret", "C:", "~"]
            ),
            min_size=1,
            max_size=6,
        ),
        separator=st.sampled_from(["/", "\\", "//"]),
    )
    def test_whatever_the_path_the_file_lies_inside_or_it_is_refused(
        self, parts: list[str], separator: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = self.shared(tmp_path_factory)
        try:
            path = confined(folder, separator.join(parts))
        except ModelError:
            return
        assert os.path.realpath(path) == str(path)
        assert path.is_relative_to(folder)
        assert path.is_file()

    @settings(max_examples=200, deadline=None)
    @given(location=st.text(max_size=30))
    def test_any_text_is_refused_in_one_line(self, location: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = self.shared(tmp_path_factory)
        try:
            assert confined(folder, location).is_relative_to(folder)
        except ModelError as error:
            assert len(str(error).splitlines()) == 1

    _shared: Path | None = None

    @classmethod
    def shared(cls, factory: pytest.TempPathFactory) -> Path:
        if cls._shared is None:
            cls._shared = cls.furnish(factory.mktemp("confined"))
        return cls._shared

    @staticmethod
    def furnish(root: Path) -> Path:
        """A model's folder with files, links that stay inside, and links that lead out."""
        root = root.resolve()
        folder, outside = root / "model", root / "outside"
        (folder / "folder").mkdir(parents=True)
        outside.mkdir()
        (outside / "secret").write_bytes(bytes(8))
        for name in ("w.bin", "folder/w.bin", "onnx::MatMul_12", "..w", "w:0"):
            (folder / name).write_bytes(bytes(8))
        (folder / "link_in").symlink_to("folder/w.bin")
        (folder / "link_out").symlink_to(outside / "secret")
        (folder / "folder_out").symlink_to(outside)
        (folder / "loop").symlink_to("loop")
        (folder / "hard").hardlink_to(outside / "secret")
        os.mkfifo(folder / "pipe")
        return folder


class TestRanges:
    @pytest.mark.parametrize(
        ("entries", "complaint"),
        [
            ({"offset": "-1"}, "offset '-1' is not a non-negative whole number"),
            ({"offset": "1_0"}, "offset '1_0' is not a non-negative whole number"),
            ({"offset": "٣"}, "offset '٣' is not a non-negative whole number"),
            ({"length": "0x8"}, "length '0x8' is not a non-negative whole number"),
            ({"length": "9" * 40}, "is not a non-negative whole number"),
            ({"length": "4"}, "is 4 bytes long, but dims and data type ask for 8"),
            ({"length": str(2**50)}, f"is {2**50} bytes long, but dims and data type ask for 8"),
            ({"offset": "4"}, "needs bytes 4 to 12 of 'w.bin', which has 8; the file is truncated"),
            ({"offset": str(2**62), "length": "8"}, "which has 8; the file is truncated"),
        ],
    )
    def test_refused(self, entries: dict[str, str], complaint: str, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(bytes(8))
        assert complaint in refusal(with_weight(external("w.bin", **entries)), tmp_path)

    def test_a_key_given_twice_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(bytes(8))
        tensor = external("w.bin")
        tensor.external_data.add(key="location", value="../secret")
        assert "external data gives 'location' twice" in refusal(with_weight(tensor), tmp_path)

    def test_a_missing_location_is_refused(self, tmp_path: Path) -> None:
        tensor = external("w.bin")
        del tensor.external_data[:]
        assert "external data without a location" in refusal(with_weight(tensor), tmp_path)

    @settings(deadline=None)
    @given(offset=st.integers(0, 40), count=st.integers(0, 10))
    def test_a_range_is_accepted_exactly_when_the_file_has_it(
        self, offset: int, count: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = TestPlaces.shared(tmp_path_factory)
        tensor = external("w.bin", dims=(count,), offset=str(offset))
        try:
            found = external_range(tensor, 4 * count, folder)
        except ModelError:
            assert offset + 4 * count > 8
        else:
            assert (found.offset, found.length) == (offset, 4 * count)
            assert offset + 4 * count <= 8


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

    @pytest.mark.parametrize("data_type", [t for t in TensorProto.DataType.values() if t != TensorProto.UNDEFINED])
    @pytest.mark.parametrize("raw", [True, False])
    @pytest.mark.parametrize("count", [0, 1, 3, 4])
    def test_what_onnx_makes_is_accepted(self, data_type: int, raw: bool, count: int, tmp_path: Path) -> None:
        if data_type == TensorProto.STRING:
            if raw:
                pytest.skip("strings have no raw form")
            tensor = helper.make_tensor("w", data_type, [count], [b"a"] * count)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(data_type)
            array = np.ones(count, dtype)
            if raw:
                tensor = numpy_helper.from_array(array, "w")
            else:
                tensor = helper.make_tensor("w", data_type, [count], array)
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
            try:
                check_model_file(path)
            except ModelError as error:
                assert len(str(error).splitlines()) == 1


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
