# SPDX-License-Identifier: Apache-2.0
"""Saving: what is written is there, whole, or not at all; and it is what was to be saved."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from edgefold.errors import ModelError, UsageError
from edgefold.files.external import EXTERNAL_ABOVE
from edgefold.files.loading import load_model
from edgefold.files.saving import save_model
from edgefold.verification import check_onnx

ROWS = 300  # 300 x 3 floats: large enough to be written outside


def model_with(weights: dict[str, np.ndarray | ir.TensorProtocol]) -> ir.Model:
    """A model that holds the weights; no node reads them."""
    model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3] x) => (float[n, 3] y) { y = Identity(x) }""")
    for name, weight in weights.items():
        tensor = ir.Tensor(weight, name=name) if isinstance(weight, np.ndarray) else weight
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        model.graph.initializers.add(value)
    return model


def big(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((ROWS, 3)).astype(np.float32)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhatIsWritten:
    def test_small_models_are_one_file(self, tmp_path: Path) -> None:
        save_model(model_with({"w": big()}), tmp_path / "m.onnx")
        assert names(tmp_path) == ["m.onnx"]
        assert np.array_equal(load_model(tmp_path / "m.onnx").model.graph.initializers["w"].const_value.numpy(), big())

    def test_the_limit_for_one_file_is_64_mb(self, tmp_path: Path) -> None:
        assert EXTERNAL_ABOVE == 64 * 2**20
        save_model(model_with({"w": np.zeros(2**24, np.float32)}), tmp_path / "at.onnx")
        save_model(model_with({"w": np.zeros(2**24 + 1, np.float32)}), tmp_path / "above.onnx")
        assert names(tmp_path) == ["above.onnx", "above.onnx.data", "at.onnx"]

    def test_external_tensors_start_at_multiples_of_64(self, tmp_path: Path) -> None:
        weights = {"a": big(1)[:299], "b": big(2)[:298], "c": big(3), "tiny": np.ones(3, np.float32)}
        save_model(model_with(weights), tmp_path / "m.onnx", external=True)
        proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
        where = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}
        assert where["tiny"] == {}
        offsets = [int(where[name]["offset"]) for name in "abc"]
        assert offsets == [0, 3648, 7232]
        assert all(offset % 64 == 0 for offset in offsets)
        assert {where[name]["location"] for name in "abc"} == {"m.onnx.data"}
        assert (tmp_path / "m.onnx.data").stat().st_size == 7232 + big().nbytes
        onnx.checker.check_model(str(tmp_path / "m.onnx"))
        loaded = load_model(tmp_path / "m.onnx").model.graph.initializers
        assert all(np.array_equal(loaded[name].const_value.numpy(), weight) for name, weight in weights.items())

    def test_onnx_runtime_maps_it(self, tmp_path: Path) -> None:
        model = ir.from_onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 300] x, float[300, 3] w) => (float[1, 3] y) { y = MatMul(x, w) }""")
        weight = model.graph.inputs.pop()
        weight.const_value = ir.Tensor(big(), name="w")
        model.graph.initializers.add(weight)
        save_model(model, tmp_path / "m.onnx", external=True)
        row = np.ones((1, ROWS), np.float32)
        (output,) = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": row})
        assert np.allclose(output, row @ big(), atol=ROWS * np.finfo(np.float32).eps)

    @pytest.mark.parametrize("external", [True, False])
    def test_every_data_type_comes_back(self, external: bool, tmp_path: Path) -> None:
        types = [t for t in ir.DataType if t not in (ir.DataType.UNDEFINED, ir.DataType.STRING)]
        weights = {t.name: ir.Tensor(np.ones((40, 101), t.numpy()), dtype=t, name=t.name) for t in types}
        save_model(model_with(weights), tmp_path / "m.onnx", external=external)
        loaded = load_model(tmp_path / "m.onnx").model.graph.initializers
        for name, tensor in weights.items():
            assert loaded[name].dtype == tensor.dtype
            assert loaded[name].const_value.tobytes() == tensor.tobytes()

    def test_strings_stay_inside(self, tmp_path: Path) -> None:
        tensor = ir.StringTensor([b"abcdefgh"] * 1000, shape=ir.Shape([1000]), name="s")
        save_model(model_with({"s": tensor}), tmp_path / "m.onnx", external=True)
        assert load_model(tmp_path / "m.onnx").model.graph.initializers["s"].const_value.numpy()[999] == b"abcdefgh"

    def test_a_tensor_held_twice_is_written_once(self, tmp_path: Path) -> None:
        tensor = ir.Tensor(big(), name="shared")
        save_model(model_with({"a": tensor, "b": tensor}), tmp_path / "m.onnx", external=True)
        assert (tmp_path / "m.onnx.data").stat().st_size == big().nbytes
        loaded = load_model(tmp_path / "m.onnx").model.graph.initializers
        assert np.array_equal(loaded["a"].const_value.numpy(), loaded["b"].const_value.numpy())

    def test_the_ir_version_is_10_unless_a_type_needs_more(self, tmp_path: Path) -> None:
        for dtype, version in ((ir.DataType.FLOAT, 10), (ir.DataType.FLOAT4E2M1, 11), (ir.DataType.INT2, 13)):
            tensor = ir.Tensor(np.ones(8, dtype.numpy()), dtype=dtype, name="w")
            save_model(model_with({"w": tensor}), tmp_path / "m.onnx")
            assert onnx.load(tmp_path / "m.onnx").ir_version == version

    def test_the_model_is_not_changed(self, tmp_path: Path) -> None:
        model = model_with({"w": big()})
        before = ir.to_proto(model).SerializeToString()
        save_model(model, tmp_path / "m.onnx", external=True)
        assert ir.to_proto(model).SerializeToString() == before

    def test_a_large_model_in_one_file_is_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        tensor = ir.LazyTensor(
            lambda: pytest.fail("the weights were read"),
            dtype=ir.DataType.FLOAT,
            shape=ir.Shape([2**29]),
            name="w",
        )
        with pytest.raises(
            ModelError, match=r"needs 21474837\d\d bytes and one file holds at most 2 GB; write external data"
        ):
            save_model(model_with({"w": tensor}), tmp_path / "m.onnx", external=False)
        assert names(tmp_path) == []


class TestSavingWhatWasLoaded:
    @pytest.fixture
    def loaded(self, tmp_path: Path) -> ir.Model:
        (tmp_path / "from").mkdir()
        (tmp_path / "to").mkdir()
        save_model(model_with({"w": big()}), tmp_path / "from" / "m.onnx", external=True)
        return load_model(tmp_path / "from" / "m.onnx").model

    @pytest.mark.parametrize("external", [True, False])
    def test_the_data_are_copied_and_the_source_stays(self, external: bool, loaded: ir.Model, tmp_path: Path) -> None:
        source = {path: path.read_bytes() for path in (tmp_path / "from").iterdir()}
        save_model(loaded, tmp_path / "to" / "m.onnx", external=external)
        assert names(tmp_path / "to") == ["m.onnx", "m.onnx.data"][: 1 + external]
        assert {path: path.read_bytes() for path in (tmp_path / "from").iterdir()} == source
        for path in source:
            path.unlink()
        copied = load_model(tmp_path / "to" / "m.onnx").model
        assert np.array_equal(copied.graph.initializers["w"].const_value.numpy(), big())

    def test_external_attributes_are_taken_inside(self, tmp_path: Path) -> None:
        (tmp_path / "w.bin").write_bytes(big().tobytes())
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g () => (float[300, 3] y) { y = Constant <value = float[1] {1}> () }""")
        tensor = proto.graph.node[0].attribute[0].t
        tensor.CopyFrom(numpy_helper.from_array(big()))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        (tmp_path / "to").mkdir()
        save_model(load_model(tmp_path / "m.onnx").model, tmp_path / "to" / "m.onnx", external=True)
        (output,) = ort.InferenceSession(str(tmp_path / "to" / "m.onnx")).run(None, {})
        assert np.array_equal(output, big())

    def test_the_file_the_weights_come_from_is_never_replaced(self, loaded: ir.Model, tmp_path: Path) -> None:
        before = (tmp_path / "from" / "m.onnx.data").read_bytes()
        with pytest.raises(UsageError, match="is the file that the model's weights are read from"):
            save_model(loaded, tmp_path / "from" / "m.onnx", external=True)
        assert (tmp_path / "from" / "m.onnx.data").read_bytes() == before


class TestNothingHalfWritten:
    @pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
    def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(
        self, failure: type[BaseException], tmp_path: Path
    ) -> None:
        def interrupt() -> ir.Tensor:
            raise failure

        save_model(model_with({"w": big()}), tmp_path / "m.onnx", external=True)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        lazy = ir.LazyTensor(interrupt, dtype=ir.DataType.FLOAT, shape=ir.Shape([1000]), name="z")
        expected = UsageError if isinstance(failure, OSError) else failure
        with pytest.raises(expected):
            save_model(model_with({"w": big(1), "z": lazy}), tmp_path / "m.onnx", external=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_full_disk_is_one_line(self, tmp_path: Path) -> None:
        """A limit on the size of files, in a process of its own, stands for a full disk."""
        program = textwrap.dedent("""
            import resource, signal, sys
            from pathlib import Path
            import numpy as np, onnx_ir as ir
            from edgefold.errors import UsageError
            from edgefold.files.saving import save_model
            text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
            model = ir.from_onnx_text(text)
            tensor = ir.Tensor(np.zeros(100_000, np.float32), name="w")
            model.graph.initializers.add(ir.Value(name="w", const_value=tensor))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
            for external in (True, False):
                try:
                    save_model(model, Path(sys.argv[1]), external)
                except UsageError as error:
                    sys.stdout.write(f"{error}\\n")
        """)
        path = tmp_path / "m.onnx"
        result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        line = f"{path}: cannot be written: the disk is full or the file size is limited; free some space\n"
        assert result.stdout == 2 * line
        assert names(tmp_path) == []

    def test_a_folder_that_does_not_exist_or_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for path, reason in (("no/m.onnx", "No such file or directory"), ("file/m.onnx", "Not a directory")):
            with pytest.raises(UsageError, match=f"cannot be written: {reason}.*; choose another place"):
                save_model(model_with({}), tmp_path / path)

    def test_a_link_in_the_place_of_the_output_is_replaced_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("precious")
        (tmp_path / "m.onnx").symlink_to(tmp_path / "precious")
        save_model(model_with({}), tmp_path / "m.onnx")
        assert (tmp_path / "precious").read_text() == "precious"
        assert not (tmp_path / "m.onnx").is_symlink()


def test_weights_beside_a_small_model_pass_the_check_between_steps(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(model_with({"w": big()}), path, external=True)
    check_onnx(load_model(path).model)  # run from another folder than the weights lie in
